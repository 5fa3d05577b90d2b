"""Rounds over the table of sessions, with a scripted manager, on both databases."""

import asyncio
import json
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.errors import GatewayError
from backend.models import AvatarSession, LoginSession, User
from backend.models.avatar_session import READY, STARTING, UNSURE
from backend.models.base import utc_now
from backend.services.database import Database
from backend.services.http_client import HttpClient
from tests.support.house import House, answering, house, kept, seat
from tests.support.manager import Manager
from tests.support.peer import until
from tests.support.sessions import Clock, client, database, managed_by, met, nothing_left, port_of, rows

__all__ = ["client", "database", "kept"]


@pytest.mark.asyncio
async def test_round_over_healthy_sessions_changes_nothing(kept: House) -> None:
    for user in (1, 2):
        await kept.sessions.start(user, "Ada")
    before = await rows(kept.database)
    for _ in range(3):
        await kept.later(5)
    assert await rows(kept.database) == before
    assert kept.manager.connections == {"Ada": 2}


@pytest.mark.asyncio
async def test_start_whose_answer_was_lost_is_found_and_given_to_its_user(kept: House) -> None:
    await kept.lose_start()
    await kept.later(0)
    assert await kept.states() == [READY]
    assert (await kept.sessions.start(1, "Ada"))["is_new_instance"] is False
    assert kept.manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_lost_start_of_somebody_who_let_go_meanwhile_is_not_given_to_them(kept: House) -> None:
    await kept.lose_start()
    assert await kept.sessions.release(1) is False
    await kept.later(0)
    await nothing_left(kept.database, kept.manager)


@pytest.mark.asyncio
async def test_lost_start_of_somebody_who_started_again_is_let_go_of(kept: House) -> None:
    await kept.lose_start()
    await kept.sessions.start(1, "Ada")
    assert kept.manager.connections == {"Ada": 2}
    await kept.later(0)
    await until(lambda: kept.manager.connections == {"Ada": 1})
    await met(lambda found: [row.state for row in found] == [READY], kept.database)


@pytest.mark.asyncio
async def test_start_of_a_process_that_was_killed_is_found_and_freed_when_nobody_comes(kept: House) -> None:
    """The worker died between the call and its answer: the manager counts, and nobody owns it."""
    await kept.sessions.fleet.start(1, "Ada")
    lease = utc_now() + timedelta(seconds=10)
    with kept.database.transaction() as session:
        session.add(AvatarSession(user_id=1, avatar="Ada", state=STARTING, holder="dead", due_at=lease))
    await kept.later(0)
    assert await kept.states() == [STARTING]
    await kept.later(11)
    await kept.later(3)
    assert await kept.states() == [READY]
    await kept.later(61)
    await nothing_left(kept.database, kept.manager)


@pytest.mark.asyncio
async def test_start_that_never_reached_the_manager_is_forgotten_in_the_end(kept: House) -> None:
    await kept.sessions.start(2, "Ada")
    soon = utc_now() + timedelta(seconds=100)
    with kept.database.transaction() as session:
        session.add(AvatarSession(user_id=1, avatar="Ada", state=UNSURE, due_at=soon))
    await kept.later(1)
    assert await kept.states() == [READY, UNSURE]
    await kept.sessions.seat_of(2)
    await seat(kept.sessions, 2, 5)
    await kept.later(101)
    assert await kept.states() == [READY]
    assert kept.manager.connections == {"Ada": 1}


@pytest.mark.asyncio
async def test_release_whose_answer_was_lost_takes_nobody_along(kept: House) -> None:
    kept.manager.deaf = {"/avatar/disconnect"}
    for user in (1, 2):
        await kept.sessions.start(user, "Ada")
    await seat(kept.sessions, 2, 5)
    await kept.sessions.release(1)
    await met(lambda found: sorted(row.state for row in found) == [READY, UNSURE], kept.database)
    assert kept.manager.connections == {"Ada": 1}
    kept.manager.deaf.clear()
    await kept.later(1)
    await kept.later(200)
    assert await kept.states() == [READY]
    assert kept.manager.connections == {"Ada": 1}
    assert kept.manager.changes.count("/avatar/disconnect") == 1


@pytest.mark.asyncio
async def test_release_that_was_surely_not_done_is_done_in_the_next_round(kept: House) -> None:
    await kept.sessions.start(1, "Ada")
    kept.manager.broken["/avatar/disconnect"] = (b"429 Too Many Requests", b"")
    await kept.sessions.release(1)
    await met(lambda found: found[0].state == "leaving" and found[0].holder is None, kept.database)
    kept.manager.broken.clear()
    await kept.later(1)
    await nothing_left(kept.database, kept.manager)


@pytest.mark.asyncio
async def test_instance_that_is_gone_is_forgotten_for_all_its_users(kept: House) -> None:
    await kept.sessions.start(1, "Ada")
    await kept.sessions.start(2, "Ada")
    await kept.sessions.start(3, "Bo")
    del kept.manager.running["Ada"]
    await kept.later(1)
    assert [await port_of(kept.sessions, user) for user in (1, 2, 3)] == [None, None, 8616]


@pytest.mark.asyncio
async def test_port_that_was_given_to_another_avatar_is_noticed_before_anyone_is_sent_there(
    kept: House,
) -> None:
    await kept.sessions.start(1, "Ada")
    taken = kept.manager.running.pop("Ada")
    kept.manager.running["Eve"] = taken | {"real_avatar_name": "Eve", "avatar_id": "Eve_user_9"}
    await kept.later(1)
    assert await port_of(kept.sessions, 1) is None
    assert kept.manager.running["Eve"]["connections"] == 1


@pytest.mark.asyncio
async def test_instance_that_was_restarted_elsewhere_counts_anew_and_is_freed(kept: House) -> None:
    """The manager counts one connection then, which is nobody's."""
    for user in (1, 2):
        await kept.sessions.start(user, "Ada")
    kept.manager.running["Ada"] |= {"port": 8700, "connections": 1}
    await kept.later(1)
    assert await port_of(kept.sessions, 1) is None
    await kept.later(1)
    await nothing_left(kept.database, kept.manager)


@pytest.mark.asyncio
async def test_users_whom_a_restarted_manager_has_forgotten_take_nobody_along(kept: House) -> None:
    for user in (1, 2, 3):
        await kept.sessions.start(user, "Ada")
    kept.manager.running["Ada"]["connections"] = 1
    await kept.later(1)
    for user in (1, 2):
        await kept.sessions.release(user)
    await met(lambda found: len(found) == 1, kept.database)
    assert kept.manager.connections == {"Ada": 1}
    assert "/avatar/disconnect" not in kept.manager.calls
    await kept.sessions.release(3)
    await nothing_left(kept.database, kept.manager)


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["signed out", "expired", "banned", "deleted"])
async def test_user_whose_sign_in_ended_keeps_no_instance(kept: House, end: str) -> None:
    for user in (1, 2):
        await kept.sessions.start(user, "Ada")

    def ended(session: Session) -> None:
        mine = update(LoginSession).where(LoginSession.user_id == 1)
        if end == "signed out":
            session.execute(mine.values(jti=None))
        elif end == "expired":
            session.execute(mine.values(expires_at=utc_now() - timedelta(minutes=3)))
        elif end == "banned":
            session.execute(update(User).where(User.id == 1).values(status="banned"))
        else:
            session.delete(session.get(User, 1))

    await kept.database.run(ended)
    await kept.later(1)
    await until(lambda: kept.manager.connections == {"Ada": 1})
    assert await port_of(kept.sessions, 1) is None
    assert await port_of(kept.sessions, 2) == 8615


@pytest.mark.asyncio
async def test_user_who_makes_no_offer_or_says_nothing_for_long_keeps_no_instance(kept: House) -> None:
    for user in (1, 2, 3):
        await kept.sessions.start(user, "Ada")
    await seat(kept.sessions, 2, 222222)
    await seat(kept.sessions, 3, 333333)
    await kept.later(61)
    assert [await port_of(kept.sessions, user) for user in (1, 2, 3)] == [None, 8615, 8615]
    await kept.sessions.notes.write_uses()
    await kept.later(1000)
    await kept.sessions.seat_of(3)
    await kept.sessions.notes.write_uses()
    await kept.later(1000)
    assert [await port_of(kept.sessions, user) for user in (1, 2, 3)] == [None, None, 8615]
    await until(lambda: kept.manager.connections == {"Ada": 1})


@pytest.mark.asyncio
async def test_instance_in_use_is_not_taken_for_idle_by_the_manager(kept: House) -> None:
    await kept.sessions.start(1, "Ada")
    await seat(kept.sessions, 1, 111111)
    await kept.later(1100)
    assert kept.manager.changes == ["/avatar/start"]
    await kept.later(120)
    await until(lambda: kept.manager.changes == ["/avatar/start", "/avatar/start", "/avatar/disconnect"])
    await until(lambda: kept.manager.connections == {"Ada": 1})
    await kept.later(60)
    await kept.later(60)
    assert len(kept.manager.changes) == 3
    assert await port_of(kept.sessions, 1) == 8615


@pytest.mark.asyncio
async def test_unsure_start_waits_while_somebody_else_starts_the_same_avatar(kept: House) -> None:
    """What the manager counts may be the other one's."""
    now = utc_now()
    with kept.database.transaction() as session:
        later = now + timedelta(seconds=100)
        session.add(AvatarSession(user_id=1, avatar="Ada", state=UNSURE, due_at=later))
        session.add(AvatarSession(user_id=2, avatar="Ada", state=STARTING, holder="x", due_at=later))
    await kept.sessions.fleet.start(2, "Ada")
    await kept.later(1)
    assert await kept.states() == [UNSURE, STARTING]


@pytest.mark.asyncio
async def test_one_process_at_a_time_keeps_house_and_another_takes_over(
    database: Database, client: HttpClient
) -> None:
    manager, clock = Manager(), Clock()
    async with managed_by(manager, database, client, processes=2, now=clock) as (one, other):
        assert await one.leases.take("work")
        assert not await other.leases.take("work")
        assert await one.leases.take("work")
        clock.ahead += timedelta(seconds=30)
        assert await other.leases.take("work")
        assert not await one.leases.take("work")
        await other.leases.give_back("work")
        assert await one.leases.take("work")


@pytest.mark.asyncio
async def test_keeper_that_runs_clears_up_by_itself(kept: House) -> None:
    await kept.sessions.start(1, "Ada")
    kept.manager.running.clear()
    kept.keeper.start()
    await met(lambda found: not found, kept.database)
    await kept.keeper.aclose()


@pytest.mark.asyncio
async def test_silent_manager_loses_nobodys_session(kept: House) -> None:
    await kept.sessions.start(1, "Ada")
    for content in (b"", b"[]", b'{"status":"success"}', b'{"status":"error"}', b'{"data":null}'):
        kept.manager.broken["/avatar/list"] = (b"200 OK", content)
        with pytest.raises(GatewayError):
            await kept.later(1)
    assert await port_of(kept.sessions, 1) == 8615


ODD: list[Any] = [None, 5, "x", {}, {"avatar_id": 5}, {"avatar_id": "a", "port": True}, [1]]


@pytest.mark.asyncio
async def test_nonsense_in_the_managers_list_hides_nobody(kept: House) -> None:
    await kept.sessions.start(1, "Ada")
    listed = [*ODD, kept.manager.running["Ada"]]
    content = json.dumps({"status": "success", "data": listed}).encode()
    kept.manager.broken["/avatar/list"] = (b"200 OK", content)
    await kept.later(1)
    assert await port_of(kept.sessions, 1) == 8615


@pytest.mark.asyncio
async def test_storm_of_starts_and_releases_leaves_exactly_what_is_owned(
    database: Database, client: HttpClient
) -> None:
    """Lost answers, called-off starts and switches of ten users at once, while the keeper goes round."""
    manager = Manager(capacity=3)
    async with house(manager, database, client, users=10) as kept:

        async def user(number: int) -> None:
            for turn in range(4):
                with suppress(GatewayError):
                    await kept.sessions.start(number, ("Ada", "Bo", "Cy")[(number + turn) % 3])
                if (number + turn) % 4 == 0:
                    await kept.sessions.release(number)

        async def deafness() -> None:
            for turn in range(6):
                manager.deaf = {"/avatar/start"} if turn % 3 == 0 else set()
                await asyncio.sleep(0.05)
                with suppress(GatewayError):  # the manager is left alone after so many failures
                    await kept.keeper.round()

        await asyncio.gather(*(user(number) for number in range(1, 11)), deafness())
        manager.deaf.clear()
        await answering(kept)
        for _ in range(3):
            await kept.later(1)
        await met(lambda found: all(row.state in (READY, UNSURE) for row in found), database)
        found = await rows(database)
        owned = Counter(row.avatar for row in found if row.state == READY)
        # An end whose answer was lost may be counted until it is settled; nothing else is.
        unsure = Counter(row.avatar for row in found if row.state == UNSURE)
        counted = Counter(manager.connections)
        assert owned <= counted <= owned + unsure
        for number in range(1, 11):
            await kept.sessions.release(number)
        await until(lambda: not manager.connections)
        # A round does what it can: a busy machine's unanswered calls are left to the next.
        for _ in range(5):
            with suppress(GatewayError):
                await kept.later(200)
        await nothing_left(database, manager)
