"""How a connection to an upstream comes about: address, TLS, and which protocol both sides speak."""

import asyncio
import ssl
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast
from urllib.parse import urlsplit

from backend.errors import UpstreamConnectTimeout, UpstreamError, UpstreamRefused
from backend.services import sockets
from backend.services.deadline import Deadline

T = TypeVar("T")

# Names of RFC 7301 -> what makes the protocol. The last one is spoken with a server that chooses none.
Offers = Mapping[str, Callable[[], asyncio.Protocol]]


@dataclass(frozen=True, slots=True)
class Place:
    """An origin taken apart: where to connect and what to call it."""

    host: str
    port: int
    authority: bytes
    secure: bool

    @classmethod
    def of(cls, origin: str) -> "Place":
        parts = urlsplit(origin)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(parts.hostname or "", port, parts.netloc.encode("ascii"), secure)


# Handshakes with one address at a time: queues of listening sockets are short (100 in asyncio, 128 in older
# Linux), and what does not fit is only tried again after a second.
MOST_HANDSHAKES = 96


class Handshakes:
    """Takes turns at connecting to one address; a failure is told to all who wait for their turn."""

    def __init__(self) -> None:
        self._free = MOST_HANDSHAKES
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self, connecting: Callable[[], Awaitable[T]]) -> T:
        if self._free > 0:
            self._free -= 1
        else:
            await self._wait()
        try:
            return await connecting()
        except UpstreamError as error:
            self._tell(error)
            raise
        finally:
            self._pass_on()

    async def _wait(self) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._pass_on()  # the turn came in the same moment
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            next_one = self._waiting.popleft()
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1

    def _tell(self, error: UpstreamError) -> None:
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if not one.done():
                one.set_exception(type(error)())


class Connector:
    """Connects within the time that the settings allow."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        self._handshakes: dict[Place, Handshakes] = defaultdict(Handshakes)

    async def connect(self, place: Place, offers: Offers) -> asyncio.Protocol:
        """Return the protocol that both sides chose. Raises UpstreamRefused, UpstreamConnectTimeout."""
        return await self._handshakes[place].turn(lambda: self._connect(place, offers))

    async def _connect(self, place: Place, offers: Offers) -> asyncio.Protocol:
        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(
            lambda: _Choice(offers),
            place.host,
            place.port,
            ssl=self._context(tuple(offers)) if place.secure else None,
        )
        deadline = Deadline()
        try:
            _, choice = await deadline.within(connecting, deadline.now() + self._seconds)
        except TimeoutError as exc:
            raise UpstreamConnectTimeout from exc
        except OSError as exc:
            raise UpstreamRefused from exc
        finally:
            deadline.close()
        assert choice.protocol is not None  # noqa: S101 - narrows the type
        return choice.protocol

    def _context(self, names: tuple[str, ...]) -> ssl.SSLContext:
        if names not in self._contexts:
            self._contexts[names] = ssl.create_default_context()
            self._contexts[names].set_alpn_protocols(names)
        return self._contexts[names]


class _Choice(asyncio.Protocol):
    """Hands a new connection to the protocol that was chosen, before anything of it arrives."""

    def __init__(self, offers: Offers) -> None:
        self._offers = offers
        self.protocol: asyncio.Protocol | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sockets.tune(transport.get_extra_info("socket"))
        tls = transport.get_extra_info("ssl_object")
        chosen = tls.selected_alpn_protocol() if tls is not None else None
        make = self._offers.get(chosen or "") or list(self._offers.values())[-1]
        self.protocol = make()
        cast(asyncio.Transport, transport).set_protocol(self.protocol)
        self.protocol.connection_made(transport)
