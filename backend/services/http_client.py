"""The process's one upstream client: two doors, one pool.

`HttpClient.open` is the narrow door of the forwarding core: raw headers, raw target, streamed bodies.
`HttpClient.http` is an `httpx.AsyncClient` over the same pool for what the gateway asks for itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from backend.config import Settings
from backend.errors import (
    GatewayError,
    UploadStalled,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamIdleTimeout,
    UpstreamTotalTimeout,
)
from backend.services.policies import Timeouts
from backend.services.slots import Slots
from backend.services.streams import ByteStream
from backend.services.transports import Body, Opened, Transport, UpstreamCall, translated, transport_of

# A client that stalls its upload holds an upstream place: it gets this long between two chunks.
UPLOAD_IDLE_SECONDS = 60.0

# What the gateway asks for itself are short JSON answers.
ANSWER_BYTES = 1 << 20

# Where a request of the front door carries its limits.
TIMEOUTS = "gateway.timeouts"


class HttpClient:
    """Both doors over one transport, with one count of calls in flight.

    Use as an async context manager, on the loop that serves: it belongs to that loop alone.
    """

    def __init__(self, settings: Settings, transport: Transport | None = None) -> None:
        self._settings = settings
        self._transport = transport
        self.slots = Slots(
            settings.upstream_max_connections,
            waiting=settings.gateway_pool_waiting,
            wait_seconds=settings.gateway_pool_wait_seconds,
        )
        self.http = httpx.AsyncClient(
            transport=_FrontDoor(self),
            cookies=_jar_that_accepts_nothing(),
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113 - each call's limits are set by `open`
        )

    async def __aenter__(self) -> "HttpClient":
        if self._transport is None:
            self._transport = transport_of(self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()
        if self._transport is not None:
            await self._transport.aclose()

    async def open(self, call: UpstreamCall) -> "UpstreamResponse":
        """Send one call and return its answer once the head is there.

        Raises Overloaded without a free place, UpstreamError for every failure of the upstream, and
        whatever the request body raised.
        """
        assert self._transport is not None, "the client is not open"  # noqa: S101 - a programming error
        await self.slots.acquire()
        try:
            deadline = _deadline(call.timeouts)
            opened = await self._open_in_time(self._transport, call, deadline)
            return UpstreamResponse(opened, call.timeouts, deadline, self.slots)
        except BaseException:
            self.slots.release()
            raise

    async def ask(self, method: str, url: str, timeouts: Timeouts, json: object = None) -> "Answer":
        """Make a call of the gateway's own through the front door and read the answer whole.

        Raises UpstreamGarbage for an answer over ANSWER_BYTES, and what `open` raises.
        """
        request = self.http.build_request(method, url, json=json, extensions={TIMEOUTS: timeouts})
        with translated():
            response = await self.http.send(request, stream=True)
            try:
                content = bytearray()
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > ANSWER_BYTES:
                        raise UpstreamGarbage("The avatar service answered far more than expected.")
            finally:
                await response.aclose()
        return Answer(response.status_code, bytes(content))

    async def _open_in_time(self, transport: Transport, call: UpstreamCall, deadline: float | None) -> Opened:
        loop = asyncio.get_running_loop()
        upload: Upload | None = None

        def latest() -> float:
            return min(loop.time() + call.timeouts.first_byte, deadline or float("inf"))

        try:
            async with asyncio.timeout_at(latest()) as clock:
                body: Body
                if call.body is None or isinstance(call.body, bytes):
                    body = call.body
                else:
                    body = upload = Upload(call.body, lambda: clock.reschedule(latest()))
                with translated():
                    return await transport.open(call, body)
        except TimeoutError:
            late = deadline is not None and loop.time() >= deadline
            raise (UpstreamTotalTimeout if late else UpstreamFirstByteTimeout) from None
        except GatewayError:
            if upload is not None and upload.failure is not None:
                raise upload.failure from None
            raise

    def __repr__(self) -> str:
        return f"<HttpClient {type(self._transport).__name__} {self.slots!r}>"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer to a call of the gateway's own."""

    status: int
    content: bytes


class UpstreamResponse:
    """An upstream's answer: head at once, body by `read`; owns its place in the pool and its connection.

    Both go back exactly once, when the body ends, breaks, or is closed.
    """

    def __init__(self, opened: Opened, timeouts: Timeouts, deadline: float | None, slots: Slots) -> None:
        self.status = opened.status
        self.headers = opened.headers
        self.http_version = opened.http_version
        self._opened = opened
        self._idle = timeouts.idle
        self._deadline = deadline
        self._slots: Slots | None = slots

    async def read(self) -> bytes:
        """Return the next bytes of the body as they arrived, b"" at its end.

        Raises UpstreamIdleTimeout, UpstreamTotalTimeout, UpstreamBroken.
        """
        if self._slots is None:
            return b""
        try:
            with translated():
                chunk = await self._next_chunk()
        except BaseException:
            await self.aclose()
            raise
        if not chunk:
            await self.aclose()
        return chunk

    async def _next_chunk(self) -> bytes:
        now = asyncio.get_running_loop().time()
        end = now + self._idle
        total_is_nearer = self._deadline is not None and self._deadline < end
        try:
            async with asyncio.timeout_at(self._deadline if total_is_nearer else end):
                return await self._opened.read()
        except TimeoutError:
            raise (UpstreamTotalTimeout if total_is_nearer else UpstreamIdleTimeout) from None

    async def aclose(self) -> None:
        """Give the place and the connection back; harmless when called again."""
        slots, self._slots = self._slots, None
        if slots is None:
            return
        try:
            await self._opened.aclose()
        finally:
            slots.release()

    def __repr__(self) -> str:
        return f"<UpstreamResponse {self.status} {'closed' if self._slots is None else 'open'}>"


class Upload:
    """A request body on its way up: restarts the first-byte clock with each chunk, keeps its own failure.

    Client libraries wrap what a body raises; `failure` is the reason as it was.
    """

    def __init__(self, source: ByteStream, on_progress: Callable[[], None]) -> None:
        self._source = source
        self._on_progress = on_progress
        self.failure: BaseException | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(UPLOAD_IDLE_SECONDS):
                chunk = await self._source.read()
        except TimeoutError:
            self.failure = UploadStalled()
            raise self.failure from None
        except BaseException as exc:
            self.failure = exc
            raise
        self._on_progress()
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _deadline(timeouts: Timeouts) -> float | None:
    return None if timeouts.total is None else asyncio.get_running_loop().time() + timeouts.total


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
            headers=tuple((name.lower(), value) for name, value in request.headers.raw),
            body=await request.aread() or None,
            timeouts=_timeouts_of(request.extensions),
        )
        response = await self._client.open(call)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_FrontDoorBody(response),
            extensions={"http_version": response.http_version.encode("ascii")},
        )


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
