"""The forwarding core: prepare once, attempt, finalize once.

It knows upstreams, not avatars, and HTTP, not Flask.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, Protocol, TypeVar

from backend.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from backend.services.balancing import Dice, Load, Traffic
from backend.services.breaker import Breakers
from backend.services.headers import (
    NO_CREDENTIALS,
    Headers,
    Origin,
    Pair,
    Passage,
    content_length,
    to_client,
    to_upstream,
)
from backend.services.http_client import Answer, HttpClient, UpstreamResponse
from backend.services.policies import (
    WORTH_ANOTHER_TRY,
    Attempt,
    Timeouts,
    may_ask_again,
    may_retry,
    pause_seconds,
    wait_asked_for,
)
from backend.services.streams import ByteStream, LimitedStream, check_length, small_body
from backend.services.trail import TRAIL
from backend.services.transports import UpstreamCall

# A body this small is read before the call goes out: it can then be sent again, and a client that
# dribbles it holds no upstream place meanwhile.
KEPT_BODY_BYTES = 64 * 1024
MEGABYTE = 1 << 20
MOST_PROBES = 32
# Tells the caller that it took more than one attempt.
ATTEMPTS = b"x-upstream-attempts"


class Answered(Protocol):
    """What every attempt brings: a status and headers, and perhaps a body to let go of."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> list[Pair]: ...

    async def aclose(self) -> None: ...


T = TypeVar("T", bound=Answered)


@dataclass(frozen=True, slots=True)
class Inbound:
    """A request as it reached the gateway: raw target, lower-case header names, body still to be read.

    `body` is None when the request has none.
    """

    method: str
    path: bytes
    query: bytes
    headers: Headers
    body: ByteStream | None
    origin: Origin

    @property
    def content_length(self) -> int | None:
        return content_length(self.headers)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One service and where it lives: scheme and authority, several of them for the same service.

    `max_calls` is how many calls it can work on at once, where that is known, all its addresses together.
    Calls of one `affinity` go to one address while that one is in.
    """

    name: str
    origins: tuple[str, ...]
    base_path: bytes = b""
    max_calls: int | None = None
    affinity: str | None = None

    @classmethod
    def at(cls, name: str, *urls: str, max_calls: int | None = None) -> "Upstream":
        """Make an upstream from base URLs that share one base path."""
        split = [url.split("/", 3) for url in urls]
        base = {("/" + parts[3]).rstrip("/") if len(parts) > 3 else "" for parts in split}
        if len(base) != 1:
            raise ValueError(f"the addresses of {name} need one and the same path")
        origins = tuple("/".join(parts[:3]) for parts in split)
        return cls(name, origins, base.pop().encode("ascii"), max_calls)

    def url(self, origin: str, path: str) -> str:
        return origin + self.base_path.decode("ascii") + path

    def sticky(self, key: str) -> "Upstream":
        """Return the same upstream for the calls of one conversation, or whatever has its place there."""
        return self if len(self.origins) == 1 else replace(self, affinity=key)

    def apart(self) -> "tuple[Upstream, ...]":
        """Return each address as an upstream of its own, for what all of them have to be told."""
        return tuple(replace(self, origins=(origin,), affinity=None) for origin in self.origins)


@dataclass(frozen=True, slots=True)
class Rules:
    """What one route allows: how long, how large, whose credentials pass."""

    timeouts: Timeouts
    max_body: int = MEGABYTE
    passage: Passage = NO_CREDENTIALS


@dataclass(slots=True)
class Forwarded:
    """The upstream's answer as the client will get it; `body` owns the upstream connection."""

    status: int
    headers: list[Pair]
    body: UpstreamResponse


class Forwarder:
    """Sends inbound requests to upstreams and brings the answers back."""

    def __init__(self, client: HttpClient, dice: Dice = random.randrange) -> None:
        self._client = client
        self._dice = dice
        self._traffic: dict[tuple[tuple[str, ...], int | None], Traffic] = {}
        self._breakers = Breakers()
        # Whether a service is there is asked also while its calls wait for places.
        self._probes = client.share(MOST_PROBES)

    async def forward(self, inbound: Inbound, upstream: Upstream, target: bytes, rules: Rules) -> Forwarded:
        """Send `inbound` to `target` (raw path and query) at `upstream`.

        Raises TooLarge before or while the body is read, Overloaded without a free place, and
        UpstreamError when every permitted attempt failed.
        """
        call = UpstreamCall(
            method=inbound.method,
            origin=upstream.origins[0],
            target=upstream.base_path + target,
            headers=tuple(to_upstream(inbound.headers, inbound.origin, rules.passage)),
            body=await _prepared_body(inbound, rules.max_body),
            timeouts=rules.timeouts,
        )
        return await self.send(call, upstream, rules.passage)

    async def send(
        self, call: UpstreamCall, upstream: Upstream, passage: Passage = NO_CREDENTIALS
    ) -> Forwarded:
        """Attempt a prepared call until it is answered or may not be repeated."""
        traffic = self.traffic(upstream)

        def once(origin: str, timeouts: Timeouts) -> Awaitable[UpstreamResponse]:
            same = origin == call.origin and timeouts is call.timeouts
            known = call if same else replace(call, origin=origin, timeouts=timeouts)
            return self._client.open(known, traffic.places(origin))

        replayable = partial(_replayable, call.body)
        work = Work(call.method, call.timeouts, replayable, once, traffic, upstream.affinity)
        response, attempts = await self._attempts(work)
        headers = to_client(response.headers, passage)
        if attempts > 1:
            headers.append((ATTEMPTS, str(attempts).encode("ascii")))
        return Forwarded(response.status, headers, response)

    async def ask(
        self, method: str, upstream: Upstream, path: str, timeouts: Timeouts, json: object = None
    ) -> Answer:
        """Make a call of the gateway's own; the answer is read whole, up to a megabyte."""
        traffic = self.traffic(upstream)

        def once(origin: str, timeouts: Timeouts) -> Awaitable[Answer]:
            url = upstream.url(origin, path)
            return self._client.ask(method, url, timeouts, json, traffic.places(origin))

        work = Work(method, timeouts, lambda: True, once, traffic, upstream.affinity)
        answer, attempts = await self._attempts(work)
        return replace(answer, attempts=attempts) if attempts > 1 else answer

    async def probe(self, upstream: Upstream, path: str, timeouts: Timeouts) -> Answer:
        """Ask each address once until one answers, whatever happened before, and draw no conclusions:
        a probe's limits are shorter than what other calls may take."""
        *others, last = sorted(upstream.origins, key=self._breakers.is_open)
        for origin in others:
            with suppress(UpstreamError):
                return await self.check(upstream, origin, path, timeouts)
        return await self.check(upstream, last, path, timeouts)

    async def check(self, upstream: Upstream, origin: str, path: str, timeouts: Timeouts) -> Answer:
        """Ask one address, whatever happened before, in a place that other calls do not take."""
        return await self._client.ask("GET", upstream.url(origin, path), timeouts, None, self._probes)

    def traffic(self, upstream: Upstream) -> Traffic:
        """Return the calls to an upstream: their limits and its addresses."""
        key = upstream.origins, upstream.max_calls
        traffic = self._traffic.get(key)
        if traffic is None:
            share = self._client.share(upstream.max_calls)
            traffic = Traffic(upstream.name, upstream.origins, share, self._breakers, self._dice)
            self._traffic[key] = traffic
        return traffic

    def is_refusing(self, upstream: Upstream) -> bool:
        """Whether the last calls to all its addresses were told that nobody is there."""
        return all(map(self._breakers.is_refusing, upstream.origins))

    def readmit(self, upstream: Upstream) -> None:
        """Forget earlier failures: something new lives at these addresses."""
        for origin in upstream.origins:
            self._breakers.readmit(origin)

    @property
    def full(self) -> bool:
        """Whether every place of the pool is taken."""
        return self._client.slots.free <= 0

    def loads(self) -> dict[str, Load]:
        """Return what every upstream called so far is doing, by name."""
        loads: dict[str, Load] = {}
        for traffic in self._traffic.values():
            traffic.add_to(loads.setdefault(traffic.name, Load()))
        return loads

    async def _attempts(self, work: "Work[T]") -> tuple[T, int]:
        traffic = work.traffic
        TRAIL.get().upstream_name = traffic.name
        traffic.budget.earn()
        origin = traffic.next((), work.affinity)
        if origin is None:
            raise UpstreamUnavailable(retry_after_seconds=max(1, math.ceil(traffic.seconds_left)))
        outcome = await self._attempt(origin, work.timeouts, work)
        while (another := self._another(work, outcome)) is not None:
            origin, pause = another
            if not isinstance(outcome, UpstreamError):
                await outcome.aclose()
            if pause:
                await asyncio.sleep(pause)
            outcome = await self._attempt(origin, work.timeouts.after(work.seconds), work)
        if isinstance(outcome, UpstreamError):
            raise outcome
        return outcome, len(work.asked)

    def _another(self, work: "Work[T]", outcome: T | UpstreamError) -> tuple[str, float] | None:
        """Return where the next attempt may go and after how many seconds, None when there is none."""
        if not isinstance(outcome, UpstreamError) and outcome.status not in WORTH_ANOTHER_TRY:
            return None
        pause = _pause_before_another(outcome, Attempt(len(work.asked), work.method, work.replayable()))
        origin = None if pause is None else work.traffic.next(work.asked, work.affinity)
        if pause is None or origin is None:
            return None
        if origin in work.asked:
            pause = max(pause, pause_seconds(len(work.asked), random.random()))  # noqa: S311 - no secret
        if work.seconds + pause >= work.timeouts.patience:
            return None
        # Nobody has more to do for a call that reached nobody and goes to another address.
        free = isinstance(outcome, UpstreamError) and not outcome.sent and origin not in work.asked
        return (origin, pause) if free or work.traffic.budget.spend() else None

    async def _attempt(self, origin: str, timeouts: Timeouts, work: "Work[T]") -> T | UpstreamError:
        """Make one attempt, and let the breaker know how it went."""
        work.asked.append(origin)
        probe = self._breakers.is_open(origin)
        try:
            answer = await work.once(origin, timeouts)
        except UpstreamError as error:
            refused = isinstance(error, UpstreamRefused)
            self._breakers.failed(origin, probe=probe, sent=error.sent, refused=refused)
            return error
        self._breakers.answered(origin, probe=probe)
        return answer


@dataclass(slots=True)
class Work(Generic[T]):
    """A call that can be attempted: `once` makes one attempt at an address, within what time is left."""

    method: str
    timeouts: Timeouts
    replayable: Callable[[], bool]
    once: Callable[[str, Timeouts], Awaitable[T]]
    traffic: Traffic
    affinity: str | None
    asked: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return time.monotonic() - self.began


def _pause_before_another(outcome: Answered | UpstreamError, attempt: Attempt) -> float | None:
    """Return the seconds until another attempt may be made, None when none may."""
    if isinstance(outcome, UpstreamError):
        return 0.0 if may_retry(outcome, attempt) else None
    return wait_asked_for(outcome.headers) if may_ask_again(outcome.status, attempt) else None


async def _prepared_body(inbound: Inbound, limit: int) -> bytes | ByteStream | None:
    """Return the body to send: small ones whole, others as a counted stream, None where there is none."""
    if inbound.body is None:
        return None
    length = inbound.content_length
    check_length(length, limit)
    if length is not None and length <= KEPT_BODY_BYTES:
        return await small_body(inbound.body, limit)
    return LimitedStream(inbound.body, limit)


def _replayable(body: bytes | ByteStream | None) -> bool:
    if isinstance(body, LimitedStream):
        return not body.started
    return body is None or isinstance(body, bytes)
