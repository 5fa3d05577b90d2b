"""Clients that leave and upstreams that break, each through a served gateway between raw sockets."""

import asyncio
import json
import re

import pytest

from tests.support.mounted import MEGABYTE, OK, Wire, error_of, gateway, transport, wire
from tests.support.peer import Exchange, Script, echo, silent, until
from tests.support.wire import Caller, Pair

__all__ = ["gateway", "transport", "wire"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The client leaves


async def leave(caller: Caller, how: str) -> None:
    if how == "reset":
        caller.reset()
    else:
        await caller.leave()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_leaves_while_waiting_frees_its_place(wire: Wire, transport: str, how: str) -> None:
    wire.play(silent)
    before, standing = asyncio.all_tasks(), wire.peer.open
    async with wire.calling() as caller:
        await caller.ask(b"/open/a")
        await until(lambda: len(wire.peer.heads) == 1 and wire.busy == 1)
        await leave(caller, how)
        await until(lambda: wire.busy == 0, 1)
        if transport != "reqwest":  # pyreqwest 0.15 ends the call only when the upstream answers
            await until(lambda: wire.peer.open <= standing, 1)
    if transport != "reqwest":
        await until(lambda: not new_tasks(before))


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_leaves_midway_ends_the_upstream_call(wire: Wire, how: str) -> None:
    left = asyncio.Event()
    before = asyncio.all_tasks()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await exchange.client_left()
        left.set()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a")
        await caller.head()
        assert await caller.chunk() == b"abc"
        await leave(caller, how)
        async with asyncio.timeout(1):
            await left.wait()
        await until(lambda: wire.busy == 0, 1)
    await until(lambda: not new_tasks(before))


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", [(b"Content-Length", b"1000000"), (b"Transfer-Encoding", b"chunked")])
async def test_client_that_leaves_while_uploading_ends_the_upstream_call(
    wire: Wire, how: str, framing: Pair
) -> None:
    arrived, left = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        try:
            await exchange.reader.read(1)
            arrived.set()
            await exchange.client_left()
        finally:
            left.set()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a", framing, method=b"POST")
        await caller.say(b"5\r\nhello\r\n" if framing[1] == b"chunked" else b"hello")
        async with asyncio.timeout(5):
            await arrived.wait()
        await leave(caller, how)
        async with asyncio.timeout(1):
            await left.wait()
        await until(lambda: wire.busy == 0, 1)


async def test_client_that_left_is_logged_as_499_and_not_as_an_error(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.play(silent)
    with caplog.at_level("INFO", "gateway"):
        async with wire.calling() as caller:
            await caller.ask(b"/open/gone")
            await until(lambda: len(wire.peer.heads) == 1 and wire.busy == 1)
            await caller.leave()
        await until(lambda: any("499" in line for line in caplog.messages), 2)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def new_tasks(before: set["asyncio.Task[object]"]) -> list["asyncio.Task[object]"]:
    """Tasks of the gateway that were not there; those of open connections are the server's and the peer's."""
    return [
        task
        for task in asyncio.all_tasks() - before
        if not re.search(r"TCPServer|Peer\._connected|_ConnectionWorker|_run_idle|TaskGroup", repr(task))
    ]


# The upstream breaks


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [
        b"Content-Length: 10\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello",
    ],
)
async def test_truncated_answer_never_looks_complete(wire: Wire, begun: bytes, then: str) -> None:
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + begun)
        await seen.wait()
        if then == "reset":
            exchange.reset()
        else:
            exchange.writer.close()

    wire.play(script)
    async with wire.calling() as caller:
        await caller.ask(b"/open/a")
        reply = await caller.head()
        chunked = reply.get(b"transfer-encoding") == b"chunked"
        assert await (caller.chunk() if chunked else caller.reader.readexactly(5)) == b"hello"
        seen.set()
        async with asyncio.timeout(5):
            rest = await caller.reader.read(-1)
    assert rest == b""


async def test_answer_that_stops_breaks_off_in_time(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 10\r\n\r\nhello")
        await exchange.client_left()

    wire.play(script)
    reply = await wire.call(b"/quick/a")
    assert (reply.status, reply.body, reply.complete) == (200, b"hello", False)


ENDLESS = OK + b"X-Long: " + b"x" * (2 * MEGABYTE)
GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "HTTP/0.9": b"<html>hello</html>",
    "no status": b"HTTP/1.1\r\n\r\n",
    "two content lengths": OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
    "header without colon": OK + b"no colon here\r\nContent-Length: 0\r\n\r\n",
    "NUL in a header": OK + b"X-Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
    "endless header": ENDLESS,
    "cut head": OK + b"Content-",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("then", ["close", "reset"])
async def test_garbage_is_a_502_that_tells_nothing(wire: Wire, answer: bytes, then: str) -> None:
    wire.say(answer, then=then)
    reply = await wire.call(b"/open/a", method=b"POST", body=b"x")
    error_of(reply, 502, str(json.loads(reply.body)["code"]))
    assert len(wire.peer.heads) == 1


async def test_refused_connection_is_a_502_that_may_be_repeated(wire: Wire) -> None:
    shown = error_of(await wire.call(b"/refused/a", method=b"POST", body=b"x"), 502, "upstream_refused")
    assert shown["retryable"] is True


async def test_handshake_that_hangs_is_its_own_504(wire: Wire) -> None:
    error_of(await wire.call(b"/dead/a", method=b"POST", body=b"x"), 504, "upstream_connect_timeout")


async def test_silence_is_its_own_504(wire: Wire) -> None:
    wire.play(silent)
    shown = error_of(await wire.call(b"/quick/a"), 504, "upstream_first_byte_timeout")
    assert shown["retryable"] is False
    assert len(wire.peer.heads) == 1


async def test_head_that_trickles_is_a_504(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK)
        while not exchange.writer.is_closing():
            await exchange.send(b"X-A: 1\r\n")
            await asyncio.sleep(0.05)

    wire.play(script)
    error_of(await wire.call(b"/quick/a"), 504, "upstream_first_byte_timeout")


async def test_body_that_trickles_steadily_is_not_cut(wire: Wire) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            await exchange.send(b"x")
            await asyncio.sleep(0.06)

    wire.play(script)
    reply = await wire.call(b"/quick/a")
    assert (reply.body, reply.complete) == (b"x" * 10, True)


# Trying again


async def test_get_whose_kept_connection_was_reset_is_tried_once_more(wire: Wire) -> None:
    await wire.call(b"/again/a")
    wire.play(resets_first())
    reply = await wire.call(b"/again/a")
    assert (reply.status, reply.get(b"x-upstream-attempts")) == (200, b"2")
    assert len(wire.peer.heads) == 3


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_post_is_never_sent_twice(wire: Wire, how: str) -> None:
    await wire.call(b"/again/a", method=b"POST", body=b"warm")
    wire.peer.heads.clear()
    wire.say(then=how)
    reply = await wire.call(b"/again/a", method=b"POST", body=b"x")
    error_of(reply, 502, "upstream_broken")
    assert len(wire.peer.heads) == 1


def resets_first() -> Script:
    done: list[bool] = []

    async def script(exchange: Exchange) -> None:
        if done:
            await echo(exchange)
        else:
            done.append(True)
            exchange.reset()

    return script
