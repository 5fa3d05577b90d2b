"""Which of an upstream's addresses a call goes to: pure decisions, dice handed in.

```
a call ──► its place, where it has one ──────────► the first of its ranking that is in
      └──► the one probe of an address that is out, when one is due
      └──► the less busy one of two that are in, drawn at random
```
"""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from backend.services.breaker import Breakers
from backend.services.policies import RetryBudget
from backend.services.slots import Places, Share

Dice = Callable[[int], int]
"""Returns a number from 0 up to, but not including, the given one."""

Found = Literal["up", "down", "silent"]
"""What a health check found: an answer of any status, nobody there, or no answer in time."""

# A service that thinks hard misses a check now and then.
SILENT_CHECKS = 2


@dataclass(slots=True)
class Address:
    """One address of an upstream: the places of its calls are the upstream's, counted here once more.

    `in_flight` includes calls that wait for their place, `silent` counts health checks without an answer.
    """

    origin: str
    share: Share
    in_flight: int = 0
    silent: int = 0

    @property
    def is_silent(self) -> bool:
        """Whether it misses checks: calls that are at home nowhere go elsewhere meanwhile."""
        return self.silent >= SILENT_CHECKS

    async def acquire(self) -> None:
        """Take a place of the upstream's share. Raises Overloaded."""
        self.in_flight += 1
        try:
            await self.share.acquire()
        except BaseException:
            self.in_flight -= 1
            raise

    def answered(self) -> None:
        self.share.answered()

    def release(self, *, answered: bool) -> None:
        self.in_flight -= 1
        self.share.release(answered=answered)


@dataclass(frozen=True, slots=True)
class AddressLoad:
    """What is told of one address: its number in the setting, never where it is."""

    number: int
    ejected: bool
    silent: bool
    in_flight: int


@dataclass(slots=True)
class Load:
    """What the calls to one upstream are doing at present: all instances of a kind are one.

    `in_flight` includes answers that still arrive, `unanswered` does not; `open_breakers` counts addresses,
    `addresses` tells of each where there are several.
    """

    in_flight: int = 0
    unanswered: int = 0
    waiting: int = 0
    open_breakers: int = 0
    addresses: list[AddressLoad] = field(default_factory=list)


class Traffic:
    """The calls to one upstream: what limits them, and which address each goes to."""

    def __init__(
        self,
        name: str,
        origins: Sequence[str],
        share: Share,
        breakers: Breakers,
        dice: Dice | None = None,
    ) -> None:
        self.name = name
        self.share = share
        self.budget = RetryBudget()
        self.addresses = {origin: Address(origin, share) for origin in origins}
        self._breakers = breakers
        self._dice = dice or random.Random().randrange  # noqa: S311 - a generator of its own, no secret
        self._only = origins[0] if len(self.addresses) == 1 else None

    def places(self, origin: str) -> Places:
        """Return where a call to an address takes its place; one that is alone needs no second count."""
        return self.share if self._only is not None else self.addresses[origin]

    def next(self, asked: Collection[str] = (), affinity: str | None = None) -> str | None:
        """Return the address for the next attempt of a call that `asked` others before; None: all are out.

        A call with an `affinity` goes to the first of its own ranking, which is the same in every process.
        """
        if self._only is not None:
            calm = self._breakers.calm
            return self._only if calm or self._breakers.admits(self._only) else None
        fresh = [origin for origin in self.addresses if origin not in asked]
        return self._one_of(fresh, affinity) or self._one_of(asked, affinity)

    def _one_of(self, origins: Collection[str], affinity: str | None) -> str | None:
        if affinity is not None:
            return next(filter(self._breakers.admits, ranked(affinity, origins)), None)
        inside: list[str] = []
        for origin in origins:
            if not self._breakers.is_open(origin):
                inside.append(origin)
            elif self._breakers.admits(origin):
                return origin
        heard = [origin for origin in inside if not self.addresses[origin].is_silent]
        return self._less_busy(heard or inside) if inside else None

    def _less_busy(self, origins: Sequence[str]) -> str:
        first, second = drawn_pair(len(origins), self._dice)
        one, other = self.addresses[origins[first]], self.addresses[origins[second]]
        return (other if other.in_flight < one.in_flight else one).origin

    def checked(self, origin: str, found: Found, seconds: float) -> None:
        """Draw the conclusion of a health check; `seconds` is how long it holds without another one.

        The last address that is in stays in: what it does is judged by its calls alone.
        """
        address = self.addresses[origin]
        address.silent = address.silent + 1 if found == "silent" else 0
        if found == "up":
            self._breakers.found_up(origin)
            return
        if not self.is_out(origin):
            # Silence while it has calls may be work: some services answer nothing but those.
            working = found == "silent" and (address.in_flight > 0 or not address.is_silent)
            if working or all(self.is_out(other) for other in self.addresses if other != origin):
                return
        self._breakers.found_down(origin, seconds)

    def is_out(self, origin: str) -> bool:
        return self._breakers.is_open(origin)

    @property
    def seconds_left(self) -> float:
        """How long until the next call may go."""
        return min(self._breakers.seconds_left(origin) for origin in self.addresses)

    def add_to(self, load: Load) -> None:
        """Add what the calls are doing to what is told of all upstreams of this name."""
        load.in_flight += self.share.in_flight
        load.unanswered += self.share.unanswered
        load.waiting += self.share.waiting
        load.open_breakers += sum(map(self.is_out, self.addresses))
        if self._only is None:
            load.addresses += [
                AddressLoad(number, self.is_out(address.origin), address.is_silent, address.in_flight)
                for number, address in enumerate(self.addresses.values(), 1)
            ]

    def __repr__(self) -> str:
        told = [f"{one.in_flight}{' out' * self.is_out(origin)}" for origin, one in self.addresses.items()]
        return f"<Traffic {self.name}: {', '.join(told)}>"


def drawn_pair(count: int, dice: Dice) -> tuple[int, int]:
    """Draw two different ones of `count`, the same one twice where there is one alone."""
    first = dice(count)
    if count == 1:
        return first, first
    second = dice(count - 1)
    return first, second + (second >= first)


def ranked(key: str, origins: Iterable[str]) -> list[str]:
    """Return the addresses in the order in which a key prefers them (rendezvous hashing).

    Every process finds the same order; without one address, only the keys that preferred it move.
    """
    return sorted(origins, key=lambda origin: blake2b(f"{key}\0{origin}".encode(), digest_size=8).digest())
