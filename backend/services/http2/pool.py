"""The HTTP/2 connections to one origin, and which of them takes the next call."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from backend.errors import Overloaded, UpstreamRefused
from backend.services.http2.connection import MOST_STREAMS, Connection, Request
from backend.services.http2.stream import Stream
from backend.services.request_framing import Body

# The next connection is opened when one in so many streams of one is left, so that nobody waits for it.
SPARE_SHARE = 10


class _Opening:
    """A connection on its way, with the calls that count on it."""

    task: "asyncio.Task[Connection]"
    reserved = 0


class Pool:
    """Spreads calls over connections: the first with room, another one before room runs out, at most `most`.

    A call waits `wait_seconds` for room when there may be no more connections.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], most: int, wait_seconds: float) -> None:
        self._connect = connect
        self._most = most
        self._wait_seconds = wait_seconds
        self._open: list[Connection] = []
        self._opening: list[_Opening] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._expected = MOST_STREAMS

    @property
    def empty(self) -> bool:
        return not self._open and not self._opening

    async def send(self, request: Request, body: Body) -> Stream:
        """Send one request on a connection with room and return its answer once the head is there.

        Raises Overloaded, UpstreamRefused, UpstreamConnectTimeout, UpstreamBroken, UpstreamGarbage.
        """
        connection = await self._with_room()
        try:
            return await connection.send(request, body)
        except UpstreamRefused:
            # A server that is leaving, or full, said that it did not look at this call: nothing of its
            # work was done, and on an ordinary change of connections nobody should notice.
            if not (body is None or isinstance(body, bytes)):
                raise
        connection = await self._with_room()
        return await connection.send(request, body)

    async def _with_room(self) -> Connection:
        """Return a connection that takes one call now."""
        while True:
            connection = next((one for one in self._open if one.room > 0), None)
            if connection is not None:
                self._look_ahead()
                return connection
            opening = self._opening_with_room() or self._open_another()
            if opening is None:
                await self._turn()
                continue
            opening.reserved += 1
            self._look_ahead()
            try:
                connection = await asyncio.shield(opening.task)
            finally:
                opening.reserved -= 1
            if not connection.usable:
                raise UpstreamRefused  # it came and went: not to be tried for ever

    def _opening_with_room(self) -> _Opening | None:
        return next((one for one in self._opening if one.reserved < self._expected), None)

    def _look_ahead(self) -> None:
        spare = sum(one.room for one in self._open)
        spare += sum(self._expected - one.reserved for one in self._opening)
        if spare <= self._expected // SPARE_SHARE and self._expected >= SPARE_SHARE:
            self._open_another()

    def _open_another(self) -> _Opening | None:
        """Begin to connect, unless there may be no more connections or one more would take nothing."""
        if len(self._open) + len(self._opening) >= self._most or (self._open and self._expected <= 0):
            return None
        opening = _Opening()
        self._opening.append(opening)
        opening.task = asyncio.create_task(self._connected(opening))
        # Asked for its failure in any case: those who count on it have it, and there may be none.
        opening.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return opening

    async def _connected(self, opening: _Opening) -> Connection:
        try:
            connection = await self._connect()
            self._expected = connection.limit
            if not connection.closed:
                self._open.append(connection)
            return connection
        finally:
            # Not a turn of the loop later: whoever counted on it by then would go round and round.
            self._opening.remove(opening)
            self._wake()

    def changed(self, connection: Connection) -> None:
        """Hear that a connection takes more calls than before, or none any longer."""
        if connection in self._open:
            self._expected = connection.limit
            if connection.closed:
                self._open.remove(connection)
        self._wake()

    async def _turn(self) -> None:
        """Wait until there may be room. Raises Overloaded."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except TimeoutError:
            raise Overloaded from None
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _wake(self) -> None:
        if self._waiting:
            room = sum(one.room for one in self._open)
            for _ in range(min(max(1, room), len(self._waiting))):
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(None)

    def close_idle(self, since: float) -> None:
        """Close what has carried no call since then, in loop time."""
        for connection in list(self._open):
            if connection.idle and connection.idle_since <= since:
                connection.close()

    async def aclose(self) -> None:
        tasks = [opening.task for opening in self._opening]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for connection in list(self._open):
            connection.abort()

    def __repr__(self) -> str:
        return f"<Pool {self._open!r}, {len(self._opening)} opening, {len(self._waiting)} calls waiting>"
