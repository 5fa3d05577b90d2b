"""A service with several addresses behind the served gateway: one dies, is slow, comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.chat_model import ChatModel
from tests.support.demo import demo
from tests.support.frontend import Frontend, good, hidden, refused
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Exchange, Peer, Script, echo, until
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio

CHECK_SECONDS = 0.4
# A check that is due, its answer, and a machine with other work.
GENEROUS_SECONDS = 10.0
CHECK = b"/health"
CALLERS = 4


def calls(peer: Peer) -> int:
    """How many calls came, health checks aside."""
    return sum(head.target != CHECK for head in peer.heads)


async def addresses(served: Served, name: str = "mount /m") -> list[dict[str, Any]]:
    answer = await served.http.get("/stats")
    assert answer.status_code == 200
    return list(answer.json()["upstreams"][name]["addresses"])


async def until_states(served: Served, *states: str, name: str = "mount /m") -> float:
    """Wait until `/stats` tells these states, in the order of the setting; return after how many seconds."""
    began = time.monotonic()
    async with asyncio.timeout(GENEROUS_SECONDS):
        while [one["state"] for one in await addresses(served, name)] != [*states]:  # noqa: ASYNC110 - asked
            await asyncio.sleep(0.01)
    return time.monotonic() - began


@asynccontextmanager
async def gateway_before(folder: Path, *urls: str, **more: Any) -> AsyncIterator[Served]:
    mounts = [mount("/m", ",".join(urls), methods=["GET", "POST"], timeout=5, **more)]
    settings = settings_for(folder, gateway_mounts=mounts, gateway_check_seconds=CHECK_SECONDS)
    async with serving(settings) as served:
        yield served


@asynccontextmanager
async def traffic(served: Served) -> AsyncIterator[list[tuple[float, int]]]:
    """Call all the time, by CALLERS at once; the list tells of each when it ended and its status."""
    told: list[tuple[float, int]] = []

    async def one() -> None:
        while True:
            answer = await served.http.post("/m/x", content=b"abc")
            told.append((time.monotonic(), answer.status_code))
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(one()) for _ in range(CALLERS)]
    try:
        yield told
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def test_killed_address_costs_a_moment_is_shown_and_comes_back_by_one_check(tmp_path: Path) -> None:
    port = free_port()
    async with (
        Peer(echo) as alive,
        gateway_before(tmp_path, f"http://127.0.0.1:{port}", alive.url) as served,
        AsyncExitStack() as life,
        traffic(served) as told,
    ):
        first = await life.enter_async_context(Peer(echo, port))
        await until_states(served, "healthy", "healthy")
        await until(lambda: calls(first) > 20 and calls(alive) > 20, GENEROUS_SECONDS)

        killed = time.monotonic()
        await life.aclose()
        await until_states(served, "ejected", "healthy")
        seen = len(told)
        await until(lambda: len(told) > seen + 40, GENEROUS_SECONDS)
        failed = [when - killed for when, status in told if status != 200]
        assert len(failed) <= CALLERS  # those that were on their way
        assert max(failed, default=0) < CHECK_SECONDS + 1

        healed = await life.enter_async_context(Peer(echo, port))
        await until(lambda: calls(healed) > 20, GENEROUS_SECONDS)
        assert [head.target for head in healed.heads[:2]] == [CHECK, b"/x"]  # one check, then calls
        await until_states(served, "healthy", "healthy")
        assert len([status for _, status in told if status != 200]) == len(failed)


async def test_calls_in_flight_at_the_other_address_are_untouched(tmp_path: Path) -> None:
    port = free_port()
    release = asyncio.Event()

    async def streaming(exchange: Exchange) -> None:
        if exchange.head.target == CHECK:
            await exchange.reply()
            return
        await exchange.body()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await release.wait()
        await exchange.send(b"-last")

    async with (
        Peer(streaming) as alive,
        gateway_before(tmp_path, f"http://127.0.0.1:{port}", alive.url) as served,
        AsyncExitStack() as life,
    ):
        first = await life.enter_async_context(Peer(streaming, port))
        await until_states(served, "healthy", "healthy")
        held = [asyncio.create_task(served.http.post("/m/x")) for _ in range(6)]
        await until(lambda: calls(first) == calls(alive) == 3, GENEROUS_SECONDS)
        assert [one["in_flight"] for one in await addresses(served)] == [3, 3]
        await life.aclose()
        await until_states(served, "ejected", "healthy")
        release.set()
        ended = await asyncio.gather(*held, return_exceptions=True)
        whole = [one for one in ended if isinstance(one, httpx.Response) and one.content == b"first-last"]
        assert len(whole) == 3
        assert [one["in_flight"] for one in await addresses(served)] == [0, 0]


async def test_address_that_hangs_gets_no_new_calls_after_its_second_silence(tmp_path: Path) -> None:
    async def hanging(exchange: Exchange) -> None:
        await exchange.client_left()

    async with (
        Peer(echo) as first,
        Peer(echo) as alive,
        gateway_before(tmp_path, first.url, alive.url) as served,
    ):
        await until_states(served, "healthy", "healthy")
        first.script = hanging
        held = [asyncio.create_task(served.http.post("/m/x")) for _ in range(8)]
        await until(lambda: calls(first) > 0, GENEROUS_SECONDS)
        await until_states(served, "silent", "healthy")
        seen = calls(first)
        assert seen < 8
        answers = await asyncio.gather(*(served.http.post("/m/x") for _ in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        assert calls(first) == seen
        for call in held:
            call.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        await until_states(served, "ejected", "healthy")
        first.script = echo
        await until_states(served, "healthy", "healthy")


async def test_nobody_at_any_address_is_told_at_once_with_a_time_to_come_back(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    async with gateway_before(tmp_path, *(f"http://127.0.0.1:{port}" for port in ports)) as served:
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (await served.http.post("/m/x")).status_code != 503:
                pass
        await until_states(served, "ejected", "ejected")
        began = time.monotonic()
        answers = [await served.http.post("/m/x") for _ in range(20)]
        assert (time.monotonic() - began) / 20 < 0.5  # under 50 ms, on a machine of one's own
        told = [answer for answer in answers if answer.status_code == 503]
        assert len(told) >= 18  # the others were probes, while no check had found out yet
        for answer in told:
            assert refused(answer, 503, "upstream_unavailable")["retryable"] is True
            assert 1 <= int(answer.headers["retry-after"]) <= 5
            for port in ports:
                hidden(answer, str(port))
        async with Peer(echo, ports[1]) as healed:
            await until_states(served, "ejected", "healthy")
            assert (await served.http.post("/m/x", content=b"abc")).text == "abc"
            assert [head.target for head in healed.heads][:2] == [CHECK, b"/x"]


def working(seconds: float, places: int) -> Script:
    free = asyncio.Semaphore(places)

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.head.target != CHECK:
            async with free:
                await asyncio.sleep(seconds)
        await exchange.reply()

    return script


async def test_a_slow_address_gets_its_share_and_calls_stay_quick_where_turns_would_not(
    tmp_path: Path,
) -> None:
    async def p99(served: Served, *paths: str) -> float:
        """Send 50 calls a second, to each path in turn, whatever becomes of earlier ones."""
        took: list[float] = []

        async def one(path: str) -> None:
            began = time.monotonic()
            assert (await served.http.post(path)).status_code == 200
            took.append(time.monotonic() - began)

        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(one(paths[number % len(paths)]))
                await asyncio.sleep(0.02)
        return sorted(took)[-2]

    async with Peer(working(0.1, 8)) as quick, Peer(working(1.0, 4)) as slow:
        mounts = [
            mount(prefix, upstream, methods=["POST"])
            for prefix, upstream in (("/m", f"{quick.url},{slow.url}"), ("/1", quick.url), ("/2", slow.url))
        ]
        async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served:
            in_turn = await p99(served, "/1/x", "/2/x")
            quick.heads.clear()
            slow.heads.clear()
            balanced = await p99(served, "/m/x")
            assert calls(slow) > 0
            assert calls(slow) < 0.35 * calls(quick)  # a handful, as many as the quick one holds at a time
            assert balanced < 0.5 * in_turn


# What the services behind the settings make of it


async def ask(pupil: Frontend, chat_id: int) -> int:
    """Ask the chat model something; return the status."""
    answer = await pupil.multipart("/api/chat/stream", message="Hi", session_id=str(chat_id))
    return answer.status_code


async def test_a_conversation_stays_at_its_model_while_that_lives(tmp_path: Path) -> None:
    port = free_port()
    one, other = ChatModel(), ChatModel()

    def model(script: ChatModel) -> Script:
        async def with_health(exchange: Exchange) -> None:
            if exchange.head.target == CHECK:
                await exchange.reply()
            else:
                await script(exchange)

        return with_health

    def places() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, script in (("one", one), ("other", other)):
            for question in script.asked:
                found.setdefault(question["session_id"], set()).add(name)
        return found

    async with Peer(model(other)) as alive, AsyncExitStack() as life:
        settings = settings_for(
            tmp_path,
            llm_url=f"http://127.0.0.1:{port},{alive.url}",
            rag_url=f"http://127.0.0.1:{free_port()}",
            gateway_check_seconds=CHECK_SECONDS,
            gateway_chat_limit="100000/minute",
        )
        await life.enter_async_context(Peer(model(one), port))
        async with serving(settings) as served:
            pupil = Frontend(served.http, await served.token())
            chats = [
                (await pupil.json("/api/chat/new", {"title": "x"})).json()["session_id"] for _ in range(12)
            ]
            for _ in range(3):
                assert {await ask(pupil, chat) for chat in chats} == {200}
            before = places()
            assert len(before) == len(chats)
            assert all(len(names) == 1 for names in before.values())
            assert {name for names in before.values() for name in names} == {"one", "other"}

            await life.aclose()
            await until_states(served, "ejected", "healthy", name="model")
            one.asked.clear()
            other.asked.clear()
            assert {await ask(pupil, chat) for chat in chats} == {200}
            assert set(places()) == set(before)
            assert all(names == {"other"} for names in places().values())

            await life.enter_async_context(Peer(model(one), port))
            await until_states(served, "healthy", "healthy", name="model")
            other.asked.clear()
            assert {await ask(pupil, chat) for chat in chats} == {200}
            assert places() == before


async def test_another_model_is_loaded_at_every_address_or_it_is_told(tmp_path: Path) -> None:
    one, other = ChatModel(body=b'{"message":"ready"}'), ChatModel(body=b'{"message":"ready"}')
    async with Peer(one) as first, Peer(other) as second:
        settings = settings_for(tmp_path, llm_url=f"{first.url},{second.url}", gateway_check_seconds=3600)
        async with serving(settings) as served:
            tutor = Frontend(served.http, await served.token("tutor"))
            assert good(await tutor.json("/api/llm/activate", {"model": "qwen"})) == {"message": "ready"}
            assert one.asked == other.asked == [{"model": "qwen"}]
            other.status = b"400 Bad"
            refused(await tutor.json("/api/llm/activate", {"model": "x"}), 400)
            other.status = b"500 Oops"
            refused(await tutor.json("/api/llm/activate", {"model": "qwen"}), 502)


async def test_detailed_health_is_well_while_one_address_of_each_answers(tmp_path: Path) -> None:
    async with Peer(echo) as alive:
        settings = ("avatar_service_url", "avatar_manager_url", "llm_url", "rag_url")
        services = {name: f"http://127.0.0.1:{free_port()},{alive.url}" for name in settings}
        async with serving(settings_for(tmp_path, gateway_check_seconds=CHECK_SECONDS, **services)) as served:
            for _ in range(2):
                checks = good(await served.http.get("/api/health/detailed"))["checks"]
                told = {name: checks[name] for name in ("catalogue", "manager", "model", "retrieval")}
                assert set(told.values()) == {"ok"}, told
                await until_states(served, "ejected", "healthy", name="catalogue")
                await asyncio.sleep(1.1)  # a report is kept for a second


async def test_figures_tell_addresses_apart_and_not_where_they_are(tmp_path: Path) -> None:
    port = free_port()
    async with Peer(echo) as alive, gateway_before(tmp_path, f"http://127.0.0.1:{port}", alive.url) as served:
        await until_states(served, "ejected", "healthy")
        stats, metrics = [(await served.http.get(path)).text for path in ("/stats", "/metrics")]
        assert 'gateway_upstream_address_ejected{address="1",upstream="mount /m"} 1.0' in metrics
        assert 'gateway_upstream_address_ejected{address="2",upstream="mount /m"} 0.0' in metrics
        for text in (stats, metrics):
            assert str(port) not in text
            assert "127.0.0.1" not in text


async def test_demo_with_second_addresses_goes_on_when_one_is_killed(tmp_path: Path) -> None:
    options = ("--demo-second", "--demo-latency=0.05")
    async with (
        demo(tmp_path, *options, GATEWAY_CHECK_SECONDS=str(CHECK_SECONDS)) as running,
        httpx.AsyncClient(base_url=running.gateway.url, trust_env=False) as here,  # a student may not look
    ):
        await running.put("/faults", service="catalogue-2", fault="refuse")
        async with asyncio.timeout(GENEROUS_SECONDS):
            states: list[str] = []
            while states != ["healthy", "ejected"]:
                told = (await here.get("/stats")).json()["upstreams"]["catalogue"]["addresses"]
                states = [one["state"] for one in told]
        answers = await asyncio.gather(*(running.preview() for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
