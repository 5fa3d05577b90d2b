"""A gateway with an index behind it, and a look into all three places where a file is."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from backend.models import Chat, Message, Notification, StoredFile, User
from tests.support.forms import MULTIPART
from tests.support.frontend import Frontend
from tests.support.gateway import Served, serving, settings_for
from tests.support.index import Index, indexing


@dataclass
class Shelves:
    served: Served
    index: Index
    folder: Path
    student: Frontend
    tutor: Frontend

    def everything(self, table: Any) -> list[Any]:
        with self.served.gateway.database.transaction() as session:
            return list(session.scalars(select(table).order_by(table.id)))

    @property
    def rows(self) -> list[StoredFile]:
        return self.everything(StoredFile)

    @property
    def chats(self) -> list[Chat]:
        return self.everything(Chat)

    @property
    def messages(self) -> list[Message]:
        return self.everything(Message)

    @property
    def notices(self) -> list[Notification]:
        """What somebody was told about a file."""
        return [one for one in self.everything(Notification) if "ndexed" in one.title]

    @property
    def on_disk(self) -> list[Path]:
        return [place for place in (self.folder / "files").rglob("*") if place.is_file()]

    def user_id(self, role: str) -> int:
        with self.served.gateway.database.transaction() as session:
            return session.scalars(select(User.id).where(User.email == f"{role}@test.local")).one()

    def nothing_is_left(self) -> None:
        assert self.rows == []
        assert self.on_disk == []
        assert not any(self.index.shelves.values())

    async def settled(self) -> None:
        """Wait until no task works on a file any more, the patrols aside."""
        async with asyncio.timeout(20):
            while len(self.served.gateway.files.indexing._tasks) > 2:  # noqa: ASYNC110 - it is not announced
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def shelves(folder: Path, **over: Any) -> AsyncIterator[Shelves]:
    async with (
        indexing() as index,
        serving(settings_for(folder, **({"rag_url": index.url} | over))) as served,
    ):
        users = [Frontend(served.http, await served.token(role)) for role in ("student", "tutor")]
        yield Shelves(served, index, folder, *users)


async def upload(user: Frontend, path: str, name: str, content: bytes, **fields: str) -> httpx.Response:
    """Send a form as the frontend does: the file, and perhaps texts before it."""
    parts: dict[str, Any] = {field: (None, value) for field, value in fields.items()}
    return await user.http.post(path, files={**parts, "file": (name, content)}, headers=user.headers)


async def attach(user: Frontend, name: str, content: bytes, **fields: str) -> httpx.Response:
    return await upload(user, "/api/chat/upload", name, content, **fields)


async def post(desk: Shelves, content: Any, content_type: bytes = MULTIPART) -> httpx.Response:
    """Send a body of the test's own to where files are attached."""
    headers = desk.student.headers | {"Content-Type": content_type.decode()}
    return await desk.student.http.post("/api/chat/upload", content=content, headers=headers)


async def teach(user: Frontend, name: str, content: bytes) -> httpx.Response:
    return await upload(user, "/api/upload", name, content)


async def remove(user: Frontend, name: str) -> httpx.Response:
    """DELETE as axios sends it: the name is not encoded, so a browser ends it at a `#`."""
    return await user.http.delete(f"/api/upload/{name.partition('#')[0]}", headers=user.headers)


async def named(user: Frontend) -> list[str]:
    """The names in My Files."""
    answer = await user.get("/api/user_files")
    assert answer.status_code == 200, answer.text
    listed = answer.json()
    assert listed["total"] == len(listed["files"])
    return [file["filename"] for file in listed["files"]]
