"""Hypercorn's connections, for HTTP/2, with one thing done cheaper: noticing that one is idle.

Hypercorn 0.18 makes and cancels a task, a timer and a lock for every request of a kept connection, a sixth
of what a small call costs; and a connection whose client has gone stays until the idle time is over.
Here each connection has one watcher, told by assignment whether it is idle, and ended with the connection.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from hypercorn.asyncio.tcp_server import TCPServer


class IdleWatch:
    """Closes a connection that was idle for too long, or that is idle when the server stops."""

    def __init__(self, server: "WatchedTCPServer") -> None:
        self._server = server
        self._idle_since: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def restart(self, task_group: Any, _action: Callable[..., Any]) -> None:
        """Count the connection as idle from now on."""
        self._idle_since = self._server.loop.time()
        if self._task is None:
            self._task = task_group._task_group.create_task(self._watch())
        elif self._server.context.terminated.is_set():
            await self._server.close_idle()

    async def stop(self) -> None:
        """Count the connection as busy."""
        self._idle_since = None

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while not self._server.context.terminated.is_set():
            since, now = self._idle_since, self._server.loop.time()
            patience = self._server.config.keep_alive_timeout
            left = patience if since is None else since + patience - now
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    await self._server.context.terminated.wait()
            except TimeoutError:
                continue
        if self._idle_since is not None:
            await asyncio.shield(self._server.close_idle())


class WatchedTCPServer(TCPServer):
    """One connection, with one idle watcher for its whole life."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle_task: Any = IdleWatch(self)

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self.idle_task.end()

    async def close_idle(self) -> None:
        await self._initiate_server_close()
