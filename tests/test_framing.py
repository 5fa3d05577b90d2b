"""Where a request ends and whom it is for: what is ambiguous is refused, on both servers, on real sockets."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.gateway import mount, spawned
from tests.support.peer import Exchange, Peer

pytestmark = pytest.mark.asyncio(loop_scope="module")

POST = b"POST /m/a HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /m/a HTTP/1.1\r\nHost: x\r\n"
SECOND = b"GET /m/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
NO_CHUNKS = b"0\r\n\r\n"


@dataclass
class Server:
    """A gateway process with a peer behind the mount /m."""

    name: str
    port: int
    peer: Peer


@dataclass
class Seen:
    """What a client saw: the statuses in order, and whether the connection was closed."""

    statuses: list[int]
    closed: bool
    raw: bytes


async def echo(exchange: Exchange) -> None:
    try:
        await exchange.reply(b"<" + exchange.head.target + b"|" + await exchange.body() + b">")
    except ValueError:
        exchange.writer.close()  # a chunked body that was cut


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["hypercorn", "granian"])
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    async with Peer(echo) as peer:
        mounts = json.dumps([mount("/m", peer.url, methods=["GET", "POST", "OPTIONS"])])
        folder: Path = tmp_path_factory.mktemp(request.param)
        with spawned(folder, f"--server={request.param}", GATEWAY_MOUNTS=mounts) as gateway:
            yield Server(request.param, gateway.port, peer)
            assert gateway.process.poll() is None
            log = gateway.log.read_text()
    assert "Traceback" not in log, log


async def say(server: Server, *parts: bytes, answers: int = 1) -> Seen:
    """Send bytes on a connection of their own; listen until it is closed, or kept after so many answers."""
    server.peer.heads.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    raw, closed = b"", False
    try:
        async with asyncio.timeout(20):
            for part in parts:
                writer.write(part)
                await writer.drain()
            while not closed:
                piece = await reader.read(65536)
                raw, closed = raw + piece, not piece
                if len(whole(raw)) >= answers and not _says_close(raw):
                    break
    except ConnectionResetError:
        closed = True
    finally:
        writer.close()
    return Seen(whole(raw), closed, raw)


def whole(raw: bytes) -> list[int]:
    """The statuses of the answers that are complete by their Content-Length."""
    statuses = []
    while (head := re.match(rb"HTTP/1\.[01] (\d{3}).*?\r\n\r\n", raw, re.DOTALL)) is not None:
        length = re.search(rb"content-length: (\d+)", head[0], re.IGNORECASE)
        end = head.end() + (int(length[1]) if length else 0)
        if len(raw) < end:
            break
        statuses.append(int(head[1]))
        raw = raw[end:]
    return statuses


def _says_close(raw: bytes) -> bool:
    return re.search(rb"connection: close", raw, re.IGNORECASE) is not None


# Name -> what is sent. Each is answered 4xx, once, the connection is closed and nothing comes behind it.
REFUSED: dict[str, bytes] = {
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello" + SECOND,
    "coding with space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n" + NO_CHUNKS + SECOND,
    "coding twice": POST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
    + NO_CHUNKS
    + SECOND,
    "coding in HTTP/1.0": b"POST /m/a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + NO_CHUNKS,
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + NO_CHUNKS + SECOND,
    "folded field": GET + b"X-A: 1\r\n X-B: 2\r\n\r\n" + SECOND,
    "folded with tab": GET + b"X-A: 1\r\n\tX-B: 2\r\n\r\n" + SECOND,
    "bare CR in a value": GET + b"X-A: 1\rX-B: 2\r\n\r\n" + SECOND,
    "NUL in a value": GET + b"X-A: a\0b\r\n\r\n" + SECOND,
    "control in a value": GET + b"X-A: a\x01b\r\n\r\n" + SECOND,
    "DEL in a value": GET + b"X-A: a\x7fb\r\n\r\n" + SECOND,
    "NUL in a name": GET + b"X\0A: a\r\n\r\n" + SECOND,
    "control in a name": GET + b"X\x01A: a\r\n\r\n" + SECOND,
    "eight bits in a name": GET + b"X\xe9: a\r\n\r\n" + SECOND,
    "space in a name": GET + b"X A: a\r\n\r\n" + SECOND,
    "space before the colon": GET + b"X-A : a\r\n\r\n" + SECOND,
    "empty name": GET + b": a\r\n\r\n" + SECOND,
    "no colon": GET + b"X-A\r\n\r\n" + SECOND,
    "no Host": b"GET /m/a HTTP/1.1\r\n\r\n",
    "two Hosts": GET + b"Host: y\r\n\r\n",
    "the same Host twice": GET + b"Host: x\r\n\r\n",
    "empty Host": b"GET /m/a HTTP/1.1\r\nHost:\r\n\r\n",
    "10,000 fields": GET + b"".join(b"x-%d: 1\r\n" % n for n in range(10_000)) + b"\r\n",
    "field of a megabyte": GET + b"x: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "target of a megabyte": b"GET /m/" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "NUL in the target": b"GET /m/a\0b HTTP/1.1\r\nHost: x\r\n\r\n",
    "tab in the target": b"GET /m/a\tb HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in the target": b"GET /m/a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  /m/a HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /m/a\r\n\r\n",
    "small letters in the version": b"GET /m/a http/1.1\r\nHost: x\r\n\r\n",
    "space in front": b" " + GET + b"\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}
for _value in (b"+5", b"-1", b"0x5", b"5 5", b"5, 5", b"5,6", b"", b"5.0", b"five", b"\xb2", b"9" * 20):
    REFUSED[f"length {_value!r}"] = POST + b"Content-Length: " + _value + b"\r\n\r\nhello" + SECOND
for _value in (
    b"xchunked",
    b"chunked, identity",
    b"identity",
    b"gzip",
    b"gzip, chunked",
    b"chunked, chunked",
    b"chunked\x0b",
    b"\x0bchunked",
    b"chunked;a=b",
    b'"chunked"',
    b"",
):
    REFUSED[f"coding {_value!r}"] = POST + b"Transfer-Encoding: " + _value + b"\r\n\r\n" + NO_CHUNKS + SECOND
_CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
for _value in (b"0x5", b"-1", b"+5", b" 5", b"g", b"", b"1" + b"0" * 16, b"5;" + b"a" * 40_000):
    REFUSED[f"chunk {_value[:20]!r}"] = _CHUNKED + _value + b"\r\nhello\r\n0\r\n\r\n" + SECOND
REFUSED |= {
    "chunk without its end": _CHUNKED + b"5\r\nhelloXX0\r\n\r\n" + SECOND,
    "chunk lines ended by LF": _CHUNKED + b"5\nhello\n0\n\n" + SECOND,
    "LF in a chunk extension": _CHUNKED + b"5;a\nhello\r\n0\r\n\r\n" + SECOND,
    "malformed trailer": _CHUNKED + b"5\r\nhello\r\n0\r\nX A\r\n\r\n" + SECOND,
    "endless trailers": _CHUNKED + b"5\r\nhello\r\n0\r\n" + b"X-A: 1\r\n" * 20_000 + b"\r\n" + SECOND,
}

# What only the own protocol refuses: each of these hyper takes as its grammar says, before Python sees it.
STRICTER: dict[str, bytes] = {
    "both framings": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + NO_CHUNKS + SECOND,
    "both framings, turned": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
    + NO_CHUNKS
    + SECOND,
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + SECOND,
    "lines ended by LF": b"GET /m/a HTTP/1.1\nHost: x\n\n" + SECOND,
    "one line ended by LF": GET + b"X-A: 1\nX-B: 2\r\n\r\n" + SECOND,
    "coding behind LF": POST + b"X-A: 1\nTransfer-Encoding: chunked\r\n\r\n" + NO_CHUNKS + SECOND,
    "chunk size with a space": _CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n" + SECOND,
    "NUL in a chunk extension": _CHUNKED + b"5;a\0b\r\nhello\r\n0\r\n\r\n" + SECOND,
    "empty line in front": b"\r\n" + GET + b"\r\n" + SECOND,
    "field of 40 KB": GET + b"x: " + b"a" * 40_000 + b"\r\n\r\n" + SECOND,
    "target of 20 KB": b"GET /m/" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND,
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + SECOND,
}


def check_refused(server: Server, seen: Seen) -> None:
    assert len(seen.statuses) == 1, seen
    assert 400 <= seen.statuses[0] < 500, seen
    assert seen.closed, seen
    assert all(head.target == b"/a" for head in server.peer.heads)
    assert b"<" not in seen.raw


@pytest.mark.parametrize("case", REFUSED)
async def test_ambiguous_request_is_refused_and_nothing_comes_behind_it(server: Server, case: str) -> None:
    check_refused(server, await say(server, REFUSED[case]))


@pytest.mark.parametrize("case", STRICTER)
async def test_own_protocol_refuses_what_grammars_allow_but_servers_read_differently(
    server: Server, case: str
) -> None:
    if server.name == "granian":
        seen = await say(server, STRICTER[case])
        assert seen.statuses, "no hang"
        assert all(status < 500 for status in seen.statuses)
        if case.startswith("both framings"):  # it takes the chunks, and closes (RFC 9112, section 6.3)
            assert (len(seen.statuses), seen.closed) == (1, True)
    else:
        check_refused(server, await say(server, STRICTER[case]))


@pytest.mark.parametrize(
    ("version", "statuses"), [(b"2.0", {400, 505}), (b"0.9", {400, 505}), (b"1.2", {400, 505}), (b"3", {400})]
)
async def test_other_versions_are_refused(server: Server, version: bytes, statuses: set[int]) -> None:
    seen = await say(server, b"GET /m/version HTTP/" + version + b"\r\nHost: x\r\n\r\n" + SECOND)
    assert seen.closed
    assert len(seen.statuses) == 1
    assert seen.statuses[0] in statuses
    assert b"/version" not in {head.target for head in server.peer.heads}


ACCEPTED = {
    "coding behind a tab": POST + b"Transfer-Encoding:\tchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding in capitals": POST + b"Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "space around the length": POST + b"Content-Length: \t5 \t\r\n\r\nhello",
    "chunk extension": _CHUNKED + b'5;a=b;c="d"\r\nhello\r\n0\r\n\r\n',
    "chunk size in both cases": _CHUNKED + b"000A\r\nhellohello\r\na\r\nhellohello\r\n0\r\n\r\n",
    "trailers": _CHUNKED + b"5\r\nhello\r\n0\r\nX-A: 1\r\nContent-Length: 3\r\nHost: y\r\n\r\n",
}


@pytest.mark.parametrize("case", ACCEPTED)
async def test_right_framing_is_understood_and_the_next_request_is_read(server: Server, case: str) -> None:
    seen = await say(server, ACCEPTED[case] + GET + b"\r\n", answers=2)
    assert seen.statuses == [200, 200]
    assert not seen.closed
    assert re.findall(rb"<.*?>", seen.raw)[1] == b"</a|>"
    assert re.findall(rb"<.*?>", seen.raw)[0] in (b"</a|hello>", b"</a|" + b"hello" * 4 + b">")


async def test_trailers_never_become_headers(server: Server) -> None:
    body = b"5\r\nhello\r\n0\r\nX-Trailed: 1\r\nAuthorization: Bearer x\r\nHost: y\r\n\r\n"
    seen = await say(server, _CHUNKED + body)
    assert seen.statuses == [200]
    (head,) = server.peer.heads
    names = {name.lower() for name, _ in head.headers}
    assert not names & {b"x-trailed", b"authorization"}


async def test_garbage_behind_a_request_is_refused_after_its_answer(server: Server) -> None:
    seen = await say(server, GET + b"\r\n\x00\x01garbage\r\n\r\n", answers=3)
    assert seen.statuses == [200, 400]
    assert seen.closed


async def test_what_follows_a_last_request_is_not_served(server: Server) -> None:
    seen = await say(server, GET + b"Connection: close\r\n\r\n" + SECOND, answers=3)
    assert seen.statuses == [200]
    assert seen.closed
    assert [head.target for head in server.peer.heads] == [b"/a"]


@pytest.mark.parametrize("target", [b"*", b"x:80", b"http://x/m/a", b"m/a", b"?a"])
async def test_targets_of_other_forms_are_refused(server: Server, target: bytes) -> None:
    seen = await say(server, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    if server.name == "granian" and target.startswith(b"http:"):
        assert seen.statuses == [200]  # hyper takes the path out of it
    else:
        assert seen.statuses == [400]


@pytest.mark.parametrize("host", [b"x/y", b"x y", b'x"y', b"[x]", b"x:y", b"a@b", b"x:80:80", b"\xe9"])
async def test_host_that_is_none_is_refused(server: Server, host: bytes) -> None:
    seen = await say(server, b"GET /m/host HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert seen.statuses == [400]
    assert b"/host" not in {head.target for head in server.peer.heads}


async def test_method_that_nobody_knows_is_answered_405(server: Server) -> None:
    assert (await say(server, b"BREW /m/a HTTP/1.1\r\nHost: x\r\n\r\n")).statuses == [405]


async def test_request_cut_at_any_byte_is_answered_like_a_whole_one(server: Server) -> None:
    request = (
        POST + b"X-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5;e\r\nhello\r\n1\r\n!\r\n0\r\nT: 1\r\n\r\n"
    )

    async def cut(at: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request[:at])
        await asyncio.sleep(0.03)
        writer.write(request[at:])
        async with asyncio.timeout(30):
            answer = await reader.readuntil(b">")
        writer.close()
        return answer[:12] + answer.partition(b"\r\n\r\n")[2]

    answers = await asyncio.gather(*(cut(at) for at in range(1, len(request))))
    assert set(answers) == {b"HTTP/1.1 200</a|hello!>"}


async def test_every_byte_by_itself_is_answered_like_the_whole(server: Server) -> None:
    request = POST + b"Content-Length: 5\r\n\r\nhello"
    seen = await say(server, *(request[at : at + 1] for at in range(len(request))))
    assert seen.statuses == [200]
    assert seen.raw.endswith(b"</a|hello>")


_TOKENS = st.sampled_from([b"GET", b"POST", b"HEAD", b"\0", b"A" * 300, b"CONNECT"])
_PIECES = st.sampled_from(
    [
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: x\r\n",
        b"Connection: keep-alive\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\n",
        b"Connection: upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b" folded\r\n",
        b"X: \xff\r\n",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Something that looks like a request, with a few bytes changed."""
    target = b"/m/" + draw(st.binary(max_size=12))
    head = draw(_TOKENS) + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(draw(st.lists(_PIECES)))
    raw = bytearray(head + b"\r\n" + draw(st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw) - 1))
        raw[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(raw)


@pytest.mark.timeout(300)
async def test_no_mutation_is_answered_5xx_or_never_ends(server: Server) -> None:
    """What is sent is followed by the end of the client's side: every connection is closed for it."""
    loop = asyncio.get_running_loop()

    async def send(raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(raw + b"GET /api/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        got = b""
        try:
            async with asyncio.timeout(0.3):  # some wait for more of a body: then the client leaves
                while piece := await reader.read(65536):
                    got += piece
        except TimeoutError:
            writer.write_eof()
            async with asyncio.timeout(20):
                got += await reader.read(-1)
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        return got

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(requests())
    def check(raw: bytes) -> None:
        answer = asyncio.run_coroutine_threadsafe(send(raw), loop).result(60)
        assert all(
            int(status) < 500 or status == b"505" for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)
        )

    await asyncio.to_thread(check)
