"""The process's one upstream client: two doors, one pool.

`HttpClient.open` is the narrow door of the forwarding core: raw headers, raw target, streamed bodies.
`HttpClient.http` is an `httpx.AsyncClient` over the same pool for what the gateway asks for itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import perf_counter
from typing import Any, TypeVar, cast

import httpx

from backend.config import Settings
from backend.errors import (
    ClientGone,
    GatewayError,
    UploadStalled,
    UpstreamGarbage,
)
from backend.services.call_limits import Limits
from backend.services.deadline import Deadline
from backend.services.dialer import Dialer, Upgraded
from backend.services.direct_transport import DirectTransport
from backend.services.headers import HOP_BY_HOP, PSEUDONYM, Pair, content_length
from backend.services.policies import Timeouts
from backend.services.slots import Places, Share, Slots
from backend.services.streams import ByteStream, unpacked
from backend.services.traces import Call
from backend.services.trail import TRAIL
from backend.services.transports import (
    HttpxTransport,
    Opened,
    ReqwestTransport,
    Transport,
    UpstreamCall,
    translated,
)

T = TypeVar("T")

TRANSPORTS: Mapping[str, Callable[[Settings], Transport]] = {
    "direct": DirectTransport,
    "reqwest": ReqwestTransport,
    "httpx": HttpxTransport,
}

# A worker has so many times UPSTREAM_MAX_CONNECTIONS in flight, answered calls included: streams that stay
# open cost an upstream little, and must not keep new calls out.
CEILING = 10

# What the gateway asks for itself are short JSON answers.
ANSWER_BYTES = 1 << 20

# Where a request of the front door carries its limits, and its upstream's share.
TIMEOUTS = "gateway.timeouts"
SHARE = "gateway.share"


class HttpClient:
    """Both doors over one transport, with one count of calls in flight in `slots`.

    Use as an async context manager, on the loop that serves: it belongs to that loop alone.
    """

    def __init__(self, settings: Settings, transport: Transport | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self._dialer = Dialer(settings)
        self.slots = Slots(CEILING * settings.upstream_max_connections, waiting=0, wait_seconds=0)
        self._unshared = self.share(settings.upstream_max_connections)
        self.http = httpx.AsyncClient(
            transport=_FrontDoor(self),
            # Short answers are not worth packing.
            headers={"user-agent": PSEUDONYM.decode("ascii"), "accept-encoding": "identity"},
            cookies=_jar_that_accepts_nothing(),
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113 - each call's limits are set by `open`
        )

    async def __aenter__(self) -> "HttpClient":
        if self._transport is None:
            self._transport = TRANSPORTS[self._settings.upstream_transport](self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    def share(self, max_calls: int | None = None) -> Share:
        """Return a new upstream's share: `max_calls` from sending to the last byte, or the settings' number
        of unanswered ones."""
        return Share(
            self.slots,
            max_calls or self._settings.upstream_max_connections,
            waiting=self._settings.gateway_pool_waiting,
            wait_seconds=self._settings.gateway_pool_wait_seconds,
            to_the_end=max_calls is not None,
        )

    async def open(self, call: UpstreamCall, share: Places | None = None) -> "UpstreamResponse":
        """Send one call and return its answer once the head is there.

        Raises Overloaded without a free place, UpstreamError for every failure of the upstream, and
        whatever the request body raised.
        """
        assert self._transport is not None, "the client is not open"  # noqa: S101 - a programming error
        share = share or self._unshared
        trail = TRAIL.get()
        asked = perf_counter()
        try:
            await share.acquire()
        finally:
            placed = perf_counter()
            trail.wait += placed - asked
        traced = None
        if trail.trace is not None:
            traced = trail.trace.call(call.method, trail.upstream_name)
            call = replace(call, headers=traced.joined(call.headers))
        limits = Limits(call.timeouts)
        whole = call.body is None or isinstance(call.body, bytes)
        upload = None if whole else Upload(cast(ByteStream, call.body), limits)
        if upload is not None:
            share.answered()  # not yet, but a client that stalls its upload is not the upstream's fault
        try:
            transport = self._dialer if call.upgrade else self._transport
            opened = await self._open_in_time(transport, call, upload, limits)
            switched = call.upgrade and opened.status == 101
            if not (200 <= opened.status < 600 or switched):  # such as a switch that nobody asked for
                await opened.aclose()
                raise UpstreamGarbage
        except BaseException as error:
            if traced is not None:
                traced.finish(getattr(error, "code", "cancelled"))
            if upload is not None:
                upload.close()
            limits.close()
            share.release(answered=upload is not None)
            raise
        finally:
            trail.upstream += perf_counter() - placed
        if upload is None:
            share.answered()
        if traced is not None:
            traced.answered(opened.status)
        return UpstreamResponse(opened, limits, share, upload, traced)

    async def ask(
        self, method: str, url: str, timeouts: Timeouts, json: object = None, share: Places | None = None
    ) -> "Answer":
        """Make a call of the gateway's own through the front door and read the answer whole.

        Raises UpstreamGarbage for an answer over ANSWER_BYTES, and what `open` raises.
        """
        known = {TIMEOUTS: timeouts, SHARE: share}
        request = self.http.build_request(method, url, json=json, extensions=known)
        with translated():
            response = await self.http.send(request, stream=True)
            try:
                content = bytearray()
                # Nothing packed was asked for, and httpx would unpack it however large it becomes.
                packing = response.headers.get("content-encoding", "identity")
                plain = packing == "identity"
                with TRAIL.get().waiting():
                    async for chunk in response.aiter_bytes() if plain else response.aiter_raw():
                        content += chunk
                        if len(content) > ANSWER_BYTES:
                            raise UpstreamGarbage("The avatar service answered far more than expected.")
            finally:
                await response.aclose()
        whole = bytes(content) if plain else unpacked(bytes(content), packing, ANSWER_BYTES)
        return Answer(response.status_code, whole, response.headers.raw)

    async def _open_in_time(
        self, transport: Transport, call: UpstreamCall, upload: "Upload | None", limits: "Limits"
    ) -> Opened:
        if upload is None:
            return await limits.head(transport.open(call, cast(bytes | None, call.body)))
        try:
            return await limits.head(transport.open(call, upload))
        except GatewayError:
            if upload.failure is not None:
                raise upload.failure from None
            raise

    def __repr__(self) -> str:
        return f"<HttpClient {type(self._transport).__name__} {self.slots!r}>"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer to a call of the gateway's own."""

    status: int
    content: bytes
    headers: list[Pair] = field(default_factory=list, compare=False)
    attempts: int = 1

    async def aclose(self) -> None:
        """Nothing is held: it was read whole."""


class UpstreamResponse:
    """An upstream's answer: head at once, body by `read`; owns its place in the pool and its connection.

    Both go back exactly once, when the body ends, breaks, or is closed.
    """

    def __init__(
        self,
        opened: Opened,
        limits: Limits,
        share: Places,
        upload: "Upload | None",
        traced: Call | None = None,
    ) -> None:
        self.status = opened.status
        self.headers = opened.headers
        self.http_version = opened.http_version
        self._opened = opened
        self._limits = limits
        self._share: Places | None = share
        self._upload = upload
        self._traced = traced
        # With a known length the end is known with the last byte: no further look at the connection.
        self._left = content_length(opened.headers)

    async def read(self) -> bytes:
        """Return the next bytes of the body as they arrived, b"" at its end.

        Raises UpstreamIdleTimeout, UpstreamTotalTimeout, UpstreamBroken.
        """
        if self._share is None:
            return b""
        # A small answer is here with its head, whole: a clock for that would cost more than the rest of this.
        chunk = self._opened.at_hand() or await self._next()
        if self._left is not None:
            self._left -= len(chunk)
        if not chunk or self._left == 0:
            await self.aclose()
        return chunk

    async def _next(self) -> bytes:
        try:
            return await self._limits.chunk(self._opened.read())
        except BaseException as error:
            if self._traced is not None:
                self._traced.finish(getattr(error, "code", "cancelled"))
            await self.aclose()
            raise

    def hold(self) -> bool:
        """Leave what comes now unread until the next `read`, which then has it together.

        False where the transport has no way to: its pieces come one by one.
        """
        hold: Callable[[], None] | None = getattr(self._opened, "hold", None)
        if hold is None or self._share is None:
            return False
        hold()
        return True

    def take(self) -> tuple[asyncio.Transport, bytes]:
        """After 101 hand the connection over, with what was read of it already; the place goes back."""
        assert self._share is not None and isinstance(self._opened, Upgraded)  # noqa: S101, PT018 - a programming error
        share, self._share = self._share, None
        self._limits.close()
        share.release(answered=True)
        return self._opened.take()

    async def aclose(self) -> None:
        """Give the place and the connection back; harmless when called again."""
        share, self._share = self._share, None
        if share is None:
            return
        self._limits.close()
        if self._traced is not None:
            self._traced.finish()
        if self._upload is not None:
            self._upload.close()
        try:
            await self._opened.aclose()
        finally:
            share.release(answered=True)

    def __repr__(self) -> str:
        return f"<UpstreamResponse {self.status} {'closed' if self._share is None else 'open'}>"


class Upload:
    """A request body on its way up: moves the call's clock with each chunk, keeps its own failure.

    Client libraries wrap what a body raises; `failure` is the reason as it was.
    """

    def __init__(self, source: ByteStream, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._deadline = Deadline()
        self._reading: asyncio.Task[object] | None = None
        self._closed = False
        self.failure: Exception | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._closed:
            raise ClientGone
        self._limits.uploading()
        self._reading = asyncio.current_task()
        try:
            late = self._deadline.now() + self._limits.upload_idle
            chunk = await self._deadline.within(self._source.read(), late)
        except TimeoutError:
            self.failure = UploadStalled()
            raise self.failure from None
        except asyncio.CancelledError:
            if self._closed:
                raise ClientGone from None
            raise
        except Exception as exc:
            self.failure = exc
            raise
        finally:
            self._reading = None
            self._deadline.close()
        self._limits.uploaded()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def close(self) -> None:
        """Take no more of the source: the call is over, whether or not the upstream wanted the whole body.

        The Rust client reads on in tasks of its own, and would do so for as long as anything comes.
        """
        self._closed = True
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()


def _jar_that_accepts_nothing() -> CookieJar:
    """A shared client with a working jar would send one visitor's cookies with the next visitor's call."""
    return CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))


class _FrontDoor(httpx.AsyncBaseTransport):
    """Lets `httpx.AsyncClient` speak through `HttpClient.open`."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call = UpstreamCall(
            method=request.method,
            origin=str(request.url.copy_with(raw_path=b"/")).rstrip("/"),
            target=request.url.raw_path,
            headers=tuple(_end_to_end(request.headers)),
            body=await request.aread() or None,
            timeouts=_timeouts_of(request.extensions),
        )
        response = await self._client.open(call, request.extensions.get(SHARE))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_FrontDoorBody(response),
            extensions={"http_version": response.http_version.encode("ascii")},
        )


def _end_to_end(headers: httpx.Headers) -> Iterator[Pair]:
    """Yield what the transports send as it is; host and connection are theirs to say."""
    for name, value in headers.raw:
        if (lower := name.lower()) != b"host" and lower not in HOP_BY_HOP:
            yield lower, value


def _timeouts_of(extensions: Mapping[str, Any]) -> Timeouts:
    timeouts = extensions.get(TIMEOUTS)
    return timeouts if isinstance(timeouts, Timeouts) else Timeouts(first_byte=10, idle=10, total=30)


class _FrontDoorBody(httpx.AsyncByteStream):
    def __init__(self, response: UpstreamResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self._response.read():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
