"""A crowd: users come one after another, live through a scenario, and leave when the time is over."""

import asyncio
import time
from contextlib import suppress
from random import Random

from performance.answers import Answer
from performance.effort import Watch
from performance.gateway import Gateway
from performance.record import Crowd, Record
from performance.scenarios import Scenario
from performance.screen import Notice, Watched
from performance.settings import Load, Settings
from performance.tally import Tally
from performance.visitor import Visitor

HELD_USERS = 100
GRACE_SECONDS = 10.0  # for calls in flight when the time is over, and for tidying up


async def gather(gateway: Gateway, settings: Settings, avatar: str, record: Record, watched: Watched) -> None:
    """Run the scenario with every number of users, and all of that again in every round."""
    load, scenario = settings.load, settings.scenario
    if scenario is None:
        raise ValueError("a crowd needs a scenario")
    record.crowds = [Crowd(users) for users in load.users]
    for number in range(load.rounds):
        for crowd in record.crowds:
            title = f"{crowd.users:,} users" + (f", {number + 1}" if load.rounds > 1 else "")
            tally = Tally(crowd.users, tuple(act.name for act in scenario.every_act))
            crowd.rounds.append(tally)
            dice = Random(f"{load.seed}/{number}/{crowd.users}")  # noqa: S311 - dice, no secrets
            notice = watched(title, load.calls or 0)
            await Meeting(load, tally, notice).run(gateway, settings, scenario, avatar, dice)
            notice.finish()


async def hold(gateway: Gateway, settings: Settings, avatar: str, record: Record, watched: Watched) -> None:
    """Let the most users that the ladder answered, a hundred at most, call over and over for a while."""
    call, seconds = settings.call, settings.claims_seconds or 0.0
    users = max((rung.users for rung in record.steps if rung.users <= HELD_USERS), default=1)
    scenario = Scenario.of_call(call.method, call.path, call.names_avatar)
    record.window = Tally(users, tuple(act.name for act in scenario.acts))
    load = Load(users=(users,), duration=seconds)
    notice = watched(f"{users:,} all the time", 0)
    dice = Random(settings.load.seed)  # noqa: S311 - dice, no secrets
    await Meeting(load, record.window, notice).run(gateway, settings, scenario, avatar, dice)
    notice.finish()


class Meeting:
    """One round of one crowd, and the clock that its visitors go by."""

    def __init__(self, load: Load, tally: Tally, notice: Notice) -> None:
        self._load, self._tally, self._notice = load, tally, notice
        self._left = load.calls
        self._ended = asyncio.Event()
        self._began = time.perf_counter()
        self._counts_from = self._began + load.warm_up
        self._ends = None if load.duration is None else self._counts_from + load.duration

    def __repr__(self) -> str:
        return f"<Meeting {self._tally!r} {'over' if self.over else 'on'}>"

    @property
    def over(self) -> bool:
        return self._ended.is_set()

    def take(self) -> bool:
        if self.over:
            return False
        if self._left is not None and time.perf_counter() >= self._counts_from:
            if self._left == 0:
                self._ended.set()
                return False
            self._left -= 1
        return True

    async def sleep(self, seconds: float) -> None:
        if seconds > 0 and not self.over:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds)

    def answered(self, act: str, answer: Answer, began: float) -> None:
        now = time.perf_counter()
        # Calls end in what is counted as they began in it: else the slow ones at its end were left out.
        if began >= self._counts_from:
            self._tally.add(act, answer, now - self._counts_from)
            self._tally.seconds = max(now - self._counts_from, self._tally.seconds)
            self._notice(answer)

    def limited(self, act: str) -> None:
        self._tally.limited(act)

    def skipped(self, act: str) -> None:
        if not self.over:
            self._tally.skipped(act)

    async def run(
        self, gateway: Gateway, settings: Settings, scenario: Scenario, avatar: str, dice: Random
    ) -> None:
        load, accounts = self._load, settings.target.accounts
        visitors = [
            Visitor(
                number=number,
                account=accounts[number - 1] if accounts else settings.target.account,
                owns_account=bool(accounts),
                first_of_account=bool(accounts) or number == 1,
                gateway=gateway,
                scenario=scenario,
                avatar=avatar,
                dice=Random(dice.random()),  # noqa: S311 - dice, no secrets
                clock=self,
            )
            for number in range(1, self._tally.users + 1)
        ]
        async with Watch() as watch:
            tasks = [
                asyncio.create_task(self._come(visitor, load.ramp_up * place / len(visitors)))
                for place, visitor in enumerate(visitors)
            ]
            try:
                await self._until_over(tasks)
            finally:
                self._tally.effort = watch.effort()
                self._ended.set()
                self._measure()
                self._tally.unfinished = sum(not task.done() for task in tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _measure(self) -> None:
        """A rate is of all the time that there was, also of that in which nobody was answered."""
        if self._ends is not None and self._left != 0:
            until = min(time.perf_counter(), self._ends)
            self._tally.seconds = max(self._tally.seconds, until - self._counts_from)

    async def _come(self, visitor: Visitor, after: float) -> None:
        await self.sleep(after)
        self._tally.present += 1
        try:
            await visitor.live()
        finally:
            self._tally.present -= 1

    async def _until_over(self, tasks: "list[asyncio.Task[None]]") -> None:
        """Wait for the end of the time or of the calls, then a little for what is in flight."""
        limit = None if self._ends is None else max(self._ends - time.perf_counter(), 0.0)
        stop = asyncio.create_task(self._ended.wait())
        try:
            # A visitor ends before that only by an error, which ends the crowd.
            await asyncio.wait({stop, *tasks}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            self._ended.set()
            await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        finally:
            stop.cancel()
