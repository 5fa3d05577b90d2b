"""One demo service: its routes, its listeners, its count of calls and the faults it shows."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from backend.demo.answers import Answer, Headers
from backend.demo.faults import EVERY_FAULT, Switchboard
from backend.demo.wire import Exchange, Listener

Handler = Callable[[Exchange], Awaitable[Answer]]
# (method, path) -> handler; a path that ends in /* matches any last segment.
Routes = Mapping[tuple[str, str], Handler]

# What the real catalogue needs for an answer it has at hand.
QUICK_SECONDS = 0.05


@dataclass
class Latency:
    """How long the slow work of the world takes; can be changed while it runs."""

    seconds: float

    async def wait(self, share: float = 1.0) -> None:
        await asyncio.sleep(self.seconds * share)


@dataclass
class Ledger:
    """The calls of one service: all, in flight, and left by their client before the end."""

    calls: int = 0
    open: int = 0
    aborted: int = 0
    by_path: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def call(self, exchange: Exchange) -> Iterator[None]:
        self.calls += 1
        self.open += 1
        self.by_path[exchange.path] += 1
        try:
            yield
        finally:
            self.open -= 1
            self.aborted += exchange.abandoned


class Service:
    """A named service that may listen on several ports, each with its own routes."""

    def __init__(
        self, name: str, host: str, switchboard: Switchboard, missing: Answer, headers: Headers
    ) -> None:
        self.name = name
        self.ledger = Ledger()
        self._host = host
        self._switchboard = switchboard
        self._missing = missing
        self._headers = headers
        self._listeners: set[Listener] = set()

    def __repr__(self) -> str:
        ports = sorted(listener.port for listener in self._listeners)
        return f"<Service {self.name} open={self.ledger.open} on {ports}>"

    async def open(self, port: int, routes: Routes) -> Listener:
        """Serve `routes` on a port; raise OSError when it is taken."""
        listener = Listener(self._host, port, lambda exchange: self._handle(exchange, routes))
        try:
            await listener.admit()
        except OSError:
            await listener.close()
            raise
        self._listeners.add(listener)
        await self.heed_refusal()
        return listener

    async def shut(self, listener: Listener) -> None:
        self._listeners.discard(listener)
        await listener.close()

    async def close(self) -> None:
        for listener in list(self._listeners):
            await self.shut(listener)

    async def heed_refusal(self) -> None:
        """Bring the listeners in line with the switchboard."""
        refusing = self._switchboard.refuses(self.name)
        for listener in list(self._listeners):
            await (listener.refuse() if refusing else listener.admit())

    async def _handle(self, exchange: Exchange, routes: Routes) -> None:
        with self.ledger.call(exchange):
            fault = self._switchboard.take(self.name, exchange.path)
            if fault is None:
                await exchange.send(await self._answer(exchange, routes))
            else:
                await EVERY_FAULT[fault](exchange, lambda: self._answer(exchange, routes))

    async def _answer(self, exchange: Exchange, routes: Routes) -> Answer:
        handler = self._find(exchange, routes)
        answer = self._missing if handler is None else await handler(exchange)
        return answer.adding((*self._headers, (b"date", formatdate(usegmt=True).encode())))

    @staticmethod
    def _find(exchange: Exchange, routes: Routes) -> Handler | None:
        family = exchange.path.rpartition("/")[0] + "/*"
        return routes.get((exchange.method, exchange.path)) or routes.get((exchange.method, family))
