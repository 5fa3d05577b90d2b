"""Which HTTP the default transport speaks with an upstream, and how it finds out."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from backend.errors import UpstreamError

from ..support.http2_peer import Http2Peer, Stream
from ..support.peer import Exchange, Peer, until
from ..support.upstream import Door, client_of

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 in one file."""
    folder = tmp_path_factory.mktemp("tls")
    file = folder / "both.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        ["openssl", *made, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    file.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return file


@pytest.fixture(autouse=True)
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


def context(certificate: Path, *protocols: str) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate)
    if protocols:
        made.set_alpn_protocols(protocols)
    return made


async def over_http2(stream: Stream) -> None:
    await until(lambda: stream.number >= 1)
    await stream.reply(await stream.body())


async def over_http1(exchange: Exchange) -> None:
    await exchange.reply(await exchange.body())


class SecurePeer(Peer):
    """A peer behind TLS that speaks HTTP/1.1."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(over_http1)
        self._tls = tls

    async def __aenter__(self) -> "SecurePeer":
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, backlog=2048, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@asynccontextmanager
async def peers(certificate: Path) -> AsyncIterator[tuple[Http2Peer, SecurePeer, SecurePeer]]:
    """One that chooses HTTP/2, one that chooses HTTP/1.1, one that chooses nothing."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        yield (
            await enter(Http2Peer(over_http2, tls=context(certificate, "h2", "http/1.1"))),
            await enter(SecurePeer(context(certificate, "http/1.1"))),
            await enter(SecurePeer(context(certificate))),
        )


async def version(door: Door, url: str) -> str:
    got = await door.call(url, method="POST", body=b"x" * 100_000)
    assert await got.whole() == b"x" * 100_000
    return str(got._source.http_version)


async def test_https_goes_by_what_the_server_chooses(certificate: Path) -> None:
    async with peers(certificate) as (http2, http1, neither), client_of("direct") as client:
        door = Door("open", client)
        for _ in range(2):
            assert await version(door, http2.url) == "HTTP/2"
            assert await version(door, http1.url) == "HTTP/1.1"
            assert await version(door, neither.url) == "HTTP/1.1"
        assert [http2.connections, http1.connections, neither.connections] == [1, 1, 1]


async def test_version_1_1_never_offers_http2(certificate: Path) -> None:
    async with (
        peers(certificate) as (http2, http1, _),
        client_of("direct", upstream_http_version="1.1") as client,
    ):
        assert await version(Door("open", client), http1.url) == "HTTP/1.1"
        with pytest.raises(UpstreamError):  # this peer knows nothing else
            await version(Door("open", client), http2.url)
        assert http2.heads == []


async def test_version_2_needs_no_choice_of_the_server(certificate: Path) -> None:
    async with (
        Http2Peer(over_http2, tls=context(certificate)) as peer,
        client_of("direct", upstream_http_version="2") as client,
    ):
        assert await version(Door("open", client), peer.url) == "HTTP/2"


async def test_burst_to_a_server_without_http2_is_not_held_up_once_that_is_known(certificate: Path) -> None:
    async with peers(certificate) as (_, http1, _), client_of("direct") as client:
        door = Door("open", client)
        first = await asyncio.gather(*(door.fetch(http1.url) for _ in range(20)))
        second = await asyncio.gather(*(door.fetch(http1.url) for _ in range(20)))
        assert [status for status, _, _ in first + second] == [200] * 40
        assert http1.connections <= 20


async def test_server_that_changes_its_mind_is_asked_again(certificate: Path) -> None:
    async with client_of("direct") as client:
        door = Door("open", client)
        async with SecurePeer(context(certificate, "http/1.1")) as peer:
            assert await version(door, peer.url) == "HTTP/1.1"
            url, port = peer.url, peer.port
        later = Http2Peer(over_http2, tls=context(certificate, "h2"))
        later._server = await asyncio.start_server(later._connected, "127.0.0.1", port, ssl=later._tls)
        try:
            with suppress(UpstreamError):  # the kept connection may end with this call
                await version(door, url)
            assert await version(door, url) == "HTTP/2"
        finally:
            await later.__aexit__()


async def test_each_upstream_has_the_version_that_was_chosen_for_it() -> None:
    async with Http2Peer(over_http2) as http2, Peer(over_http1) as http1:
        mounts = [{"prefix": "/a", "upstream": f"{http2.url}/base", "auth": "none", "http_version": "2"}]
        async with client_of("direct", gateway_mounts=mounts) as client:
            assert await version(Door("open", client), http2.url) == "HTTP/2"
            assert await version(Door("open", client), http1.url) == "HTTP/1.1"
        async with client_of("direct", gateway_http_versions=f"{http2.url}=2") as client:
            assert await version(Door("open", client), http2.url) == "HTTP/2"
            assert await version(Door("open", client), http1.url) == "HTTP/1.1"
        other = {"upstream_http_version": "2", "gateway_http_versions": f"{http1.url}=1.1"}
        async with client_of("direct", **other) as client:
            assert await version(Door("open", client), http2.url) == "HTTP/2"
            assert await version(Door("open", client), http1.url) == "HTTP/1.1"
