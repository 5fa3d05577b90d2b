"""A gateway with mounts before one scripted peer, for raw sockets, on each transport."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import pytest
import pytest_asyncio

from backend.services.forwarding import Upstream
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Exchange, Head, Peer, Script, echo, until
from tests.support.ports import free_port
from tests.support.wire import Caller, Pair, Reply, call, calling, unanswering

MEGABYTE = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = (b"Connection", b"close")
ALL = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


@dataclass
class Wire:
    """A gateway with mounts before one scripted peer."""

    served: Served
    peer: Peer

    @property
    def port(self) -> int:
        return self.served.port

    @property
    def last(self) -> Head:
        return self.peer.heads[-1]

    @property
    def busy(self) -> int:
        return self.served.gateway.client.slots.in_use

    def play(self, script: Script) -> None:
        self.peer.script = script

    def say(self, *raw: bytes, then: str = "stay") -> None:
        """Let the peer answer with these bytes, then keep the connection, close or reset it."""

        async def script(exchange: Exchange) -> None:
            await exchange.body()
            for part in raw:
                await exchange.send(part)
            if then == "close":
                exchange.writer.close()
            elif then == "reset":
                exchange.reset()

        self.play(script)

    async def call(
        self, target: bytes = b"/open/a", *headers: Pair, method: bytes = b"GET", body: bytes | None = None
    ) -> Reply:
        return await call(self.port, target, *headers, method=method, body=body)

    def calling(self, **more: int) -> AbstractAsyncContextManager[Caller]:
        return calling(self.port, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["direct", "reqwest", "httpx"])
async def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Wire]:
    async with Peer(echo) as peer:
        with unanswering() as dead:
            mounts = [
                mount("/open", peer.url, methods=[*ALL, "OPTIONS"]),
                mount("/again", peer.url, methods=ALL),
                mount("/cookies", peer.url, methods=ALL, cookies=True),
                mount("/signed", peer.url, methods=ALL, auth="required"),
                mount("/maybe", peer.url, methods=ALL, auth="optional"),
                mount("/small", peer.url, methods=ALL, max_body_mb=0.125),
                mount("/quick", peer.url, methods=ALL, timeout=0.3),
                mount("/based", peer.url + "/v1/base"),
                mount("/dead", f"http://127.0.0.1:{dead}", methods=ALL),
                mount("/refused", f"http://127.0.0.1:{free_port()}", methods=ALL),
            ]
            settings = settings_for(
                tmp_path_factory.mktemp(request.param),
                upstream_transport=request.param,
                gateway_connect_seconds=0.3,
                gateway_mounts=mounts,
            )
            async with serving(settings) as served:
                yield Wire(served, peer)


@pytest_asyncio.fixture(loop_scope="module")
async def wire(gateway: Wire) -> AsyncIterator[Wire]:
    """The gateway with a peer that echoes; every place is free again after the test."""
    gateway.play(echo)
    gateway.peer.heads.clear()
    # What one test's peer did wrong is not held against the next one's.
    gateway.served.gateway.forwarder.readmit(Upstream.at("peer", gateway.peer.url))
    yield gateway
    await until(lambda: gateway.busy == 0)


@pytest.fixture
def transport(gateway: Wire) -> str:
    return gateway.served.gateway.settings.upstream_transport


def error_of(reply: Reply, status: int, code: str) -> dict[str, object]:
    """Check that an answer is the error it should be, with nothing internal in it."""
    assert reply.status == status, reply
    assert reply.get(b"content-type") == b"application/json"
    shown = json.loads(reply.body)
    assert set(shown) == {"msg", "code", "request_id", "retryable"}
    assert shown["code"] == code
    assert shown["msg"]
    assert ("timeout" in str(shown["msg"])) == (status == 504)
    assert reply.get(b"x-request-id") == str(shown["request_id"]).encode()
    text = reply.body.decode() + repr(reply.headers)
    text = text.replace(str(shown["request_id"]), "")
    for internal in ("127.0.0.1", "localhost", "Error", "Errno", "Traceback", "reqwest", "httpx", "hyper"):
        assert internal not in text
    assert not re.search(r"\b\d{5}\b", text), "a port number"
    return shown
