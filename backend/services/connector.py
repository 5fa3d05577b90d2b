"""How a connection to an upstream comes about: address, TLS, and which protocol both sides speak."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from backend.errors import UpstreamConnectTimeout, UpstreamRefused
from backend.services import sockets
from backend.services.deadline import Deadline

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


class Connector:
    """Connects within the time that the settings allow."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}

    async def connect(self, place: Place, offers: Offers) -> asyncio.Protocol:
        """Return the protocol that both sides chose. Raises UpstreamRefused, UpstreamConnectTimeout."""
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
