"""The rules for changing other people's accounts, on both databases, also when two do it at once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.errors import BadRequest, Conflict, NotFound
from backend.models import ActionLog, Notification, Profile, User
from backend.services import account_changes, accounts
from backend.services.account_changes import AT_THE_COMMAND_LINE, Operator
from backend.services.database import Database
from tests.support.stores import KINDS, store

EVERYTHING = {
    "email": "new@school.example",
    "role": "tutor",
    "status": "inactive",
    "username": "Ann",
    "full_name": "Ann Lee",
    "phone": "+1 555",
    "bio": "Physics\nand maths",
}


@dataclass
class School:
    database: Database
    ann: int  # a tutor
    bob: int  # another one
    sue: int  # a student

    def change(self, user_id: int, operator: Operator = AT_THE_COMMAND_LINE, **fields: str) -> Any:
        return self.run(lambda session: account_changes.change(session, operator, user_id, fields))

    def delete(
        self, user_id: int, operator: Operator = AT_THE_COMMAND_LINE, reason: str | None = None
    ) -> Any:
        return self.run(lambda session: account_changes.delete(session, operator, user_id, reason))

    async def run(self, work: Callable[[Session], Any]) -> Any:
        return await self.database.run(work)

    async def tutors(self) -> list[int]:
        fit = select(User.id).where(User.role == "tutor", User.status == "active").order_by(User.id)
        return list(await self.run(lambda session: session.scalars(fit).all()))

    async def logged(self) -> ActionLog:
        latest = select(ActionLog).order_by(ActionLog.id.desc()).limit(1)
        found: ActionLog = await self.run(lambda session: session.scalars(latest).one())
        return found

    def as_tutor(self, user_id: int) -> Operator:
        return Operator(user_id, f"{user_id}@school.example", "tutor")


@pytest_asyncio.fixture(params=KINDS)
async def school(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[School]:
    async with store(request.param, tmp_path) as database:

        def people(session: Session) -> list[int]:
            roles = {"ann": "tutor", "bob": "tutor", "sue": "student"}
            return [
                accounts.insert(session, f"{name}@school.example", "hash", role).id
                for name, role in roles.items()
            ]

        yield School(database, *await database.run(people))


@pytest.mark.asyncio
async def test_every_field_of_the_form_is_applied(school: School) -> None:
    changed = await school.change(school.sue, school.as_tutor(school.ann), **EVERYTHING)
    assert set(changed) == set(EVERYTHING)

    def look(session: Session) -> dict[str, str | None]:
        user = session.get_one(User, school.sue)
        own = session.scalars(select(Profile).where(Profile.user_id == school.sue)).one()
        return {
            "email": user.email,
            "role": user.role,
            "status": user.status,
            "username": own.username,
            "full_name": own.full_name,
            "phone": own.phone,
            "bio": own.bio,
        }

    assert await school.run(look) == EVERYTHING
    log = await school.logged()
    assert (log.action, log.operator_email, log.role) == (
        "update_user",
        f"{school.ann}@school.example",
        "tutor",
    )
    assert (log.target_user_id, log.target_user_email) == (school.sue, "sue@school.example")
    assert log.details is not None
    assert log.details["email"] == ["sue@school.example", "new@school.example"]
    assert log.details["full_name"] == ["", "Ann Lee"]


@pytest.mark.asyncio
async def test_the_same_form_sent_again_changes_and_notes_nothing(school: School) -> None:
    await school.change(school.sue, **EVERYTHING)
    before = await school.logged()
    assert await school.change(school.sue, **EVERYTHING) == {}
    assert (await school.logged()).id == before.id


@pytest.mark.asyncio
async def test_email_is_stored_in_its_one_spelling(school: School) -> None:
    changed = await school.change(school.sue, email="  Sue.Two@School.EXAMPLE ")
    assert changed == {"email": ("sue@school.example", "sue.two@school.example")}
    with pytest.raises(Conflict, match=r"There is an account for bob@school\.example"):
        await school.change(school.sue, email="BOB@school.example")
    with pytest.raises(BadRequest, match="An e-mail has the form"):
        await school.change(school.sue, email="a@b\r\nBcc: c@d.e")


@pytest.mark.asyncio
async def test_roles_and_states_that_do_not_exist_are_refused(school: School) -> None:
    with pytest.raises(BadRequest, match="A role is one of"):
        await school.change(school.sue, role="admin")
    with pytest.raises(BadRequest, match="A status is one of"):
        await school.change(school.sue, status="asleep")


@pytest.mark.asyncio
async def test_the_user_is_told_of_a_new_role_but_not_of_a_new_phone(school: School) -> None:
    mine = select(Notification).where(Notification.user_id == school.sue).order_by(Notification.id)

    async def titles() -> list[str]:
        rows = await school.run(lambda session: list(session.scalars(mine)))
        return [row.title for row in rows]

    await school.change(school.sue, phone="1")
    assert await titles() == ["Welcome"]
    await school.change(school.sue, role="tutor")
    assert await titles() == ["Welcome", "Your account was changed"]


@pytest.mark.asyncio
async def test_a_tutor_neither_demotes_bans_nor_deletes_herself(school: School) -> None:
    herself = school.as_tutor(school.ann)
    for field, value in (("role", "student"), ("status", "banned")):
        with pytest.raises(Conflict, match="cannot take your own role away or ban yourself"):
            await school.change(school.ann, herself, **{field: value})
    with pytest.raises(Conflict, match="cannot delete your own"):
        await school.delete(school.ann, herself)
    assert await school.tutors() == [school.ann, school.bob]
    await school.change(school.ann, herself, full_name="Ann")


LOSSES = [{"role": "student"}, {"status": "banned"}, {"status": "inactive"}, None]


@pytest.mark.asyncio
@pytest.mark.parametrize("loss", LOSSES, ids=["demoted", "banned", "inactive", "deleted"])
async def test_the_last_active_tutor_stays_one(school: School, loss: dict[str, str] | None) -> None:
    def lose(user_id: int) -> Any:
        return school.delete(user_id) if loss is None else school.change(user_id, **loss)

    await lose(school.bob)
    with pytest.raises(Conflict, match="last active tutor"):
        await lose(school.ann)
    assert await school.tutors() == [school.ann]
    await school.change(school.sue, role="tutor")
    await lose(school.ann)
    assert await school.tutors() == [school.sue]


@pytest.mark.asyncio
async def test_a_banned_tutor_is_nobody_to_count_on(school: School) -> None:
    await school.change(school.bob, status="banned")
    await school.delete(school.bob)
    with pytest.raises(Conflict):
        await school.run(lambda session: account_changes.leave(session, school.ann, "ann", "tutor"))
    await school.change(school.sue, role="tutor", status="inactive")
    with pytest.raises(Conflict):
        await school.delete(school.ann)


@pytest.mark.asyncio
@pytest.mark.parametrize("loss", LOSSES, ids=["demoted", "banned", "inactive", "deleted"])
async def test_two_tutors_who_remove_each_other_at_once_do_not_both_succeed(
    school: School, loss: dict[str, str] | None
) -> None:
    begun, other_began = threading.Event(), threading.Event()

    def remove(session: Session, operator: int, victim: int) -> None:
        if loss is None:
            account_changes.delete(session, school.as_tutor(operator), victim, None)
        else:
            account_changes.change(session, school.as_tutor(operator), victim, loss)

    def first(session: Session) -> None:
        remove(session, school.ann, school.bob)
        begun.set()
        assert other_began.wait(10)

    def second(session: Session) -> None:
        assert begun.wait(10)
        other_began.set()  # and now it has to wait for the first one's transaction
        remove(session, school.bob, school.ann)

    outcomes = await asyncio.gather(school.run(first), school.run(second), return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Conflict)
    assert await school.tutors() == [school.ann]


@pytest.mark.asyncio
@pytest.mark.parametrize("leaves_first", [True, False], ids=["leaving first", "demotion first"])
async def test_tutor_who_leaves_while_the_other_one_is_demoted_does_not_leave_nobody(
    school: School, leaves_first: bool
) -> None:
    begun, other_began = threading.Event(), threading.Event()

    def leave(session: Session) -> None:
        account_changes.leave(session, school.ann, "ann@school.example", "tutor")

    def demote(session: Session) -> None:
        account_changes.change(session, AT_THE_COMMAND_LINE, school.bob, {"role": "student"})

    def first(session: Session) -> None:
        (leave if leaves_first else demote)(session)
        begun.set()
        assert other_began.wait(10)

    def second(session: Session) -> None:
        assert begun.wait(10)
        other_began.set()  # and now it has to wait for the first one's transaction
        (demote if leaves_first else leave)(session)

    outcomes = await asyncio.gather(school.run(first), school.run(second), return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], Conflict)
    assert await school.tutors() == [school.bob if leaves_first else school.ann]


@pytest.mark.asyncio
async def test_many_who_remove_many_leave_one_and_break_nothing(school: School) -> None:
    def tutors(session: Session) -> list[int]:
        return [accounts.insert(session, f"t{n}@school.example", "hash", "tutor").id for n in range(4)]

    everybody = [school.ann, school.bob, *await school.run(tutors)]
    outcomes = await asyncio.gather(
        *(
            school.change(victim, school.as_tutor(operator), role="student")
            for operator in everybody
            for victim in everybody
            if operator != victim
        ),
        return_exceptions=True,
    )
    assert len(await school.tutors()) == 1
    assert {type(outcome) for outcome in outcomes} <= {dict, Conflict}


@pytest.mark.asyncio
async def test_two_changes_of_one_user_at_once_both_count_and_are_noted_one_after_the_other(
    school: School,
) -> None:
    names = [f"name {n}" for n in range(6)]
    await asyncio.gather(*(school.change(school.sue, username=name) for name in names))
    rows = select(ActionLog.details).where(ActionLog.action == "update_user").order_by(ActionLog.id)
    changes = [row["username"] for row in await school.run(lambda s: list(s.scalars(rows)))]
    assert [old for old, _ in changes] == ["sue", *(new for _, new in changes[:-1])]
    assert sorted(new for _, new in changes) == names


@pytest.mark.asyncio
async def test_of_two_who_want_the_same_email_one_gets_it(school: School) -> None:
    outcomes = await asyncio.gather(
        school.change(school.sue, email="wanted@school.example"),
        school.change(school.bob, email="wanted@school.example"),
        school.run(
            lambda session: account_changes.create(
                session,
                AT_THE_COMMAND_LINE,
                "hash",
                {"email": "wanted@school.example", "role": "student"},
            )
        ),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert [type(outcome) for outcome in refused] == [Conflict, Conflict]
    assert all("wanted@school.example" in str(outcome) for outcome in refused)


@pytest.mark.asyncio
async def test_a_new_account_has_what_was_said_of_it_and_no_password_in_the_trail(school: School) -> None:
    made = await school.run(
        lambda session: account_changes.create(
            session, school.as_tutor(school.ann), "secret-hash", EVERYTHING
        )
    )
    user = await school.run(lambda session: session.get(User, made))
    assert (user.email, user.role, user.status) == ("new@school.example", "tutor", "inactive")
    log = await school.logged()
    assert (log.action, log.target_user_id) == ("create_user", made)
    assert log.details == {name: ["", value] for name, value in EVERYTHING.items()}
    assert "secret" not in repr(log.details)


@pytest.mark.asyncio
async def test_a_deleted_user_takes_everything_along_but_the_trail(school: School) -> None:
    def settle(session: Session) -> None:
        own = session.scalars(select(Profile).where(Profile.user_id == school.sue)).one()
        own.avatar_url = "/static/avatars/x.jpg"

    await school.run(settle)
    departed = await school.delete(school.sue, school.as_tutor(school.ann), "left school")
    assert departed.email == "sue@school.example"
    assert departed.picture == "/static/avatars/x.jpg"

    def left(session: Session) -> list[object]:
        tables = (Profile, Notification)
        found: list[object] = [session.get(User, school.sue)]
        for table in tables:
            found += session.scalars(select(table).where(table.user_id == school.sue))
        return found

    assert await school.run(left) == [None]
    log = await school.logged()
    assert (log.action, log.reason, log.target_user_email) == (
        "delete_user",
        "left school",
        "sue@school.example",
    )
    assert log.details is not None
    assert log.details["role"] == ["student", ""]


@pytest.mark.asyncio
async def test_who_is_not_there_cannot_be_changed(school: School) -> None:
    with pytest.raises(NotFound):
        await school.change(999_999_999, role="tutor")
    with pytest.raises(NotFound):
        await school.delete(999_999_999)
    with pytest.raises(NotFound):
        await school.run(lambda session: account_changes.id_of(session, "nobody@school.example"))
    assert await school.run(lambda session: account_changes.id_of(session, "SUE@school.example ")) == (
        school.sue
    )


@pytest.mark.asyncio
async def test_a_user_without_a_profile_gets_one_with_the_first_change(school: School) -> None:
    def lose(session: Session) -> None:
        session.delete(session.scalars(select(Profile).where(Profile.user_id == school.sue)).one())

    await school.run(lose)
    await asyncio.gather(*(school.change(school.sue, bio=f"{n}") for n in range(4)))
    mine = select(Profile.bio).where(Profile.user_id == school.sue)
    assert len(await school.run(lambda session: list(session.scalars(mine)))) == 1
