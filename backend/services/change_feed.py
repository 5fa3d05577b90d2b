"""Tells every process, on every machine, whose sign-in changed; through Redis, which remembers nothing.

A message says only that something changed: what, is in the database. A listener may miss some, and has to
know that it did. So each process numbers its messages and sends one often enough, if need be an empty one:

    a number is missing       ─► ask the database now
    a process falls silent    ─► ask the database as often as without a feed, until it is heard or forgotten
    the own beats do not come ─► the same, and subscribe anew
"""

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

from backend.services.redis_link import RedisAway, RedisLink

CHANNEL = "changes"
FORM = re.compile(rb"([0-9a-f]{16}) ([1-9]\d{0,17}) (beat|bye|[1-9]\d{0,8})")
BEATS = 3  # in the time after which silence is an outage: two may be late
MOST_WAITING = 1000  # messages; one that finds no room is missed, and its number tells
# A process that was killed cannot say so. One that lives but is cut off from Redis for longer than this is
# heard of only by the rare polls.
FORGOTTEN_SECONDS = 300.0
DEAF_SECONDS = 2.0  # without own beats, a subscription is given up
AGAIN_SECONDS = 0.25  # between attempts to subscribe
BYE_SECONDS = 0.5


class Peer(NamedTuple):
    """The last that was heard of a process: the number, and when (monotonic)."""

    number: int
    heard_at: float


class ChangeFeed:
    """Announces changes and hears of them, all on one event loop; `on_change` is called with a user's id."""

    def __init__(
        self,
        link: RedisLink,
        *,
        staleness_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_change: Callable[[int], None] = lambda user_id: None
        self.name = uuid.uuid4().hex[:16]
        self._link = link
        self._silence_seconds = staleness_seconds
        self._beat_seconds = staleness_seconds / BEATS
        self._monotonic = monotonic
        self._number = 0
        self._waiting: asyncio.Queue[int] = asyncio.Queue(MOST_WAITING)
        self._peers: dict[str, Peer] = {}
        self._missed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen(), name="change feed"),
            asyncio.create_task(self._tell(), name="change feed announcements"),
        ]

    async def aclose(self) -> None:
        """Tell what is still to be told, and that no more will come."""
        if not self._tasks:
            return
        listening, *telling = self._tasks
        self._tasks = []
        with contextlib.suppress(RedisAway, TimeoutError):
            async with asyncio.timeout(BYE_SECONDS):
                for task in telling:
                    task.cancel()
                await asyncio.gather(*telling, return_exceptions=True)
                while not self._waiting.empty():
                    await self._send(str(self._waiting.get_nowait()))
                await self._send("bye")
        listening.cancel()
        await asyncio.gather(listening, *telling, return_exceptions=True)

    def announce(self, user_id: int) -> None:
        """Tell the others that something of this user changed; returns at once."""
        try:
            self._waiting.put_nowait(user_id)
        except asyncio.QueueFull:
            self._number += 1

    @property
    def complete(self) -> bool:
        """Whether every change since `caught_up` was heard of, by all that is known."""
        if self._missed.is_set() or self.name not in self._peers:
            return False
        now = self._monotonic()
        silences = [now - peer.heard_at for peer in self._peers.values()]
        return not any(self._silence_seconds < silence < FORGOTTEN_SECONDS for silence in silences)

    def caught_up(self) -> None:
        """Take note that the database is about to be asked for everything that was missed."""
        self._missed.clear()

    async def trouble(self, seconds: float) -> None:
        """Wait until something may have been missed, at most so long."""
        until = self._monotonic() + seconds
        while self.complete and (left := until - self._monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._beat_seconds)):
                    await self._missed.wait()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(RedisAway):
                async with self._link.subscribed(CHANNEL) as following:
                    since = self._monotonic()
                    while not self._deaf(since):
                        message = await following(self._beat_seconds)
                        if message is not None:
                            self.take(message)
            self._peers.clear()
            self._missed.set()
            await asyncio.sleep(AGAIN_SECONDS)

    def _deaf(self, since: float) -> bool:
        own = self._peers.get(self.name)
        last = since if own is None else own.heard_at
        return self._monotonic() - last > max(DEAF_SECONDS, 2 * self._silence_seconds)

    def take(self, message: bytes) -> None:
        """Act on one message; what is none of ours is let be."""
        match = FORM.fullmatch(message)
        if match is None:
            return
        name, number, what = match[1].decode(), int(match[2]), match[3].decode()
        now = self._monotonic()
        known = self._peers.get(name)
        # What a process said before it was first heard is missing, too; and the own first message says that
        # the subscription holds, from when on nothing is lost.
        if known is None or number != known.number + 1:
            self._missed.set()
        self._peers[name] = Peer(number, now)
        if what == "bye":
            del self._peers[name]
        elif what != "beat" and name != self.name:
            self.on_change(int(what))
        if known is None:
            self._peers = {n: p for n, p in self._peers.items() if now - p.heard_at < FORGOTTEN_SECONDS}

    async def _tell(self) -> None:
        while True:
            what = "beat"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_seconds):
                    what = str(await self._waiting.get())
            with contextlib.suppress(RedisAway):
                await self._send(what)

    async def _send(self, what: str) -> None:
        self._number += 1
        await self._link.publish(CHANNEL, f"{self.name} {self._number} {what}")

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        return f"<ChangeFeed {self.name} {state}, {len(self._peers)} heard>"
