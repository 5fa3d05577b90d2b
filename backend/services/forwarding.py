"""The forwarding core: prepare once, attempt, finalize once.

It knows upstreams, not avatars, and HTTP, not Flask.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, cycle, repeat
from typing import TypeVar

from backend.errors import UpstreamError
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
from backend.services.policies import Attempt, RetryBudget, Timeouts, may_retry
from backend.services.streams import ByteStream, LimitedStream, check_length, in_time, read_whole
from backend.services.transports import UpstreamCall

# A body this small is read before the call goes out: it can then be sent again, and a client that
# dribbles it holds no upstream place meanwhile.
KEPT_BODY_BYTES = 64 * 1024
MEGABYTE = 1 << 20

T = TypeVar("T")


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
    """One service and where it lives: scheme and authority, several of them for the same service."""

    name: str
    origins: tuple[str, ...]
    base_path: bytes = b""
    _turn: Callable[[], int] = field(default_factory=lambda: count().__next__, repr=False, compare=False)

    @classmethod
    def at(cls, name: str, *urls: str) -> "Upstream":
        """Make an upstream from base URLs that share one base path."""
        split = [url.split("/", 3) for url in urls]
        base = {("/" + parts[3]).rstrip("/") if len(parts) > 3 else "" for parts in split}
        if len(base) != 1:
            raise ValueError(f"the addresses of {name} need one and the same path")
        return cls(name, tuple("/".join(parts[:3]) for parts in split), base.pop().encode("ascii"))

    def in_turn(self) -> Iterator[str]:
        """Return the addresses for the attempts of one call: calls take turns, a repeated one goes on."""
        if len(self.origins) == 1:
            return repeat(self.origins[0])
        start = self._turn() % len(self.origins)
        return cycle(self.origins[start:] + self.origins[:start])


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

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._budgets: dict[str, RetryBudget] = {}

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

        async def once(origin: str) -> UpstreamResponse:
            return await self._client.open(call if origin == call.origin else replace(call, origin=origin))

        response, attempts = await self._attempts(upstream, call.method, lambda: _replayable(call.body), once)
        headers = to_client(response.headers, passage)
        if attempts > 1:
            headers.append((b"x-upstream-attempts", str(attempts).encode("ascii")))
        return Forwarded(response.status, headers, response)

    async def ask(
        self, method: str, upstream: Upstream, path: str, timeouts: Timeouts, json: object = None
    ) -> Answer:
        """Make a call of the gateway's own; the answer is read whole, up to a megabyte."""

        async def once(origin: str) -> Answer:
            url = origin + upstream.base_path.decode("ascii") + path
            return await self._client.ask(method, url, timeouts, json)

        answer, _ = await self._attempts(upstream, method, lambda: True, once)
        return answer

    async def _attempts(
        self,
        upstream: Upstream,
        method: str,
        replayable: Callable[[], bool],
        once: Callable[[str], Awaitable[T]],
    ) -> tuple[T, int]:
        budget = self._budgets.setdefault(upstream.name, RetryBudget())
        budget.earn()
        for number, origin in enumerate(upstream.in_turn(), 1):
            try:
                return await once(origin), number
            except UpstreamError as error:
                if not may_retry(error, Attempt(number, method, replayable())) or not budget.spend():
                    raise
        raise AssertionError("addresses have no end")


async def _prepared_body(inbound: Inbound, limit: int) -> bytes | ByteStream | None:
    """Return the body to send: small ones whole, others as a counted stream, None where there is none."""
    if inbound.body is None:
        return None
    length = inbound.content_length
    check_length(length, limit)
    if length is not None and length <= KEPT_BODY_BYTES:
        return await in_time(read_whole(inbound.body, limit))
    return LimitedStream(inbound.body, limit)


def _replayable(body: bytes | ByteStream | None) -> bool:
    if isinstance(body, LimitedStream):
        return not body.started
    return body is None or isinstance(body, bytes)
