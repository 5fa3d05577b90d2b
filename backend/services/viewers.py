"""Those who look at the dashboard: one producer for all of them, and nothing at all while there are none."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backend.errors import GatewayError, NotAllowed, NotAuthenticated, Overloaded
from backend.services.panel import Panel

log = logging.getLogger("gateway.figures")

# Each costs its connection and a few kilobytes a second; a school has a handful of tutors who look.
MOST_VIEWERS = 50
HEARTBEAT = b": still here\n\n"
# A viewer that is so many events behind reads nothing; when it comes back it gets the whole picture anew.
MOST_UNREAD = 30

Check = Callable[[], Awaitable[object]]
"""Raises NotAuthenticated or NotAllowed when the viewer may look no longer."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is done, in seconds: the figures are looked at; a silence is broken, because
    proxies give up on longer ones; it is asked whether somebody may still look, as sign-ins end."""

    look: float = 1.0
    heartbeat: float = 15.0
    check: float = 5.0


class Viewers:
    """Everybody who looks at this worker's stream."""

    def __init__(self, panel: Panel, pace: Pace = Pace()) -> None:
        self._panel = panel
        self._pace = pace
        self._viewers: set[Viewer] = set()
        self._joined = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def join(self, check: Check | None = None) -> "Viewer":
        """Return the stream of a new viewer, who needs no check or one now and then.

        Raises Overloaded when there are enough of them, or when the gateway stops.
        """
        if self._closed or len(self._viewers) >= MOST_VIEWERS:
            raise Overloaded("Too many people look at the dashboard.", retry_after_seconds=30)
        viewer = Viewer(self._viewers.discard, check, self._pace)
        self._viewers.add(viewer)
        self._joined.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._produce(), name="dashboard")
        return viewer

    def close(self) -> None:
        """Let every stream end: the gateway stops, and would wait for them."""
        self._closed = True
        self._end()

    async def aclose(self) -> None:
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _produce(self) -> None:
        """Look again and again while anybody is there."""
        loop = asyncio.get_running_loop()
        try:
            while self._viewers:
                self._hand_out(await self._panel.news())
                due = loop.time() + self._pace.look
                while await self._somebody_joins(due - loop.time()):
                    self._hand_out(None)
        except Exception:
            log.exception("the dashboard has no figures any more")
        finally:
            self._panel.forget()
            self._end()

    def _hand_out(self, news: bytes | None) -> None:
        """Give those who just came the whole picture, and others what is new."""
        self._joined.clear()
        opening = self._panel.opening() if any(viewer.fresh for viewer in self._viewers) else b""
        for viewer in [*self._viewers]:
            if viewer.fresh:
                viewer.put(opening)
            elif news is not None:
                viewer.put(news)

    async def _somebody_joins(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._joined.wait()
        except TimeoutError:
            return False

    def _end(self) -> None:
        for viewer in [*self._viewers]:
            viewer.end()

    def __len__(self) -> int:
        return len(self._viewers)

    def __repr__(self) -> str:
        return f"<Viewers {len(self._viewers)}>"


class Viewer:
    """One viewer's stream, a ByteStream: filled by the producer, ended by whoever closes it."""

    def __init__(self, leave: Callable[["Viewer"], None], check: Check | None, pace: Pace) -> None:
        self._leave = leave
        self._check = check
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._check_at = self._loop.time() + self._pace.check
        self._unread: deque[bytes] = deque()
        self._more: asyncio.Future[None] | None = None
        self._ended = False
        self.fresh = True

    def put(self, events: bytes) -> None:
        """Add events; one who does not read them is given up."""
        self.fresh = False
        self._unread.append(events)
        if len(self._unread) > MOST_UNREAD:
            self.end()
        self._wake()

    def end(self) -> None:
        """No more comes; what was not read is dropped."""
        self._ended = True
        self._unread.clear()
        self._leave(self)
        self._wake()

    async def read(self) -> bytes:
        """Return the next events, or a heartbeat after a long silence, b"" at the end."""
        if not self._unread and not self._ended:
            await self._comes()
        if not self._ended and not await self._may_look():
            self.end()
        if self._ended:
            return b""
        return self._unread.popleft() if self._unread else HEARTBEAT

    async def aclose(self) -> None:
        self.end()

    async def _may_look(self) -> bool:
        if self._check is None or self._loop.time() < self._check_at:
            return True
        self._check_at = self._loop.time() + self._pace.check
        try:
            await self._check()
        except (NotAuthenticated, NotAllowed):
            return False
        except GatewayError:
            return True  # the database is away: known sign-ins stay good for a while
        return True

    async def _comes(self) -> None:
        """Wait for events, for so long as a silence may be."""
        self._more = self._loop.create_future()
        timer = self._loop.call_later(self._pace.heartbeat, self._wake)
        try:
            await self._more
        finally:
            timer.cancel()

    def _wake(self) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)

    def __repr__(self) -> str:
        return f"<Viewer {len(self._unread)} unread{', ended' if self._ended else ''}>"
