"""Mails with codes outlive the process that was to send them; who has which, on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.errors import StoreUnavailable
from backend.models import VerificationCode
from backend.services.database import Database
from backend.services.mail import Mail
from backend.services.mail_server import Server
from backend.services.outbox import HOLD
from backend.services.verification import Verification
from tests.support.mail import Mailbox, receiving
from tests.support.peer import until
from tests.support.stores import KINDS, store

ROOT = Path(__file__).parents[2]
ANN = "ann@school.example"
KEY = "a key for tests only, thirty-two bytes or more"
NOW = 1_800_000_000.0
LAPSED = HOLD.total_seconds() + 1
HELD = HOLD.total_seconds() - 1

# A process that says where it is, and dies with a mail in its hands.
SENDER = """
import asyncio, sys
from flask import Flask
from backend.config import load
from backend.services.database import Database, attach
from backend.services.mail import Mail
from backend.services.mail_server import Server
from backend.services.verification import Verification

async def main(key, address, port, email):
    database = Database(attach(Flask("sender"), load({}, None, database_url=address)), threads=1)
    mail = Mail(Server("127.0.0.1", int(port), False, None, None), "gateway@school.example")
    await mail.start()
    await Verification(key, database, mail).send(email, "register")
    await asyncio.sleep(3600)

asyncio.run(main(*sys.argv[1:]))
"""

T = TypeVar("T")

pytestmark = pytest.mark.asyncio
BOTH = pytest.mark.parametrize("database", KINDS, indirect=True)


class Failing(Database):
    """A database that can be away."""

    away = False

    async def run(self, work: Callable[[Session], T]) -> T:
        if self.away:
            raise StoreUnavailable
        return await super().run(work)


class Desk:
    """One process that mails codes; `now` is the time of day there."""

    def __init__(self, database: Database, mail: Mail, now: float = NOW, key: str = KEY) -> None:
        self.database = database
        self.mail = mail
        self.now = now
        self.verification = Verification(key, database, mail, lambda: self.now)

    async def send(self, email: str = ANN) -> None:
        await self.verification.send(email, "register")

    async def round(self) -> None:
        await self.verification.outbox.round()

    async def right(self, code: str, email: str = ANN) -> bool:
        return await self.database.run(lambda s: self.verification.attempt(s, email, "register", code))

    async def rows(self) -> list[VerificationCode]:
        return await self.database.run(lambda s: list(s.scalars(select(VerificationCode))))

    async def pending(self) -> int:
        return sum(row.seed is not None for row in await self.rows())

    async def settled(self) -> None:
        await until(lambda: self.mail.waiting == 0, 20)


@pytest_asyncio.fixture
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with store(getattr(request, "param", "sqlite"), tmp_path) as database:
        yield database


@contextlib.asynccontextmanager
async def desk(
    database: Database, mailbox: Mailbox, *, now: float = NOW, places: int = 200
) -> AsyncIterator[Desk]:
    server = Server("127.0.0.1", mailbox.port, False, None, None)
    mail = Mail(server, "gateway@school.example", places=places, pauses_seconds=(), flush_seconds=0.05)
    await mail.start()
    try:
        yield Desk(database, mail, now)
    finally:
        await mail.aclose()


async def dead(database: Database, number: int = 1) -> None:
    """Leave mails of a process that died as soon as their codes were stored."""

    class Dying(Mail):
        sends = True

        @contextlib.contextmanager
        def place(self):  # type: ignore[no-untyped-def]
            yield lambda letter: None

    for each in range(number):
        await Desk(database, Dying(None, "gateway@school.example")).send(f"u{each}@school.example")


@BOTH
async def test_mail_of_a_process_that_was_killed_is_sent_by_another(database: Database) -> None:
    address = database._engine.url.render_as_string(hide_password=False)
    async with receiving() as mailbox:
        mailbox.go.clear()
        arguments = [sys.executable, "-c", SENDER, KEY, address, str(mailbox.port), ANN]
        sender = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(ROOT)})
        try:
            await until(lambda: mailbox.tried > 0, 60)
        finally:
            sender.kill()
            sender.wait()
        mailbox.go.set()
        assert mailbox.mails == []
        async with desk(database, mailbox, now=time.time()) as other:
            await other.round()  # it may live yet
            assert other.mail.waiting == 0
            other.now = time.time() + LAPSED
            await other.round()
            code = await mailbox.code()
            await other.settled()
            assert await other.right(code)
            assert await other.pending() == 0
        assert len(mailbox.mails) == 1


@BOTH
async def test_mail_in_the_hands_of_a_process_that_lives_is_sent_by_no_other(database: Database) -> None:
    async with receiving() as mailbox, desk(database, mailbox) as slow, desk(database, mailbox) as other:
        mailbox.go.clear()
        await slow.send()
        for _ in range(3):
            slow.now += HELD
            other.now += HELD
            await other.round()
            await slow.round()
        assert other.mail.waiting == 0
        mailbox.go.set()
        await slow.settled()
        other.now += LAPSED
        await other.round()
        assert (other.mail.waiting, len(mailbox.mails)) == (0, 1)


@BOTH
async def test_sent_mail_leaves_nothing_of_its_code_and_is_sent_once(database: Database) -> None:
    async with receiving() as mailbox, desk(database, mailbox) as one, desk(database, mailbox) as other:
        await one.send()
        code = await mailbox.code()
        await one.settled()
        [row] = await one.rows()
        assert (row.seed, row.held_until) == (None, None)
        other.now += LAPSED
        await other.round()
        assert other.mail.waiting == 0
        assert await other.right(code)


async def test_what_is_stored_until_then_is_no_code(database: Database) -> None:
    await dead(database)
    async with receiving() as mailbox, desk(database, mailbox) as other:
        [row] = await other.rows()
        other.now += LAPSED
        await other.round()
        code = await mailbox.code()
        stored = {name: getattr(row, name) for name in ("seed", "code_hash", "sent_at", "held_until")}
        assert code not in str(stored["sent_at"])
        assert row.seed is not None
        stranger = Verification("another key of at least thirty-two bytes", database, other.mail)
        assert stranger._codes.made_of(row.seed) != other.verification._codes.made_of(row.seed)
        assert other.verification._codes.made_of(row.seed) == code


@BOTH
async def test_of_several_who_come_after_the_dead_one_sends_each_mail(database: Database) -> None:
    await dead(database, 12)
    async with receiving() as mailbox, desk(database, mailbox) as one, desk(database, mailbox) as other:
        for each in (one, other):
            each.now += LAPSED
        await asyncio.gather(one.round(), other.round(), one.round(), other.round())
        await mailbox.mail(12)
        await one.settled()
        await other.settled()
        assert sorted(to[0] for _, to in mailbox.envelopes) == sorted(
            f"u{n}@school.example" for n in range(12)
        )
        assert await one.pending() == 0


async def test_no_more_is_taken_over_than_there_is_room_for(database: Database) -> None:
    await dead(database, 5)
    async with receiving() as mailbox, desk(database, mailbox, places=2) as other:
        mailbox.go.clear()
        other.now += LAPSED
        await other.round()
        assert other.mail.waiting == 2
        await other.round()
        assert other.mail.waiting == 2
        mailbox.go.set()
        for _ in range(2):
            await other.settled()
            await other.round()
        await mailbox.mail(5)
        await other.settled()
        assert await other.pending() == 0


async def test_mail_that_a_stopping_gateway_could_not_send_is_sent_by_the_next_at_once(
    database: Database,
) -> None:
    async with receiving() as mailbox:
        mailbox.go.clear()
        async with desk(database, mailbox) as stopping:
            await stopping.send()
            await until(lambda: mailbox.tried > 0, 20)
        mailbox.go.set()
        async with desk(database, mailbox) as following:
            await following.round()
            assert await following.right(await mailbox.code())


async def test_refused_mail_takes_its_code_with_it(database: Database) -> None:
    async with receiving() as mailbox, desk(database, mailbox) as one:
        mailbox.refusals.append("550 no")
        await one.send()
        await one.settled()
        assert await one.rows() == []


async def test_mail_that_comes_too_late_is_not_sent(database: Database) -> None:
    await dead(database)
    async with receiving() as mailbox, desk(database, mailbox) as other:
        other.now += timedelta(minutes=5).total_seconds()
        await other.round()
        assert other.mail.waiting == 0


async def test_only_the_latest_code_of_a_person_is_sent(database: Database) -> None:
    await dead(database)
    async with receiving() as mailbox, desk(database, mailbox) as other:
        other.now += LAPSED
        await other.send("u0@school.example")
        await other.round()
        code = await mailbox.code()
        await other.settled()
        assert len(mailbox.mails) == 1
        assert await other.right(code, "u0@school.example")


async def test_seed_that_makes_another_code_is_not_sent(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The key was changed, or a release that knows no seeds has put its own code in the row."""
    await dead(database)
    async with receiving() as mailbox, desk(database, mailbox) as other:
        changed = Desk(database, other.mail, NOW + LAPSED, "another key of at least thirty-two bytes")
        await changed.round()
        assert len(await changed.rows()) == 1
        assert await changed.pending() == 0
        assert other.mail.waiting == 0
    assert "another key" in caplog.text


async def test_mail_that_went_out_while_the_database_was_away_is_noted_later(database: Database) -> None:
    failing = Failing(database._engine, threads=2)
    async with receiving() as mailbox, desk(failing, mailbox) as one, desk(database, mailbox) as other:
        mailbox.go.clear()
        await one.send()
        failing.away = True
        mailbox.go.set()
        await mailbox.mail()
        await one.settled()
        assert await other.pending() == 1
        failing.away = False
        await one.round()
        assert await other.pending() == 0
        other.now += LAPSED
        await other.round()
        assert other.mail.waiting == 0


async def test_outbox_looks_by_itself_from_its_start_on(database: Database) -> None:
    await dead(database)
    async with receiving() as mailbox, desk(database, mailbox) as other:
        other.now += LAPSED
        other.verification.outbox.start()
        await mailbox.mail()
        await other.verification.outbox.aclose()


async def test_code_that_is_only_logged_leaves_nothing_to_send(database: Database) -> None:
    logging = Desk(database, Mail(None, "gateway@school.example", development=True))
    await logging.send()
    assert await logging.pending() == 0
    assert "0 in hand" in repr(logging.verification.outbox)
