"""Profiles and notifications on both databases, with several writers at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.errors import NotAuthenticated, NotFound, StoreUnavailable
from backend.models import ActionLog, Notification, Profile, User
from backend.services import accounts, notifications
from backend.services.audit import Audit, Wanted, record
from backend.services.database import Database
from backend.services.notifications import MOST_PER_USER, Notifications, notify
from backend.services.profiles import Person, Profiles
from backend.services.tokens import Principal
from tests.support.stores import KINDS, store

ANN = Principal(1, "ann@school.example", "student", "0" * 32, 0)
BOB = 2


@pytest_asyncio.fixture(params=KINDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with store(request.param, tmp_path) as opened:

        def people(session: Session) -> None:
            for email in (ANN.email, "bob@school.example"):
                accounts.insert(session, email, "hash", "student")

        await opened.run(people)
        yield opened


async def lose_profile(database: Database) -> None:
    await database.run(lambda s: s.execute(delete(Profile).where(Profile.user_id == ANN.user_id)).close())


async def lose_account(database: Database) -> None:
    await database.run(lambda s: s.execute(delete(User).where(User.id == ANN.user_id)).close())


async def actions(database: Database) -> list[Any]:
    rows = select(ActionLog.details).order_by(ActionLog.id)
    return await database.run(lambda session: list(session.scalars(rows)))


@pytest.mark.asyncio
async def test_change_sets_what_was_said_and_nothing_else(database: Database) -> None:
    profiles = Profiles(database)
    assert await profiles.change(ANN, {"full_name": "Ann Lee", "bio": "x"})
    assert await profiles.change(ANN, {"bio": ""}) == {"bio": ("x", "")}
    assert await profiles.of(ANN.user_id) == Person(
        ANN.email, "student", "ann", "Ann Lee", "", phone="", avatar_url=None
    )
    assert (await profiles.of(BOB)).full_name == ""


@pytest.mark.asyncio
async def test_changes_are_noted_with_old_and_new_values_and_repeated_ones_are_not(
    database: Database,
) -> None:
    for _ in range(2):
        await Profiles(database).change(ANN, {"username": "Ann", "phone": "1"})
    assert await actions(database) == [{"username": ["ann", "Ann"], "phone": ["", "1"]}]


@pytest.mark.asyncio
async def test_writers_at_once_lose_nothing_of_each_other(database: Database) -> None:
    profiles = Profiles(database)
    bios = [f"bio {n}" for n in range(8)]
    names = {"full_name": "Ann Lee"}, {"phone": "+1"}, {"username": "Ann"}
    await asyncio.gather(
        *(profiles.change(ANN, {"bio": bio}) for bio in bios), *(profiles.change(ANN, one) for one in names)
    )
    person = await profiles.of(ANN.user_id)
    assert (person.username, person.full_name, person.phone) == ("Ann", "Ann Lee", "+1")
    trail = [row["bio"] for row in await actions(database) if "bio" in row]
    # Each one replaced what the one before it had written, and the last one stands.
    assert [old for old, _ in trail] == ["", *(new for _, new in trail[:-1])]
    assert person.bio == trail[-1][1]


@pytest.mark.asyncio
async def test_missing_profile_is_made_on_the_fly_once(database: Database) -> None:
    profiles = Profiles(database)
    await lose_profile(database)
    assert (await profiles.of(ANN.user_id)).username == "ann"
    await asyncio.gather(*(profiles.change(ANN, {"bio": f"{n}"}) for n in range(6)))
    count = select(func.count()).select_from(Profile).where(Profile.user_id == ANN.user_id)
    assert await database.run(lambda session: session.execute(count).scalar_one()) == 1


@pytest.mark.asyncio
async def test_deleted_account_with_a_live_token_is_told_to_sign_in(database: Database) -> None:
    profiles = Profiles(database)
    await lose_account(database)
    with pytest.raises(NotAuthenticated):
        await profiles.of(ANN.user_id)
    with pytest.raises(NotAuthenticated):
        await profiles.change(ANN, {"bio": "x"})
    with pytest.raises(NotAuthenticated):
        await profiles.set_picture(ANN.user_id, "/static/avatars/x.jpg")


@pytest.mark.asyncio
async def test_two_pictures_at_once_replace_one_another_in_a_row(database: Database) -> None:
    profiles = Profiles(database)
    urls = [f"/static/avatars/{n}.jpg" for n in range(5)]
    former = await asyncio.gather(*(profiles.set_picture(ANN.user_id, url) for url in urls))
    last = (await profiles.of(ANN.user_id)).avatar_url
    assert sorted([*former, last], key=str) == sorted([None, *urls], key=str)


@pytest.mark.asyncio
async def test_notifications_are_each_users_own_newest_first(database: Database) -> None:
    bell = Notifications(database)
    for number in range(5):
        await bell.tell(ANN.user_id, f"title {number}", "text", "warning")
    page = await bell.page(ANN.user_id, is_read=None, offset=0, limit=3)
    assert [row.title for row in page.notifications] == ["title 4", "title 3", "title 2"]
    assert (page.total, page.unread_count) == (6, 6)
    await bell.mark_read(ANN.user_id, page.notifications[0].id)
    await bell.mark_read(ANN.user_id, page.notifications[0].id)  # again, and nothing happens
    read = await bell.page(ANN.user_id, is_read=True, offset=0, limit=10)
    assert ([row.title for row in read.notifications], read.total, read.unread_count) == (["title 4"], 1, 5)
    assert (await bell.page(ANN.user_id, is_read=False, offset=4, limit=10)).notifications[0].title == (
        "Welcome"
    )
    assert (await bell.page(BOB, is_read=None, offset=0, limit=10)).total == 1
    with pytest.raises(NotFound):
        await bell.mark_read(BOB, page.notifications[0].id)


@pytest.mark.asyncio
async def test_two_hundred_notifications_are_kept_however_many_arrive_at_once(database: Database) -> None:
    bell = Notifications(database)

    def many(session: Session) -> None:
        session.add_all(Notification(user_id=ANN.user_id, title=f"{n}", message="") for n in range(250))

    await database.run(many)
    await asyncio.gather(*(bell.tell(ANN.user_id, f"late {n}", "") for n in range(6)))
    page = await bell.page(ANN.user_id, is_read=None, offset=0, limit=300)
    assert page.total == MOST_PER_USER
    assert {row.title for row in page.notifications[:6]} == {f"late {n}" for n in range(6)}
    assert (await bell.page(BOB, is_read=None, offset=0, limit=1)).total == 1


@pytest.mark.asyncio
async def test_telling_somebody_who_is_gone_does_nothing(database: Database) -> None:
    await lose_account(database)
    await database.run(lambda session: notify(session, ANN.user_id, "t" * 500, "m"))
    count = select(func.count()).select_from(Notification).where(Notification.user_id == ANN.user_id)
    assert await database.run(lambda session: session.execute(count).scalar_one()) == 0


@pytest.mark.asyncio
async def test_telling_never_fails_and_never_takes_long(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stuck(Database):
        def __init__(self) -> None:
            pass

        async def run(self, work: Any) -> Any:
            await asyncio.Event().wait()

    class Away(Stuck):
        async def run(self, work: Any) -> Any:
            raise StoreUnavailable

    monkeypatch.setattr(notifications, "TELLING_SECONDS", 0.05)
    await Notifications(Stuck()).avatar_ready(ANN.user_id, "Ada")
    await Notifications(Away()).avatar_ready(ANN.user_id, "Ada")
    assert caplog.text.count("a notification was not stored") == 2


@pytest.mark.asyncio
async def test_trail_is_searched_by_parts_in_any_case_and_signs_of_patterns_are_text(
    database: Database,
) -> None:
    def fill(session: Session) -> None:
        for who, what in (
            ("Tutor_1@School.example", "update_user"),
            ("tutorX1@school.example", "updateXuser"),
            ("50%@school.example", "delete_user"),
        ):
            record(session, what, operator=(who, "tutor"), target=(7, "ann@school.example"))

    await database.run(fill)
    audit = Audit(database)

    async def found(**wanted: str) -> list[str]:
        rows, total = await audit.page(Wanted(**wanted), offset=0, limit=10)
        assert total == len(rows)
        return [row.operator_email[:6] for row in rows]

    assert await found() == ["50%@sc", "tutorX", "Tutor_"]
    assert await found(operator_email="TUTOR_1") == ["Tutor_"]
    assert await found(operator_email="%") == ["50%@sc"]
    assert await found(action="update_user") == ["Tutor_"]
    assert await found(target_user_email="ANN@", action="delete") == ["50%@sc"]
    assert await found(operator_email="\\") == []
    assert await found(operator_email="' OR 1=1 --") == []
    rows, total = await audit.page(Wanted(), offset=1, limit=1)
    assert ([row.operator_email[:6] for row in rows], total) == (["tutorX"], 3)
