"""Many small calls from one loop: at a constant rate, or all at the same moment."""

import asyncio
import select
import time
from collections import deque
from dataclasses import dataclass
from typing import cast

from benchmarks.processes import Failure
from benchmarks.stream import parsed

Address = tuple[str, int]

PATIENCE_SECONDS = 60.0
# Handshakes at once while connections are opened beforehand: fewer than the least backlog in the way.
HANDSHAKES = 200
# The loop's timers tick in milliseconds. A call sent this little after its time counts from its sending, a
# later one from the time it was due: a stall of the load or of the gateway hides nothing.
TICK_SECONDS = 0.002
WARM_CALLS = 20


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one call at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._status = 0
        self._missing: int | None = None
        self._answer: asyncio.Future[int] | None = None
        self._begun = asyncio.Event()
        self.head = b""

    @classmethod
    async def opened(cls, address: Address) -> "Connection":
        """Raises Failure."""
        try:
            _, connection = await asyncio.get_running_loop().create_connection(cls, *address)
        except OSError as error:
            raise Failure(f"no connection to {address[0]}:{address[1]}: {error}") from error
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(Failure(f"the connection was closed amid a call: {exc}"))

    @property
    def closed(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._answer = None
        self._transport.abort()

    @property
    def open(self) -> bool:
        """Whether it can carry another call: asks the socket, as pools of clients do, not only the loop."""
        if self._transport.is_closing():
            return False
        return not select.select([self._transport.get_extra_info("socket")], [], [], 0)[0]

    def send(self, request: bytes) -> "asyncio.Future[int]":
        """Send a whole request; the result is the status, once the body of the answer has arrived."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._fail(Failure("the connection was closed between calls"))
        else:
            self._transport.write(request)
        return self._answer

    async def call(self, request: bytes) -> None:
        """Make one call. Raises Failure unless it is answered with 200 in time."""
        answer = self.send(request)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                status = await answer
        except TimeoutError:
            raise Failure(f"no answer within {PATIENCE_SECONDS:g} s") from None
        if status != 200:
            raise Failure(f"a call was answered with {status}")

    async def begun(self) -> None:
        """Wait until the body of the answer begins. Raises Failure."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._begun.wait()
        except TimeoutError:
            raise Failure(f"no answer within {PATIENCE_SECONDS:g} s") from None

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            self._received += data
            top, end, data = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._received = b""
            self.head = top
            try:
                self._status, self._missing = parsed(top)
            except Failure as error:
                self._fail(error)
                return
            self._begun.set()
        self._missing -= len(data)
        if self._missing <= 0:
            self._missing = None
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(self._status)

    def _fail(self, error: Failure) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def paced(address: Address, request: bytes, rate: float, seconds: float) -> list[float]:
    """Send `rate` calls a second, whether or not earlier ones were answered; return their latencies."""
    first = await Connection.opened(address)
    for _ in range(WARM_CALLS):
        await first.call(request)
    idle = deque([first])
    latencies: list[float] = []

    async def one(due: float) -> None:
        while idle and not idle[-1].open:  # a server ends connections that were idle for long
            idle.pop().close()
        connection = idle.pop() if idle else await Connection.opened(address)
        sent = time.perf_counter()
        await connection.call(request)
        latencies.append(time.perf_counter() - (sent if sent - due < TICK_SECONDS else due))
        idle.append(connection)

    start = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, round(rate * seconds))):
                due = start + number / rate
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(one(due))
    except* Failure as failures:
        raise _first(failures) from None
    finally:
        for connection in idle:
            connection.close()
    return latencies


@dataclass(frozen=True)
class Told:
    """How one call ended: when it was sent, after how long, with which status and which head."""

    sent: float
    seconds: float
    status: int
    head: bytes


async def offered(address: Address, request: bytes, rate: float, seconds: float) -> list[Told]:
    """Send `rate` calls a second, whatever becomes of earlier ones; return how each ended.

    Raises Failure when a call is not answered at all.
    """
    idle: deque[Connection] = deque()
    told: list[Told] = []

    async def one(due: float) -> None:
        while idle and idle[-1].closed:  # a server ends connections that were idle for long
            idle.pop()
        connection = idle.pop() if idle else await Connection.opened(address)
        sent = time.perf_counter()
        async with asyncio.timeout(PATIENCE_SECONDS):
            status = await connection.send(request)
        now = time.perf_counter()
        told.append(Told(due, now - (sent if sent - due < TICK_SECONDS else due), status, connection.head))
        if b"connection: close" in connection.head.lower():
            connection.close()
        else:
            idle.append(connection)

    start = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, round(rate * seconds))):
                due = start + number / rate
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(one(due))
    except* Failure as failures:
        raise _first(failures) from None
    except* TimeoutError:
        raise Failure(f"a call was not answered within {PATIENCE_SECONDS:g} s") from None
    finally:
        for connection in idle:
            connection.close()
    return told


async def in_turn(address: Address, request: bytes, users: int, seconds: float) -> list[Told]:
    """Let `users` send one call after the other for so long. Raises Failure."""
    told: list[Told] = []
    until = time.perf_counter() + seconds

    async def one() -> None:
        connection = await Connection.opened(address)
        try:
            while (sent := time.perf_counter()) < until:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    status = await connection.send(request)
                told.append(Told(sent, time.perf_counter() - sent, status, connection.head))
        finally:
            connection.close()

    await asyncio.gather(*(one() for _ in range(users)))
    return told


@dataclass(frozen=True)
class Wave:
    """Calls that began together: when the last one was answered."""

    calls: int
    seconds: float


async def together(address: Address, request: bytes, calls: int) -> Wave:
    """Open `calls` connections, then send on all of them at once. Raises Failure when one call fails."""
    connections: list[Connection] = []
    try:
        while len(connections) < calls:
            batch = min(HANDSHAKES, calls - len(connections))
            connections += await asyncio.gather(*(Connection.opened(address) for _ in range(batch)))
        start = time.perf_counter()
        answers = [connection.send(request) for connection in connections]
        async with asyncio.timeout(PATIENCE_SECONDS):
            statuses = await asyncio.gather(*answers)
        seconds = time.perf_counter() - start
    except TimeoutError:
        raise Failure(f"{calls} calls were not answered within {PATIENCE_SECONDS:g} s") from None
    finally:
        for connection in connections:
            connection.close()
    failed = [status for status in statuses if status != 200]
    if failed:
        raise Failure(f"{len(failed)} of {calls} calls failed, the first with {failed[0]}")
    return Wave(calls, seconds)


def _first(failures: BaseExceptionGroup[Failure]) -> Failure:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found if isinstance(found, Failure) else Failure(str(found))
