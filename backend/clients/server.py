"""Serving on Hypercorn with our own HTTP/1.1: its configuration, lifespan and HTTP/2 stay.

Hypercorn's own loop hands every connection to its `TCPServer`, a stream reader and h11; here they are
kept for what is not plain HTTP/1.1 (docs/decisions/0008-http1-server.md).
"""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator
from socket import socket
from typing import Any, cast

from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.typing import AppWrapper
from hypercorn.utils import wrap_app

from backend.clients.call import Application, Call
from backend.clients.connection import Connection
from backend.idle import WatchedTCPServer

# How often deadlines are looked at.
LOOK_SECONDS = 0.5
# That the other side has closed is known to the system, also while nobody reads (Linux).
_LEFT = select.POLLERR | select.POLLHUP | getattr(select, "POLLRDHUP", 0)


async def serve(application: Application, config: Config, sock: socket, stop: asyncio.Event) -> None:
    """Serve until `stop`, then let calls in flight finish for `config.graceful_timeout` seconds."""
    wrapped = wrap_app(cast(Any, application), config.wsgi_max_body_size, "asgi")
    async with _lifespan(wrapped, config) as state:
        clients = Clients(application, wrapped, config, state)
        loop = asyncio.get_running_loop()
        tls: dict[str, Any] = {}
        if config.ssl_enabled:
            tls = {"ssl": config.create_ssl_context(), "ssl_handshake_timeout": config.ssl_handshake_timeout}
        server = await loop.create_server(clients.connection, sock=sock, backlog=config.backlog, **tls)
        try:
            await stop.wait()
        finally:
            server.close()
            # The gateway's own wants to know; other applications need not.
            getattr(application, "stopping", _nothing)()
            await clients.close(config.graceful_timeout)


def _nothing() -> None:
    """What an application does at a stop that it does not care about."""


@contextlib.asynccontextmanager
async def _lifespan(wrapped: AppWrapper, config: Config) -> AsyncIterator[dict[str, Any]]:
    """Hypercorn's own handling of startup and shutdown; gives what the application put into its state."""
    state: dict[str, Any] = {}
    lifespan = Lifespan(wrapped, config, asyncio.get_running_loop(), state)
    task = asyncio.create_task(lifespan.handle_lifespan())
    await lifespan.wait_for_startup()
    if task.done():
        task.result()
    try:
        yield state
    finally:
        await lifespan.wait_for_shutdown()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Clients:
    """Every connection of this process, and the calls that are answered on them."""

    def __init__(
        self, application: Application, wrapped: AppWrapper, config: Config, state: dict[str, Any]
    ) -> None:
        self.config = config
        self.state = state
        self.stopping = False
        self.paused: set[Connection] = set()
        self._application = application
        self._wrapped = wrapped
        self._loop = asyncio.get_running_loop()
        self._context = WorkerContext(None)
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._nobody = asyncio.Event()
        self.now = self._loop.time
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def connection(self) -> Connection:
        return Connection(self)

    def add(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self.stopping:
            connection.stop()

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.paused.discard(connection)
        self._note_nobody()

    def run(self, call: Call) -> None:
        """Answer a call in a task of its own."""
        self._tasks.add(self._loop.create_task(call.run(self._application)))

    def forget_task(self, task: "asyncio.Task[None] | None") -> None:
        self._tasks.discard(cast("asyncio.Task[None]", task))
        self._note_nobody()

    def hand_over(self, transport: asyncio.Transport, unread: bytes) -> None:
        """Let Hypercorn serve a connection from here on, beginning with what was read of it."""
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, self._serve_other, loop=self._loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if unread:
            protocol.data_received(unread)

    async def _serve_other(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        try:
            state = cast(Any, self.state)
            await WatchedTCPServer(
                self._wrapped, self._loop, self.config, self._context, state, reader, writer
            )
        finally:
            self.forget_task(task)

    async def close(self, seconds: float) -> None:
        """Close idle connections at once, wait for busy ones, then cut what is left."""
        self.stopping = True
        await self._context.terminated.set()
        for connection in list(self._connections):
            connection.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until_nobody()
        for connection in list(self._connections):
            connection.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._timer.cancel()

    async def _until_nobody(self) -> None:
        while self._connections or self._tasks:
            self._nobody.clear()
            await self._nobody.wait()

    def _note_nobody(self) -> None:
        if self.stopping and not self._connections and not self._tasks:
            self._nobody.set()

    def _look(self) -> None:
        now = self.now() + LOOK_SECONDS  # rather early than late
        for connection in list(self._connections):
            connection.check(now)
        if self.paused:
            self._find_those_who_left()
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def _find_those_who_left(self) -> None:
        """A connection that is not read shows neither close nor reset to the event loop."""
        poll = select.poll()
        watched = {connection.fileno: connection for connection in self.paused if not connection.closing}
        for number in watched:
            poll.register(number, _LEFT)
        for number, event in poll.poll(0):
            if event & _LEFT:
                watched[number].leave()
