"""A service that fails behind the served gateway: what callers see, and how often it is asked."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.services.breaker import FAILURES
from tests.support.frontend import Frontend, good, hidden, refused
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Exchange, Peer, until
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio

AVATARS = json.dumps({"avatars": {"Ada": {}}}).encode()


async def listing(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.reply(AVATARS)


def failing(how: str, times: int = 1_000_000) -> Callable:
    """Fail so many times, then answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.number > times:
            await exchange.reply(AVATARS)
        elif how == "reset":
            exchange.reset()
        elif how == "hang":
            await exchange.client_left()
        else:
            await exchange.reply(b"no", status=how.encode())

    return script


@pytest.mark.parametrize("how", ["reset", "502 Bad", "503 Busy"])
async def test_list_whose_first_call_fails_succeeds_and_says_so(tmp_path: Path, how: str) -> None:
    async with (
        Peer(failing(how, 1)) as peer,
        serving(settings_for(tmp_path, avatar_service_url=peer.url)) as served,
    ):
        student = Frontend(served.http, await served.token())
        answer = await student.get("/api/avatar/list")
        assert list(good(answer)) == ["Ada"]
        assert answer.headers["x-upstream-attempts"] == "2"
        assert len(peer.heads) == 2
        assert "x-upstream-attempts" not in (await student.get("/api/avatar/list")).headers


async def test_start_is_sent_once_however_it_fails(tmp_path: Path) -> None:
    for number, how in enumerate(("reset", "502 Bad", "503 Busy")):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with Peer(listing) as catalogue, Peer(failing(how)) as manager:
            services = {"avatar_service_url": catalogue.url, "avatar_manager_url": manager.url}
            async with serving(settings_for(folder, **services)) as served:
                student = Frontend(served.http, await served.token())
                answer = await student.urlencoded("/api/avatar/start", avatar_name="Ada")
                assert answer.status_code in (502, 503)
                assert [head.target for head in manager.heads] == [b"/avatar/start"]


async def test_mount_that_always_fails_is_asked_a_tenth_more_at_most(tmp_path: Path) -> None:
    async with (
        Peer(failing("503 Busy")) as peer,
        serving(settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url)])) as served,
    ):
        for _ in range(20):
            answers = await asyncio.gather(*(served.http.get("/m/x") for _ in range(10)))
            assert {answer.status_code for answer in answers} == {503}
        assert 200 < len(peer.heads) <= 220


async def kept_away(served: Served, path: str) -> None:
    """Call until the service is left alone."""
    for _ in range(2 * FAILURES):
        answer = await served.http.post(path)
        if answer.status_code == 503:
            return
    raise AssertionError("it is still asked")


@pytest.mark.parametrize("how", ["reset", "hang", "refuse"])
async def test_dead_upstream_is_left_alone_at_once_politely_and_taken_back(tmp_path: Path, how: str) -> None:
    port = free_port()
    mounts = [mount("/m", f"http://127.0.0.1:{port}", timeout=0.2, methods=["GET", "POST"])]
    async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served:
        if how == "refuse":
            await kept_away(served, "/m/x")
        else:
            async with Peer(failing(how), port) as peer:
                await kept_away(served, "/m/x")
                assert len(peer.heads) == FAILURES
        began = time.monotonic()
        answers = [await served.http.post("/m/x") for _ in range(10)]
        assert (time.monotonic() - began) / 10 < 0.5  # some 50 ms, on a machine of one's own
        left_alone = [answer for answer in answers if answer.status_code == 503]
        assert len(left_alone) >= 8  # the others were probes
        for answer in left_alone:
            shown = refused(answer, 503, "upstream_unavailable")
            assert shown["retryable"] is True
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            hidden(answer, str(port))
        async with Peer(listing, port):
            async with asyncio.timeout(20):
                while (await served.http.post("/m/x")).status_code != 200:  # noqa: ASYNC110 - it is asked
                    await asyncio.sleep(0.05)
            assert {(await served.http.post("/m/x")).status_code for _ in range(10)} == {200}


async def test_full_upstream_is_told_at_once_and_nobody_else_waits(tmp_path: Path) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.client_left()

    async with Peer(slow) as full, Peer(listing) as other:
        mounts = [mount("/full", full.url, max_calls=4), mount("/other", other.url)]
        async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served:
            held = [asyncio.ensure_future(served.http.get("/full/x")) for _ in range(6)]
            await until(lambda: len(full.heads) == 4, 10)
            await asyncio.sleep(0.1)  # two more stand in line
            refusals = await asyncio.gather(*(served.http.get("/full/x") for _ in range(20)))
            for answer in refusals:
                refused(answer, 503, "overloaded")
                assert answer.headers["retry-after"] == "1"
                hidden(answer, str(full.port))
            assert (await served.http.get("/other/x")).status_code == 200
            assert (await served.http.get("/api/health")).status_code == 200
            assert len(full.heads) == 4
            for call in held:
                call.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await until(lambda: served.gateway.client.slots.in_use == 0, 10)


async def test_open_streams_do_not_keep_new_calls_out(tmp_path: Path) -> None:
    """A thousand event streams are more than an upstream may leave unanswered; they are answered."""

    async def stream(exchange: Exchange) -> None:
        if exchange.head.target == b"/events":
            await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:1\r\n")
            await exchange.client_left()
        else:
            await exchange.reply(b"ok")

    async with Peer(stream) as peer:
        over = {"gateway_mounts": [mount("/m", peer.url)], "upstream_max_connections": 10}
        async with serving(settings_for(tmp_path, **over)) as served, asyncio.TaskGroup() as group:
            watching = [group.create_task(_watch(served)) for _ in range(30)]
            await until(lambda: len(peer.heads) == 30, 15)
            assert (await served.http.get("/m/x")).text == "ok"
            for task in watching:
                task.cancel()
        await until(lambda: peer.open <= 1, 10)


async def _watch(served: Served) -> None:
    async with served.http.stream("GET", "/m/events") as answer:
        async for _ in answer.aiter_raw():
            pass
