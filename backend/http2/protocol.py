"""HTTP/2 for Hypercorn: one connection's calls, its writer, and the clocks that end it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated

from backend.http2.call import Call, scope_of
from backend.http2.connection import Connection, Data, Ended, Request
from backend.http2.frames import Code
from backend.http2.heads import Pair, RequestHead
from backend.http2.patience import Patience

log = logging.getLogger("gateway.http2")

# A head, and every other frame that is no body, is whole within this of its first octet.
HEAD_SECONDS = 10.0
# After GOAWAY what still arrives is dropped for so long: closing at once would reset the connection, and
# the client would lose what it was told.
LINGER_SECONDS = 1.0
# A client that takes nothing from the socket for so long has gone.
WRITE_STALL_SECONDS = 60.0


class Http2Protocol:
    """Takes the place of Hypercorn's H2Protocol; in it no stream waits for another's reader or writer."""

    def __init__(  # as Hypercorn calls it
        self,
        app: Any,
        config: Config,
        context: Any,
        task_group: Any,
        connection_state: Any,
        ssl: bool,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._task_group = task_group
        self._state = connection_state
        self._scheme = "https" if ssl else "http"
        self._client = client
        self._server = server
        self._send = send
        # Hypercorn has no event for a connection that must end although its client takes nothing.
        self._transport: asyncio.Transport = send.__self__.writer.transport  # type: ignore[attr-defined]
        self._head_bytes = config.h2_max_header_list_size
        self.connection = Connection(
            streams=config.h2_max_concurrent_streams, head_bytes=self._head_bytes, patience=Patience()
        )
        self._calls: dict[int, Call] = {}
        self._working = 0
        self._served = 0
        self._closed = False
        self._something = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._head_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Http2Protocol {self._client}, {self._working} calls, {self.connection!r}>"

    @property
    def idle(self) -> bool:
        return not self._working and not self.connection.streams

    async def initiate(self, headers: object = None, settings: object = None) -> None:
        """Begin with the preface; upgrades from HTTP/1.1, which bring `headers` along, are not made."""
        if headers is not None or settings is not None:
            raise RuntimeError("h2c by Upgrade is not spoken")
        self.connection.start()
        self._task_group.spawn(self._write)
        self.flush()
        self._time_heads()
        await self._send(Updated(idle=True))  # the preface looked like a request

    async def handle(self, event: Event) -> None:
        if isinstance(event, Closed):
            self._close()
        elif isinstance(event, RawData) and not self._closed:
            await self._received(event.data)

    async def _received(self, data: bytes) -> None:
        was_idle = self.idle
        if self._context.terminated.is_set():
            self.connection.leave()
        self._take(data)
        while self.connection.more and not self._closed:
            self.flush()
            await asyncio.sleep(0)
            self._take(b"")
        self._time_heads()
        self.flush()
        if self.connection.failed or (self.connection.client_leaves and self.idle):
            self._linger()
        elif self.idle != was_idle:
            await self._send(Updated(idle=self.idle))

    def _take(self, data: bytes) -> None:
        for event in self.connection.receive(data):
            match event:
                case Request():
                    self._begin(event)
                case Data():
                    if call := self._calls.get(event.stream_id):
                        call.arrived(event.content, ended=event.ended)
                case Ended():
                    self._end(event.stream_id)

    # Calls

    def _begin(self, request: Request) -> None:
        self._served += 1
        if self._served >= self._config.keep_alive_max_requests:
            self.connection.leave()
        if status := self._refusal(request.head):
            headers = [(b"content-length", b"0"), *self.own_headers()]
            self.connection.answer(request.stream_id, status, headers, end=True)
            return
        scope = scope_of(
            request.head,
            scheme=self._scheme,
            root_path=self._config.root_path,
            client=self._client,
            server=self._server,
            state=self._state.copy(),
        )
        call = self._calls[request.stream_id] = Call(request.stream_id, self, scope)
        if request.ended:
            call.arrived(b"", ended=True)
        self._working += 1
        self._task_group.spawn(self._work, call)

    def _refusal(self, head: RequestHead) -> int | None:
        """Return the status for a request that no application should see."""
        if head.size > self._head_bytes:
            return 431
        if head.method == b"CONNECT":
            return 405  # a gateway opens no tunnels
        return None if head.target_is_plain else 400

    async def _work(self, call: Call) -> None:
        try:
            run = partial(self._loop.run_in_executor, None)
            await self._app(call.scope, call.receive, call.send, run, self._call_soon)
        except Exception:
            await self._config.log.exception("Error in ASGI Framework")
        finally:
            self._working -= 1
            call.finish()
            if self._calls.pop(call.id, None) is None:
                self.connection.aftermath -= 1
        await self._context.mark_request()
        if self.idle and not self._closed:
            await self._rest()

    async def _rest(self) -> None:
        """Nobody has a call open: wait for the next, or end."""
        if self._context.terminated.is_set():
            self.connection.leave()
        if self.connection.leaving or self.connection.client_leaves:
            self.flush()
            self._linger()
        else:
            await self._send(Updated(idle=True))

    def _call_soon(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a coroutine function on the loop for an application in a thread."""
        return asyncio.run_coroutine_threadsafe(function(*arguments), self._loop).result()

    def _end(self, stream_id: int) -> None:
        call = self._calls.pop(stream_id, None)
        if call is not None:
            self.connection.aftermath += 1
            call.left()

    def own_headers(self) -> list[Pair]:
        """Return Date and Server where Hypercorn was not told to leave them to the application."""
        return self._config.response_headers("h2")

    # Writing

    def flush(self) -> None:
        """Let the writer look."""
        for stream_id in self.connection.outbox.drained():
            if call := self._calls.get(stream_id):
                call.drained()
        if self.connection.outbox.waiting:
            self._something.set()

    async def _write(self) -> None:
        while not self._closed:
            self._something.clear()
            while burst := self.connection.outbox.take():
                self.flush()
                stalled = self._loop.call_later(WRITE_STALL_SECONDS, self._transport.abort)
                try:
                    await self._send(RawData(burst))
                finally:
                    stalled.cancel()
            await self._something.wait()

    # Ending

    def _time_heads(self) -> None:
        """Run a clock while something is arriving that should not take long."""
        if not self.connection.amid_head or self.connection.failed:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(HEAD_SECONDS, self._head_took_too_long)

    def _head_took_too_long(self) -> None:
        self.connection.fail(Code.ENHANCE_YOUR_CALM, "a head that takes too long")
        for stream_id in [*self._calls]:
            self._end(stream_id)
        self.flush()
        self._linger()

    def _linger(self) -> None:
        """Close once the client had time to read why."""
        if not self._closed:
            self._loop.call_later(LINGER_SECONDS, self._transport.close)
            self._loop.call_later(2 * LINGER_SECONDS, self._transport.abort)

    def _close(self) -> None:
        """The socket ends: by the client, or because it was idle."""
        if self._closed:
            return
        self._closed = True
        last = self.connection.close()
        if last and not self._transport.is_closing():
            self._transport.write(last)
        if self._head_timer is not None:
            self._head_timer.cancel()
        for stream_id in [*self._calls]:
            self._end(stream_id)
        self._something.set()
