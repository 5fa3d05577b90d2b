"""Redis, PostgreSQL or the database file go away under a gateway that serves: what goes on, what is told."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat_model import EVENT_STREAM, FINISHED, chunk, event, understood
from tests.support.frontend import Frontend, good, hidden, refused
from tests.support.gateway import PASSWORD, Served, mount, serving, settings_for
from tests.support.own_stores import own_postgres, own_redis
from tests.support.peer import Exchange, Peer, Script, until

pytestmark = pytest.mark.asyncio

PATIENCE_SECONDS = 20.0


async def script(exchange: Exchange) -> None:
    await exchange.reply(b'{"avatars":{"Ada":{}}}')


def mounted(peer: Peer) -> dict[str, Any]:
    """Settings of a gateway with a mount that checks the token."""
    return {"gateway_mounts": [mount("/m", peer.url, auth="required")], "avatar_service_url": peer.url}


class Caller:
    """Somebody signed in who goes on calling until told to stop; `statuses` are the answers."""

    def __init__(self, tab: Frontend) -> None:
        self.statuses: list[int] = []
        self._tab = tab

    async def __aenter__(self) -> "Caller":
        self._task = asyncio.create_task(self._call())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _call(self) -> None:
        while True:
            self.statuses.append((await self._tab.get("/m/x")).status_code)
            await asyncio.sleep(0.01)

    async def more(self, count: int = 20) -> None:
        """Wait for so many further answers."""
        have = len(self.statuses)
        await until(lambda: len(self.statuses) >= have + count, PATIENCE_SECONDS)


async def answered(ask: Callable[[], Any], status: int) -> httpx.Response:
    """Ask until the answer has this status."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer: httpx.Response = await ask()
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.05)


def login(served: Served, role: str = "tutor", password: str = PASSWORD) -> Callable[[], Any]:
    fields = {"email": f"{role}@test.local", "password": password}
    return lambda: Frontend(served.http).json("/api/login", fields)


@pytest.mark.parametrize("how", ["kill", "hold"])
async def test_nobody_notices_that_redis_is_away(tmp_path: Path, how: str) -> None:
    with own_redis() as redis:
        async with (
            Peer(script) as peer,
            serving(settings_for(tmp_path, redis_url=redis.url, **mounted(peer))) as served,
        ):
            student = Frontend(served.http, await served.token())
            assert good(await student.get("/api/health/detailed"))["checks"]["redis"] == "ok"
            async with Caller(student) as caller:
                await caller.more()
                redis.kill() if how == "kill" else redis.hold()
                await caller.more()
                assert (await login(served)()).status_code == 200
                good(await student.get("/api/token_status"))
                health = await answered(lambda: student.get("/api/health/detailed"), 200)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while health.json()["checks"]["redis"] != "unreachable":
                        health = await student.get("/api/health/detailed")
                        await asyncio.sleep(0.1)
                assert health.json()["status"] == "degraded"
                hidden(health, str(redis.port))
                # Nothing opens, either: an ended sign-in is refused without Redis as with it.
                tutor = Frontend(served.http, await served.token("tutor"))
                good(await tutor.json("/api/logout"))
                refused(await tutor.get("/m/x"), 401)
                redis.start() if how == "kill" else redis.resume()
                await caller.more()
            assert set(caller.statuses) == {200}


async def test_limits_hold_while_redis_is_away(tmp_path: Path) -> None:
    with own_redis() as redis:
        settings = settings_for(tmp_path, redis_url=redis.url, gateway_login_limit="3/minute")
        async with serving(settings) as served:
            redis.kill()
            tries = [await login(served, "tutor", "Wrong-horse1!")() for _ in range(5)]
            assert [answer.status_code for answer in tries] == [401, 401, 401, 429, 429]


async def test_sign_out_at_one_gateway_is_known_at_another_long_before_it_polls(tmp_path: Path) -> None:
    with own_redis() as redis:
        async with AsyncExitStack() as stack:
            peer = await stack.enter_async_context(Peer(script))
            shared = {"redis_url": redis.url, "gateway_revocation_seconds": 60.0, **mounted(peer)}
            one = await stack.enter_async_context(serving(settings_for(tmp_path, **shared)))
            other = await stack.enter_async_context(_second(settings_for(tmp_path, **shared)))
            token = await one.token()
            elsewhere = Frontend(other.http, token)
            good(await elsewhere.get("/m/x"))
            good(await Frontend(one.http, token).json("/api/logout"))
            refused(await answered(lambda: elsewhere.get("/m/x"), 401), 401, "not_authenticated")


def _second(settings: Any) -> Any:
    """A further gateway over a database that has its accounts."""
    return serving(settings, accounts=False)


async def test_gateway_outlives_a_restart_of_postgresql(tmp_path: Path) -> None:
    """Forwarded calls go on, and an answer that ends meanwhile is kept afterwards."""
    paused = asyncio.Event()
    with own_postgres() as postgres:
        async with (
            Peer(script) as peer,
            Peer(pausing(paused)) as model,
            serving(
                settings_for(tmp_path, database_url=postgres.url, llm_url=model.url, **mounted(peer))
            ) as served,
        ):
            student = Frontend(served.http, await served.token())
            ended = Frontend(served.http, student.token)
            student.token = await served.token()
            chat_id = await student.new_chat()
            async with Caller(student) as caller:
                await caller.more()
                asking = asyncio.create_task(
                    student.multipart("/api/chat/stream", message="Hi", session_id=str(chat_id))
                )
                await until(lambda: model.heads != [], PATIENCE_SECONDS)
                await asyncio.to_thread(postgres.stop)
                away = await answered(login(served), 503)
                paused.set()
                assert understood([good_stream(await asking)]) == ("One. Two.", True)
                refused(await student.multipart("/api/chat/stream", message="Hi"), 503, "store_unavailable")
                refused(away, 503, "store_unavailable")
                assert int(away.headers["retry-after"]) > 0
                # What memory does not know is neither let in nor thrown out.
                refused(await ended.get("/m/x"), 503, "store_unavailable")
                good(await student.get("/api/token_status"))
                health = await answered(lambda: student.get("/api/health/detailed"), 503)
                assert health.json()["checks"]["database"] == "unreachable"
                hidden(health)
                await caller.more()
                await asyncio.to_thread(postgres.start)
                await answered(login(served), 200)
                await caller.more()
            assert set(caller.statuses) == {200}
            good(await student.get("/api/token_status"))
            await until(lambda: served.gateway.answering.archive.waiting == 0, PATIENCE_SECONDS)
            assert await student.messages(chat_id) == [("user", "Hi"), ("assistant", "One. Two.")]


def pausing(paused: asyncio.Event) -> Script:
    """A model that says the half of it, and the rest when it is told to."""

    async def answer(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(EVENT_STREAM)
        for content in (chunk("One. "), chunk("Two."), FINISHED):
            raw = event(content)
            await exchange.send(b"%x\r\n%b\r\n" % (len(raw), raw))
            await paused.wait()
        await exchange.send(b"0\r\n\r\n")

    return answer


def good_stream(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_database_file_that_another_program_locks_is_a_bounded_503_and_loses_nothing(
    tmp_path: Path,
) -> None:
    async with Peer(script) as peer, serving(settings_for(tmp_path, **mounted(peer))) as served:
        student = Frontend(served.http, await served.token())
        with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as locker:
            locker.execute("BEGIN IMMEDIATE")
            async with Caller(student) as caller, asyncio.timeout(PATIENCE_SECONDS):
                away = await login(served)()
                refused(away, 503, "store_unavailable")
                assert int(away.headers["retry-after"]) > 0
                waiting = asyncio.create_task(login(served)())
                await caller.more()
                locker.execute("ROLLBACK")
                assert (await waiting).status_code == 200
            assert set(caller.statuses) == {200}
        good(await student.get("/m/x"))
