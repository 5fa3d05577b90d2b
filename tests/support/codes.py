"""A gateway that mails codes to a mailbox, the people who ask for them, and what its tables say."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_asyncio
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.config import Settings
from tests.support.frontend import Frontend, good
from tests.support.gateway import Served, serving
from tests.support.mail import Mailbox, receiving

STUDENT = "student@test.local"
TUTOR = "tutor@test.local"
ANN = "ann@school.example"
NEW_PASSWORD = "Other-horse2!"


@pytest_asyncio.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    async with receiving() as opened:
        yield opened


@pytest_asyncio.fixture
async def served(settings: Callable[..., Settings], mailbox: Mailbox) -> AsyncIterator[Served]:
    async with serving(settings(smtp_url=f"smtp://127.0.0.1:{mailbox.port}")) as gateway:
        yield gateway


def registration(code: str, **over: Any) -> dict[str, Any]:
    return {"email": ANN, "password": NEW_PASSWORD, "code": code, "role": "student"} | over


def spelt(content: Any) -> bytes:
    """JSON that can say half a surrogate pair."""
    return json.dumps(content).encode("ascii")


async def ask_for_code(visitor: Frontend, email: str, purpose: str) -> None:
    good(await visitor.json("/api/send_verification", {"email": email, "purpose": purpose}))


def wrong(code: str) -> str:
    """A code that is not this one."""
    return f"{(int(code) + 1) % 1_000_000:06d}"


async def rows(served: Served, model: type[Any]) -> list[Any]:
    return await served.gateway.database.run(lambda session: list(session.scalars(select(model))))


async def changed(served: Served, model: type[Any], **values: Any) -> None:
    def work(session: Session) -> None:
        session.execute(update(model).values(**values))

    await served.gateway.database.run(work)
