"""Every WebSocket of this process: opened after a handshake on both sides, looked at, and ended."""

import asyncio
from dataclasses import dataclass, field

from backend.errors import NotAuthenticated, Overloaded, StoreUnavailable
from backend.services.forwarding import Forwarded, Forwarder, Inbound, Upstream
from backend.services.headers import Passage, to_client, to_upstream
from backend.services.http_client import UpstreamResponse
from backend.services.policies import Timeouts
from backend.services.tokens import Principal, Tokens
from backend.services.transports import UpstreamCall
from backend.services.websocket import frames, handshake
from backend.services.websocket.handshake import Offer
from backend.services.websocket.relay import Limits, Opened, Relay
from backend.services.websocket.wire import Wire

# How often limits are looked at; their unit is seconds.
LOOK_SECONDS = 0.25
# Sign-ins of which memory knows nothing are looked up so many at a time.
ASKED_TOGETHER = 50


@dataclass(frozen=True, slots=True)
class Door:
    """What one mount allows: how many WebSockets at once, what each may take, whose credentials pass."""

    upstream: Upstream
    timeouts: Timeouts
    limits: Limits
    most: int
    passage: Passage
    open: set[Relay] = field(default_factory=set, compare=False)


class Sockets:
    """Opens WebSockets, and ends those whose sign-in has ended or that reach a limit."""

    def __init__(self, forwarder: Forwarder, tokens: Tokens, *, revocation_seconds: float) -> None:
        self._forwarder = forwarder
        self._tokens = tokens
        self._revocation_seconds = revocation_seconds
        self._visitors: dict[Relay, Principal | None] = {}
        self._opening: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._guard: asyncio.Task[None] | None = None

    async def open(
        self, inbound: Inbound, target: bytes, door: Door, offer: Offer, visitor: Principal | None
    ) -> Opened | Forwarded:
        """Make the handshake with the upstream; a refusal of its own comes back as it is.

        Raises Overloaded when the door has all the WebSockets that it may, and UpstreamError.
        """
        opening = self._opening.get(id(door), 0)
        if len(door.open) + opening >= door.most:
            raise Overloaded
        self._opening[id(door)] = opening + 1
        try:
            key = handshake.new_key()
            forwarded = await self._forwarder.send(
                _call(inbound, target, door, offer, key), door.upstream, door.passage
            )
            if forwarded.status != 101:
                return Forwarded(forwarded.status, handshake.without_own(forwarded.headers), forwarded.body)
            return await self._opened(forwarded, door, offer, key, visitor)
        finally:
            self._opening[id(door)] -= 1

    async def _opened(
        self, forwarded: Forwarded, door: Door, offer: Offer, key: bytes, visitor: Principal | None
    ) -> Opened:
        response: UpstreamResponse = forwarded.body
        try:
            chosen = handshake.chosen(response.headers, key, offer.protocols)
        except BaseException:
            await response.aclose()
            raise
        transport, early = response.take()
        wire = Wire(transport, door.limits.message_bytes, masks=True)
        wire.take_over(early, paused=True)
        relay = Relay(wire, door.limits, lambda relay: self._forget(relay, door))
        door.open.add(relay)
        self._visitors[relay] = visitor
        self._watch()
        headers = handshake.without_own(to_client(response.headers, door.passage))
        return Opened(headers, offer.answer(chosen), offer.key, relay)

    def _forget(self, relay: Relay, door: Door) -> None:
        door.open.discard(relay)
        self._visitors.pop(relay, None)

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._visitors)

    async def aclose(self) -> None:
        """End all that are left."""
        if self._timer is not None:
            self._timer.cancel()
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
        for relay in list(self._visitors):
            await relay.aclose()

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        if self._guard is None or self._guard.done():
            self._guard = asyncio.get_running_loop().create_task(self._guarding(), name="socket guard")

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for relay in list(self._visitors):
            relay.check(now)
        if self._visitors:
            self._watch()

    async def _guarding(self) -> None:
        """As long as any is open, ask again and again whether those who opened them are still signed in."""
        while self._visitors:
            await asyncio.sleep(min(self._revocation_seconds, LOOK_SECONDS))
            doubtful: list[tuple[Relay, Principal]] = []
            for relay, visitor in self._visitors.items():
                if visitor is None:
                    continue
                if relay.used:
                    relay.used = False
                    self._tokens.used(visitor)
                if not self._tokens.lives(visitor):
                    doubtful.append((relay, visitor))
            for start in range(0, len(doubtful), ASKED_TOGETHER):
                few = doubtful[start : start + ASKED_TOGETHER]
                await asyncio.gather(*(self._ask(relay, visitor) for relay, visitor in few))

    async def _ask(self, relay: Relay, visitor: Principal) -> None:
        try:
            await self._tokens.confirm(visitor)
        except NotAuthenticated:
            relay.end(frames.SIGNED_OUT, "the sign-in has ended")
        except StoreUnavailable:  # nobody can tell: as every call is refused then, so is this one
            relay.end(frames.TRY_LATER, "sign-ins cannot be checked")

    def __repr__(self) -> str:
        return f"<Sockets {self.count} open>"


def _call(inbound: Inbound, target: bytes, door: Door, offer: Offer, key: bytes) -> UpstreamCall:
    passed = to_upstream(inbound.headers, inbound.origin, door.passage)
    return UpstreamCall(
        method="GET",
        origin=door.upstream.origins[0],
        target=door.upstream.base_path + target,
        headers=tuple(handshake.asked(passed, offer.protocols, key)),
        body=None,
        timeouts=door.timeouts,
        upgrade=True,
    )
