"""The two transports below the upstream client: the Rust one, and httpx's own as the fallback.

Whatever they raise is translated here, by one table, into the gateway's errors.
"""

import logging
import ssl
from collections.abc import AsyncIterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import httpx
from pyreqwest import exceptions as reqwest
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from backend.config import Settings
from backend.errors import (
    BadTarget,
    GatewayError,
    InternalError,
    Overloaded,
    UpstreamBroken,
    UpstreamConnectTimeout,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamTotalTimeout,
)
from backend.services import sockets
from backend.services.headers import Pair, content_length
from backend.services.policies import Timeouts
from backend.services.streams import ByteStream

log = logging.getLogger("gateway.upstream")

Body = bytes | AsyncIterable[bytes] | None

# What each foreign exception means here. A test walks both libraries and fails when one is missing.
MEANING: Mapping[type[Exception], type[GatewayError]] = {
    reqwest.ConnectError: UpstreamRefused,
    reqwest.ConnectTimeoutError: UpstreamConnectTimeout,
    reqwest.PoolTimeoutError: Overloaded,
    reqwest.ReadTimeoutError: UpstreamFirstByteTimeout,
    reqwest.WriteTimeoutError: UpstreamFirstByteTimeout,
    reqwest.RequestTimeoutError: UpstreamTotalTimeout,
    reqwest.ReadError: UpstreamBroken,
    reqwest.WriteError: UpstreamBroken,
    reqwest.NetworkError: UpstreamBroken,
    reqwest.TransportError: UpstreamBroken,
    reqwest.RequestPanicError: UpstreamBroken,
    reqwest.StatusError: UpstreamBroken,
    reqwest.RedirectError: UpstreamGarbage,
    reqwest.DecodeError: UpstreamGarbage,
    reqwest.BodyDecodeError: UpstreamGarbage,
    reqwest.JSONDecodeError: UpstreamGarbage,
    reqwest.RequestError: UpstreamBroken,
    reqwest.ClientClosedError: Overloaded,
    reqwest.BuilderError: InternalError,
    reqwest.DetailedPyreqwestError: UpstreamBroken,
    reqwest.PyreqwestError: UpstreamBroken,
    httpx.ConnectError: UpstreamRefused,
    httpx.ConnectTimeout: UpstreamConnectTimeout,
    httpx.PoolTimeout: Overloaded,
    httpx.ReadTimeout: UpstreamFirstByteTimeout,
    httpx.WriteTimeout: UpstreamFirstByteTimeout,
    httpx.TimeoutException: UpstreamTotalTimeout,
    httpx.ReadError: UpstreamBroken,
    httpx.WriteError: UpstreamBroken,
    httpx.CloseError: UpstreamBroken,
    httpx.NetworkError: UpstreamBroken,
    httpx.RemoteProtocolError: UpstreamBroken,
    httpx.LocalProtocolError: UpstreamBroken,
    httpx.ProtocolError: UpstreamBroken,
    httpx.ProxyError: UpstreamBroken,
    httpx.TransportError: UpstreamBroken,
    httpx.DecodingError: UpstreamGarbage,
    httpx.TooManyRedirects: UpstreamGarbage,
    httpx.RequestError: UpstreamBroken,
    httpx.HTTPStatusError: UpstreamBroken,
    httpx.HTTPError: UpstreamBroken,
    httpx.UnsupportedProtocol: InternalError,
    httpx.InvalidURL: InternalError,
    httpx.CookieConflict: InternalError,
    httpx.StreamError: UpstreamBroken,
    httpx.StreamConsumed: InternalError,
    httpx.StreamClosed: UpstreamBroken,
    httpx.ResponseNotRead: InternalError,
    httpx.RequestNotRead: InternalError,
}
_FOREIGN = (
    reqwest.PyreqwestError,
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    httpx.StreamError,
)


# How the Rust client's own words begin when it had no connection yet; its `ConnectError` also stands for
# connections that broke after the call was sent (pyreqwest 0.15), and those may have done the work.
_NOT_CONNECTED = "client error (Connect)"


def meaning_of(exc: Exception) -> GatewayError:
    """Translate an exception of a client library into the gateway's own tree."""
    if isinstance(exc, reqwest.ConnectError) and not _never_connected(exc):
        return UpstreamBroken()
    for kind in type(exc).__mro__:
        if kind in MEANING:
            return MEANING[kind]()
    return UpstreamBroken()


def _never_connected(exc: reqwest.ConnectError) -> bool:
    return any(cause["message"] == _NOT_CONNECTED for cause in exc.details["causes"] or ())


@contextmanager
def translated() -> Iterator[None]:
    """Let no exception of a client library out of this file."""
    try:
        yield
    except _FOREIGN as exc:
        raise meaning_of(exc) from exc


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """One call as it goes on the wire: `origin` is scheme and authority, `target` the raw path and query."""

    method: str
    origin: str
    target: bytes
    headers: tuple[Pair, ...]
    body: bytes | ByteStream | None
    timeouts: Timeouts
    # The headers ask for another protocol on this connection; 101 is an answer then.
    upgrade: bool = False

    def __post_init__(self) -> None:
        # Joined to an origin, a target like "@elsewhere/" would name another host.
        if not self.target.startswith(b"/"):
            raise BadTarget


class Opened(Protocol):
    """A transport's answer whose head has arrived."""

    status: int
    headers: list[Pair]
    http_version: str

    def at_hand(self) -> bytes | None:
        """Return the next of a body that has arrived to its end, None where `read` may have to wait."""

    async def read(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Transport(Protocol):
    async def open(self, call: UpstreamCall, body: Body) -> Opened: ...

    async def aclose(self) -> None: ...


class ReqwestTransport:
    """The Rust client. Everything that would change a message on its way is switched off."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = _build_reqwest(settings)
        self._verbatim: HttpxTransport | None = None

    async def open(self, call: UpstreamCall, body: Body) -> Opened:
        headers = _as_text(call)
        if headers is None:
            return await self._plain().open(call, body)
        with translated():
            url = call.origin + call.target.decode("ascii")
            request = self._client.request(call.method, url).headers(headers)
            if isinstance(body, bytes):
                request = request.body_bytes(body)
            elif body is not None:
                request = request.body_stream(body)
            # 0, or up to 64 KiB of a stream are held back until more arrives.
            streamed = request.streamed_read_buffer_limit(0).build_streamed()
            return _ReqwestOpened(streamed, await streamed.__aenter__())

    def _plain(self) -> "HttpxTransport":
        """Return the transport for the few messages that the Rust client would rewrite."""
        if self._verbatim is None:
            self._verbatim = HttpxTransport(self._settings)
        return self._verbatim

    async def aclose(self) -> None:
        await self._client.close()
        if self._verbatim is not None:
            await self._verbatim.aclose()


# RFC 3986 characters that the `url` crate keeps as they are; it rewrites ' in queries and all others.
_KEPT_IN_PATH = (
    bytes(range(0x30, 0x3A))
    + bytes(range(0x41, 0x5B))
    + bytes(range(0x61, 0x7B))
    + b"-._~!$&'()*+,;=:@%/[]|^"
)
_KEPT = _KEPT_IN_PATH.replace(b"'", b"") + b"?"


def _as_text(call: UpstreamCall) -> list[tuple[str, str]] | None:
    """Return the headers as the Rust client wants them, or None when it cannot send this call unchanged."""
    if call.target.translate(None, _KEPT):
        return None
    try:
        return [(name.decode("ascii"), value.decode("utf-8")) for name, value in call.headers]
    except UnicodeDecodeError:
        return None


def _build_reqwest(settings: Settings) -> Client:
    builder = (
        ClientBuilder()
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .follow_redirects(False)
        .no_proxy()
        .referer(False)
        .default_cookie_store(False)
        .connect_timeout(timedelta(seconds=settings.gateway_connect_seconds))
        .tcp_nodelay(True)
        .tcp_keepalive(timedelta(seconds=sockets.KEEPALIVE_IDLE_SECONDS))
        .tcp_keepalive_interval(timedelta(seconds=sockets.KEEPALIVE_INTERVAL_SECONDS))
        .tcp_keepalive_retries(sockets.KEEPALIVE_PROBES)
        .pool_max_idle_per_host(settings.upstream_max_keepalive)
        .pool_idle_timeout(timedelta(seconds=settings.upstream_keepalive_seconds))
    )
    if settings.upstream_http_version == "2":
        return builder.http2_prior_knowledge().build()
    return builder.http2(settings.upstream_http_version == "auto").build()


class _ReqwestOpened:
    def __init__(self, streamed: StreamRequest, response: Response) -> None:
        self.status = response.status
        self.http_version = response.version
        self.headers = _raw_pairs(response)
        self._streamed = streamed
        self._reader = response.body_reader

    def at_hand(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        with translated():
            while (chunk := await self._reader.read_chunk()) is not None:
                if len(chunk):
                    return bytes(chunk)
        return b""

    async def aclose(self) -> None:
        await self._streamed.__aexit__(None, None, None)


def _raw_pairs(response: Response) -> list[Pair]:
    try:
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in response.headers.items()]
    except ValueError:
        return _readable_pairs(response)


def _readable_pairs(response: Response) -> list[Pair]:
    """Relay what can be read of a head with non-ASCII values, which the Rust client gives to nobody."""
    pairs: list[Pair] = []
    for name in dict.fromkeys(response.headers.keys()):
        try:
            values = response.headers.getall(name)
            pairs += [(name.encode("ascii"), value.encode("ascii")) for value in values]
        except ValueError:
            log.warning("left out non-ASCII upstream header %s; UPSTREAM_TRANSPORT=httpx relays it", name)
    return pairs


class HttpxTransport:
    """httpx's own transport by its public interface: without a client nothing is added or followed."""

    def __init__(self, settings: Settings) -> None:
        self._connect = settings.gateway_connect_seconds
        self._transport = httpx.AsyncHTTPTransport(
            verify=ssl.create_default_context(),
            trust_env=False,
            http1=settings.upstream_http_version != "2",
            http2=settings.upstream_http_version != "1.1",
            limits=httpx.Limits(
                max_connections=None,  # calls are counted above
                max_keepalive_connections=settings.upstream_max_keepalive,
                keepalive_expiry=settings.upstream_keepalive_seconds,
            ),
        )

    async def open(self, call: UpstreamCall, body: Body) -> Opened:
        request = httpx.Request(
            call.method,
            call.origin,
            headers=list(call.headers),
            content=body,
            extensions={
                # httpcore sends this as it is; httpx would encode and normalise the path of a URL.
                "target": call.target,
                "timeout": {"connect": self._connect, "pool": self._connect, "read": None, "write": None},
            },
        )
        with translated():
            return _HttpxOpened(await self._transport.handle_async_request(request))

    async def aclose(self) -> None:
        await self._transport.aclose()


class _HttpxOpened:
    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.http_version = response.extensions.get("http_version", b"HTTP/1.1").decode("ascii")
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self._response = response
        self._left = content_length(self.headers)
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - narrows the type
        self._chunks = aiter(response.stream)

    def at_hand(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        with translated():
            chunk = await anext(self._chunks, b"")
            if self._left is not None:
                self._left -= len(chunk)
                if chunk and self._left == 0:
                    # httpcore keeps a connection only when it has looked past the last byte.
                    await anext(self._chunks, b"")
            return chunk

    async def aclose(self) -> None:
        await self._response.aclose()
