"""One WebSocket's life through a gateway in a process of its own, on both servers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.support.gateway import Spawned, mount, spawned
from tests.support.peer import Exchange, Peer, until
from tests.support.ports import free_port
from tests.support.tls import certificate
from tests.support.websocket import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Socket,
    accepted,
    asked,
    dialled,
    echo,
    frame,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = ("hypercorn", "granian")
MEGABYTE = 1 << 20
# Kernel buffers on four sides of two connections, and what the gateway holds.
HELD_BYTES = 24 * MEGABYTE


@dataclass
class Place:
    """A gateway in front of an upstream that does what the path says."""

    server: str
    gateway: Spawned
    peer: Peer
    ended: list[tuple[int | None, bytes]] = field(default_factory=list)
    moved: int = 0
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        return self.gateway.port


async def act(place: Place, exchange: Exchange) -> None:
    what = exchange.head.target.split(b"/")[1]
    if what == b"echo":
        await echo(exchange)
    elif what == b"teapot":
        await exchange.reply(b"short and stout", (b"X-A", b"1"), status=b"418 Teapot")
    else:
        await ACTS[what](place, await accepted(exchange), exchange)


async def listens(place: Place, socket: Socket, _: Exchange) -> None:
    place.ended.append(await socket.ended())


async def says_goodbye(place: Place, socket: Socket, _: Exchange) -> None:
    await socket.close(4321, b"that was all")
    place.ended.append(await socket.ended())


async def dies(_: Place, socket: Socket, exchange: Exchange) -> None:
    await socket.send(TEXT, b"last words")
    exchange.reset()


async def dies_amid_a_message(_: Place, socket: Socket, exchange: Exchange) -> None:
    await socket.raw(frame(BINARY, bytes(MEGABYTE), mask=None)[: MEGABYTE // 2])
    await asyncio.sleep(0.1)
    exchange.reset()


async def talks_nonsense(place: Place, socket: Socket, _: Exchange) -> None:
    await socket.raw(frame(TEXT, b"\xff", mask=None))
    place.ended.append(await socket.ended())


async def floods(place: Place, socket: Socket, _: Exchange) -> None:
    piece = frame(BINARY, bytes(60_000), mask=None)
    while True:
        await socket.raw(piece)
        place.moved += len(piece)


async def takes_nothing(place: Place, socket: Socket, exchange: Exchange) -> None:
    exchange.writer.transport.pause_reading()
    await place.go_on.wait()
    exchange.writer.transport.resume_reading()
    await socket.ended()


async def pings(place: Place, socket: Socket, _: Exchange) -> None:
    await socket.send(PING, b"are you there")
    said = await socket.frame()
    assert (said.opcode, said.payload, said.masked) == (PONG, b"are you there", True)
    await socket.close(1000)
    place.ended.append(await socket.ended())


ACTS = {
    b"listens": listens,
    b"goodbye": says_goodbye,
    b"dies": dies,
    b"dies-amid": dies_amid_a_message,
    b"nonsense": talks_nonsense,
    b"floods": floods,
    b"takes-nothing": takes_nothing,
    b"pings": pings,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SERVERS)
async def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    async with Peer(lambda exchange: act(held, exchange)) as peer:
        mounts = [
            mount("/m", peer.url, websocket=True, max_message_mb=2),
            mount("/idle", peer.url, websocket=True, socket_idle=0.4),
            mount("/short", peer.url, websocket=True, socket_total=0.4),
            mount("/dead", f"http://127.0.0.1:{free_port()}", websocket=True),
            mount("/closed", peer.url, websocket=True, auth="required"),
        ]
        with spawned(folder, f"--server={request.param}", GATEWAY_MOUNTS=json.dumps(mounts)) as gateway:
            held = Place(request.param, gateway, peer)
            yield held
        log = gateway.log.read_text()
        assert "Traceback" not in log, log


async def test_messages_of_both_kinds_and_pings_come_back(place: Place) -> None:
    async with dialled(place.port, b"/m/echo") as socket:
        await socket.send(TEXT, "grüße".encode())
        assert await socket.message() == Frame(TEXT, "grüße".encode())
        for size in (0, 125, 126, 65535, 65536, 300_000):
            await socket.send(BINARY, b"\xfe" * size)
            assert await socket.message() == Frame(BINARY, b"\xfe" * size)
        await socket.send(TEXT, b"one", final=False)
        await socket.send(PING, b"amid")
        await socket.send(CONTINUATION, b"two")
        kinds = [await socket.frame()]
        while kinds[-1].opcode != PONG:
            kinds.append(await socket.frame())
        assert kinds[-1].payload == b"amid"
        rest = b"".join(kind.payload for kind in kinds[:-1])
        while rest != b"onetwo":
            rest += (await socket.frame()).payload
        await socket.close(1000)
        assert (await socket.ended())[0] == 1000
        assert await socket.gone()


async def test_upstreams_ping_is_answered(place: Place) -> None:
    place.ended.clear()
    async with dialled(place.port, b"/m/pings") as socket:
        first = await socket.frame()
        if first.opcode == PING:  # passed on, where the server can
            await socket.send(PONG, first.payload)
            first = await socket.frame()
        assert first.payload == (1000).to_bytes(2)
        await socket.close(1000)
        await until(lambda: place.ended == [(1000, b"")])


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1011, 3000, 4000, 4999])
async def test_clients_close_code_reaches_the_upstream_and_its_answer_the_client(
    place: Place, code: int
) -> None:
    place.ended.clear()
    async with dialled(place.port, b"/m/listens") as socket:
        await socket.close(code, b"a reason")
        await until(lambda: bool(place.ended))
        # What the client gave as its reason stays with Granian, which tells the code alone.
        assert place.ended == [(code, b"" if place.server == "granian" else b"a reason")]


async def test_upstreams_close_code_and_reason_reach_the_client(place: Place) -> None:
    place.ended.clear()
    async with dialled(place.port, b"/m/goodbye") as socket:
        assert await socket.ended() == (4321, b"that was all")
        await socket.close(4321)
        assert await socket.gone()
        await until(lambda: [code for code, _ in place.ended] == [4321])


@pytest.mark.parametrize("how", [b"dies", b"dies-amid"])
async def test_client_is_told_1011_when_the_upstream_dies(place: Place, how: bytes) -> None:
    async with dialled(place.port, b"/m/" + how) as socket:
        assert (await socket.ended())[0] == 1011
        await socket.close(1011)
        assert await socket.gone()


async def test_client_is_told_1011_when_the_upstream_talks_nonsense(place: Place) -> None:
    place.ended.clear()
    async with dialled(place.port, b"/m/nonsense") as socket:
        assert (await socket.ended())[0] == 1011
        await until(lambda: place.ended == [(1007, b"a text is no UTF-8")])


async def test_upstream_is_let_go_of_at_once_when_the_client_is_gone(place: Place) -> None:
    place.ended.clear()
    async with dialled(place.port, b"/m/listens") as socket:
        await until(lambda: place.peer.open >= 1)
        socket.writer.transport.abort()
        began = time.monotonic()
        await until(lambda: bool(place.ended))
        assert time.monotonic() - began < 1
        assert place.ended[0][0] in (1001, 1005)
    await until(lambda: place.peer.open == 0)


async def test_message_that_is_too_big_is_1009(place: Place) -> None:
    async with dialled(place.port, b"/m/echo") as socket:
        sending = asyncio.ensure_future(socket.send(BINARY, bytes(2 * MEGABYTE + 1)))
        assert (await socket.ended())[0] == 1009
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_idle_socket_is_closed_with_1001(place: Place) -> None:
    async with dialled(place.port, b"/idle/listens") as socket:
        assert await socket.ended() == (1001, b"idle for too long")


async def test_socket_in_use_is_not_idle(place: Place) -> None:
    async with dialled(place.port, b"/idle/echo") as socket:
        for number in range(8):
            await asyncio.sleep(0.1)
            await socket.send(TEXT, b"%d" % number)
            assert (await socket.frame()).payload == b"%d" % number


async def test_socket_lasts_no_longer_than_its_mount_says(place: Place) -> None:
    async with dialled(place.port, b"/short/listens") as socket:
        assert await socket.ended() == (1001, b"open for too long")


async def test_upstream_waits_for_a_client_that_reads_nothing(place: Place) -> None:
    place.moved = 0
    process = psutil.Process(place.gateway.process.pid)
    before = resident(process)
    async with dialled(place.port, b"/m/floods", receive_buffer=4096) as socket:
        socket.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await stands_still(lambda: place.moved)
        assert place.moved < HELD_BYTES
        assert resident(process) - before < HELD_BYTES
        stood = place.moved
        socket.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            assert len((await socket.message()).payload) == 60_000
        assert place.moved > stood
    await until(lambda: place.peer.open == 0)


async def test_client_waits_for_an_upstream_that_reads_nothing(place: Place) -> None:
    process = psutil.Process(place.gateway.process.pid)
    before = resident(process)
    place.go_on.clear()
    async with dialled(place.port, b"/m/takes-nothing") as socket:
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await socket.send(BINARY, bytes(60_000))
                sent += 60_000

        sending = asyncio.ensure_future(send())
        await stands_still(lambda: sent)
        assert sent < HELD_BYTES
        assert resident(process) - before < HELD_BYTES
        stood = sent
        place.go_on.set()
        await until(lambda: sent > stood)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def test_refusals_are_plain_answers(place: Place) -> None:
    reply = await asked(place.port, b"/m/teapot")
    assert (reply.status, reply.body, reply.get(b"x-a")) == (418, b"short and stout", b"1")
    for target, status, code in (
        (b"/dead/x", 502, "upstream_refused"),
        (b"/closed/echo", 401, "not_authenticated"),
        (b"/m/%2e%2e/x", 400, "bad_target"),
        (b"/api/ping", 403, "not_allowed"),
    ):
        reply = await asked(place.port, target)
        assert (target, reply.status, json.loads(reply.body)["code"]) == (target, status, code)
    assert (await asked(place.port, b"/m/echo", (b"Origin", b"http://evil.test"))).status == 403


@pytest.mark.parametrize("server", SERVERS)
async def test_stop_closes_sockets_with_1001_and_waits_for_nobody_who_stays(
    tmp_path: Path, server: str
) -> None:
    ended: list[tuple[int | None, bytes]] = []

    async def script(exchange: Exchange) -> None:
        ended.append(await (await accepted(exchange)).ended())

    async with Peer(script) as peer:
        mounts = json.dumps([mount("/m", peer.url, websocket=True)])
        with spawned(
            tmp_path, f"--server={server}", GATEWAY_MOUNTS=mounts, GATEWAY_DRAIN_SECONDS="20"
        ) as gateway:
            port = gateway.port
            async with dialled(port) as polite, dialled(port) as silent:
                await until(lambda: peer.open == 2)
                gateway.process.terminate()
                assert await polite.ended() == (1001, b"the server stops")
                await polite.close(1001)
                assert (await silent.ended())[0] == 1001
                assert await asyncio.to_thread(gateway.process.wait, 15) == 0
            assert [code for code, _ in ended] == [1001, 1001]


def resident(process: psutil.Process) -> int:
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_info().rss for one in family)


async def stands_still(count: Callable[[], int], seconds: float = 1.0) -> None:
    """Wait until a count has not moved for a while; fail if it never stops."""
    async with asyncio.timeout(20):
        seen, since = count(), time.monotonic()
        while time.monotonic() - since < seconds:
            await asyncio.sleep(0.05)
            if count() != seen:
                seen, since = count(), time.monotonic()


@pytest.mark.parametrize("server", SERVERS)
async def test_sockets_go_over_tls(tmp_path: Path, server: str) -> None:
    made = certificate(tmp_path)
    async with Peer(echo) as peer:
        mounts = json.dumps([mount("/m", peer.url, websocket=True)])
        with spawned(
            tmp_path, f"--server={server}", answering=False, GATEWAY_MOUNTS=mounts, **made.settings
        ) as gateway:
            port = gateway.port
            async with dialled(port, tls=made.context("http/1.1")) as socket:
                await socket.send(BINARY, bytes(200_000))
                assert len((await socket.message()).payload) == 200_000
                await socket.close(1000)
                assert (await socket.ended())[0] == 1000
                assert await socket.gone()
