"""Whatever a client writes, the gateway dials its upstream alone and stays below the mount's base path."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from posixpath import normpath
from urllib.parse import unquote_to_bytes

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
import pytest_asyncio

from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Exchange, Head, Peer
from tests.support.steering import HEADERS, PSEUDO, RAW, TARGETS
from tests.support.wire import calling

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = b"/base"
# What a client may not say itself, and what the gateway says instead: None is nothing.
FORWARDED = (b"forwarded", b"x-forwarded-server", b"x-forwarded-port", b"x-forwarded-prefix", b"x-real-ip")
FORWARDED += (b"x-original-url", b"x-rewrite-url", b"proxy-authorization", b"proxy-connection", b"upgrade")


async def answering(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.reply(b"ok")


@dataclass(frozen=True)
class Place:
    """A gateway, the upstream of its mount, and a listener that nobody may ever dial."""

    served: Served
    upstream: Peer
    decoy: Peer

    def filled(self, text: bytes) -> bytes:
        gate, decoy = b"127.0.0.1:%d" % self.served.port, b"127.0.0.1:%d" % self.decoy.port
        return text.replace(b"{gate}", gate).replace(b"{decoy}", decoy)

    async def say(self, raw: bytes) -> bytes:
        """Send bytes and return the start of what comes back, b"" when the connection is just closed."""
        async with calling(self.served.port) as caller:
            await caller.say(self.filled(raw))
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(5):
                    return await caller.reader.read(65536)
            return b""

    def kept(self) -> None:
        """Nothing was dialled but the upstream, and it was told nothing but what the gateway says."""
        assert self.decoy.connections == 0
        for head in self.upstream.heads:
            assert below_base(head.target), head.target
            told_by_the_gateway(head, self.upstream)


def below_base(target: bytes) -> bool:
    """Whether a target stays below the base path, however often whoever reads it decodes it."""
    path = target.partition(b"?")[0]
    for _ in range(5):
        plain = path.replace(b"\\", b"/").replace(b";", b"/")
        if not normpath(b"/" + plain.lstrip(b"/")).startswith(BASE):
            return False
        path = unquote_to_bytes(path)
    return target.startswith(BASE)


def told_by_the_gateway(head: Head, upstream: Peer) -> None:
    assert head.all(b"host") == [b"127.0.0.1:%d" % upstream.port]
    assert head.all(b"x-forwarded-for") == [b"127.0.0.1"]
    assert head.all(b"x-forwarded-proto") == [b"http"]
    assert len(head.all(b"x-forwarded-host")) == len(head.all(b"x-request-id")) == len(head.all(b"via")) == 1
    assert head.all(b"via")[0].endswith(b"avatar-gateway")
    assert [name for name in FORWARDED if head.all(name)] == []
    # Programs behind CGI cannot tell an underscore from a hyphen.
    assert [name for name, _ in head.headers if b"_" in name and name.lower() != b"x_harmless"] == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with Peer(answering) as upstream, Peer(answering) as decoy:
        mounts = [mount("/m", upstream.url + BASE.decode(), methods=["GET", "POST", "OPTIONS"])]
        folder = tmp_path_factory.mktemp("steering")
        async with serving(settings_for(folder, gateway_mounts=mounts)) as served:
            yield Place(served, upstream, decoy)


@pytest_asyncio.fixture(loop_scope="module")
async def place(opened: Place) -> AsyncIterator[Place]:
    opened.upstream.heads.clear()
    yield opened
    opened.kept()


def status_of(answer: bytes) -> int | None:
    """The status of an answer, None for a connection that was just closed."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


async def test_the_table_is_as_long_as_it_has_to_be() -> None:
    assert len(TARGETS) + len(HEADERS) + len(RAW) + len(PSEUDO) >= 120


@pytest.mark.parametrize("name", TARGETS)
async def test_target_leads_nowhere_else(place: Place, name: str) -> None:
    raw = b"GET " + TARGETS[name] + b" HTTP/1.1\r\nHost: {gate}\r\nConnection: close\r\n\r\n"
    status = status_of(await place.say(raw))
    assert status in (None, 200, 400, 404, 405, 414, 431)
    assert len(place.upstream.heads) == (status == 200)


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS"])
@pytest.mark.parametrize("name", HEADERS)
async def test_header_leads_nowhere_else(place: Place, name: str, method: bytes) -> None:
    lines = dict(HEADERS[name])
    head = b"" if b"Host" in lines else b"Host: {gate}\r\n"
    head += b"".join(key + b": " + value + b"\r\n" for key, value in HEADERS[name])
    body = b"Content-Length: 2\r\n\r\nhi" if method == b"POST" else b"\r\n"
    status = status_of(await place.say(method + b" /m/x HTTP/1.1\r\n" + head + body))
    assert status in (None, 101, 200, 400)
    assert [head.target for head in place.upstream.heads] == [b"/base/x"] * (status in (101, 200))


@pytest.mark.parametrize("name", RAW)
async def test_head_that_is_none_leads_nowhere_else(place: Place, name: str) -> None:
    status = status_of(await place.say(RAW[name]))
    assert status is None or 200 <= status < 500
    assert len(place.upstream.heads) <= 1


async def http2(port: int, head: list[tuple[bytes, bytes]]) -> int | None:
    """Make one call over HTTP/2 with these headers, unchecked; None when the stream or connection ends."""
    config = h2.config.H2Configuration(
        header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
    )
    connection = h2.connection.H2Connection(config)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        connection.initiate_connection()
        connection.send_headers(1, head, end_stream=True)
        writer.write(connection.data_to_send())
        async with asyncio.timeout(10):
            while chunk := await reader.read(65536):
                for event in connection.receive_data(chunk):
                    if isinstance(event, h2.events.ResponseReceived):
                        return int(dict(event.headers)[b":status"])
                    if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                        return None
                writer.write(connection.data_to_send())
    except ConnectionError:
        pass
    finally:
        writer.close()
    return None


def pseudo(place: Place, changed: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    usual = {b":method": b"GET", b":scheme": b"http", b":authority": b"{gate}", b":path": b"/m/x"}
    return [(name, place.filled(value)) for name, value in {**usual, **changed}.items()]


@pytest.mark.parametrize("name", PSEUDO)
async def test_pseudo_header_leads_nowhere_else(place: Place, name: str) -> None:
    status = await http2(place.served.port, pseudo(place, PSEUDO[name]))
    assert status is None or 200 <= status < 500
    assert len(place.upstream.heads) == (status == 200)


# A target that is no target at all in HTTP/2's eyes is covered by PSEUDO.
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.startswith(b"/")])
async def test_target_leads_nowhere_else_over_http2(place: Place, name: str) -> None:
    status = await http2(place.served.port, pseudo(place, {b":path": TARGETS[name]}))
    assert status is None or 200 <= status < 500
    assert len(place.upstream.heads) == (status == 200)


@pytest.mark.parametrize(
    "name", [name for name in HEADERS if "onnection" not in name and "upgrade" not in name]
)
async def test_header_leads_nowhere_else_over_http2(place: Place, name: str) -> None:
    changed = {key.lower(): value for key, value in HEADERS[name]}
    status = await http2(place.served.port, pseudo(place, changed))
    assert status in (None, 200, 400)
    assert [head.target for head in place.upstream.heads] == [b"/base/x"] * (status == 200)
