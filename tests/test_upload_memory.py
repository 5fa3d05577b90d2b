"""Large files at once cost memory by their number, not their size; what a killed process left is finished."""

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backend.app import create_app
from backend.context import EXTENSION
from backend.services.database import upgrade
from tests.support.documents import PDF, TEXT
from tests.support.forms import MULTIPART, Part, written
from tests.support.frontend import FILM
from tests.support.gateway import PASSWORD, Spawned, settings_for, spawned
from tests.support.index import indexing
from tests.support.peer import until

MEGABYTE = 1 << 20
EMAIL = "student@test.local"
# Of 21 files with 410 MB: what the first uploads import, and what a busy machine holds of each.
MOST_GROWTH = 64 * MEGABYTE


def make_account(folder: Path) -> None:
    application = create_app(settings_for(folder))
    upgrade(application.flask)
    gateway = application.flask.extensions[EXTENSION]
    gateway.accounts.create_now(EMAIL, PASSWORD, "student")


@contextlib.asynccontextmanager
async def process(folder: Path, index_url: str) -> AsyncIterator[Spawned]:
    """A gateway in a process of its own; this loop goes on while it starts."""
    environment = {"DATABASE_URL": f"sqlite:///{folder / 'gateway.db'}", "RAG_URL": index_url}
    running = spawned(folder, **environment)
    gateway = await asyncio.to_thread(running.__enter__)
    try:
        yield gateway
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def signed_in(http: httpx.AsyncClient) -> dict[str, str]:
    answer = await http.post("/api/login", json={"email": EMAIL, "password": PASSWORD})
    return {"Authorization": f"Bearer {answer.json()['token']}", "Content-Type": MULTIPART.decode()}


async def pieces(name: str, begins: bytes, size: int) -> AsyncIterator[bytes]:
    head, _, end = written([Part("file", begins, name)]).partition(begins)
    yield head + begins
    for left in range(size - len(begins), 0, -MEGABYTE):
        yield bytes(min(left, MEGABYTE))
    yield end


def peak(pid: int) -> int:
    """The most memory a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.asyncio
async def test_many_large_files_at_once_take_no_memory_of_their_size(tmp_path: Path) -> None:
    await asyncio.to_thread(make_account, tmp_path)
    async with (
        indexing() as index,
        process(tmp_path, index.url) as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=80) as http,
    ):
        headers = await signed_in(http)
        before = max(psutil.Process(gateway.process.pid).memory_info().rss, 0)
        files: list[tuple[str, bytes, int]] = [(f"{n}.doc", DOC, 20 * MEGABYTE) for n in range(14)]
        files += [(f"{n}.pdf", PDF, 5 * MEGABYTE) for n in range(6)]
        files.append(("film.mp4", FILM, 100 * MEGABYTE))
        answers = await asyncio.gather(
            *(http.post("/api/chat/upload", content=pieces(*file), headers=headers) for file in files)
        )
        assert [answer.status_code for answer in answers] == [200] * len(files), answers[0].text
        assert sum(answer.json()["rag_indexed"] for answer in answers) == 6
        assert peak(gateway.process.pid) - before < MOST_GROWTH


DOC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def due_now(folder: Path) -> list[tuple[Any, ...]]:
    """Let every lease be over, and return the states."""
    with closing(sqlite3.connect(folder / "gateway.db")) as connection, connection:
        connection.execute("UPDATE stored_file SET due_at = created_at WHERE due_at IS NOT NULL")
        return connection.execute("SELECT state FROM stored_file ORDER BY id").fetchall()


@pytest.mark.asyncio
async def test_killed_process_leaves_files_that_the_next_one_finishes(tmp_path: Path) -> None:
    await asyncio.to_thread(make_account, tmp_path)
    async with indexing() as index:
        index.mute.add("/user/upload")
        async with (
            process(tmp_path, index.url) as gateway,
            httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=80) as http,
        ):
            headers = await signed_in(http)
            form = written([Part("file", TEXT, "whole.txt")])
            half = written([Part("file", b"x" * MEGABYTE, "half.txt")])[: MEGABYTE // 2]
            gate = asyncio.Event()

            async def stops() -> AsyncIterator[bytes]:
                yield half
                await gate.wait()

            sent = [
                asyncio.ensure_future(http.post("/api/chat/upload", content=content, headers=headers))
                for content in (form, stops())
            ]
            arriving = tmp_path / "files" / "arriving"
            await until(lambda: len(index.asked) == 1 and any(arriving.iterdir()), 20)
            os.kill(gateway.process.pid, signal.SIGKILL)
            gate.set()
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            assert all(isinstance(outcome, httpx.TransportError) for outcome in outcomes)
        assert sorted(due_now(tmp_path)) == [("arriving",), ("indexing",)]
        index.mute.clear()
        async with (
            process(tmp_path, index.url) as gateway,
            httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=80) as http,
        ):
            await until(lambda: due_now(tmp_path) == [("indexed",)], 20)
            headers = await signed_in(http)
            listed = (await http.get("/api/user_files", headers=headers)).json()["files"]
            assert [file["filename"] for file in listed] == ["whole.txt"]
            assert list(index.private(1)) == ["whole.txt"]
            assert list(arriving.iterdir()) == []
            # Either of the two may have come first, and so have the first number.
            told = (await http.get(f"/api/files/{listed[0]['id']}", headers=headers)).content
            assert told == TEXT
