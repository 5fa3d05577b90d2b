"""One user of a scenario: comes, calls, thinks, and comes again until the time is over."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol
from urllib.parse import quote

from performance.answers import Answer, read_json
from performance.gateway import Gateway
from performance.scenarios import PLACEHOLDER, Act, Scenario, Think, groups
from performance.settings import Account
from performance.tally import TOLD_TO_WAIT

MOST_WAITS = 3
SOON_SECONDS = 1.0
# Sessions in a row without a call, by chance or for want of an account: then nothing is left to be done.
MOST_IDLE_SESSIONS = 1_000
IDLE_SECONDS = 0.001
SIGN_IN = Act(
    "login",
    "POST",
    "/api/login",
    json={"email": "{email}", "password": "{password}"},
    keep={"token": "token"},
    own_account=True,
)


class Clock(Protocol):
    """The crowd's: who may begin a call, and until when one may sleep."""

    @property
    def over(self) -> bool: ...
    def take(self) -> bool:
        """Take one of the calls that may still be made."""

    async def sleep(self, seconds: float) -> None:
        """Sleep so long, or until the time is over."""

    def answered(self, act: str, answer: Answer, began: float) -> None: ...
    def limited(self, act: str) -> None: ...
    def skipped(self, act: str) -> None: ...


@dataclass
class Visitor:
    """Has an account, dice of its own, and what its answers gave it to remember."""

    number: int
    account: Account
    owns_account: bool
    first_of_account: bool
    gateway: Gateway
    scenario: Scenario
    avatar: str
    dice: Random
    clock: Clock
    known: dict[str, Any] = field(default_factory=dict)
    calls: int = 0

    async def live(self) -> None:
        idle = 0
        while not self.clock.over and idle < MOST_IDLE_SESSIONS:
            before = self.calls
            await self.session()
            idle = idle + 1 if self.calls == before else 0
            await asyncio.sleep(IDLE_SECONDS if idle else 0)

    async def session(self) -> None:
        """Go through the scenario once; what tidies up is done also when the time is over."""
        scenario = self.scenario.drawn(self.dice)
        signs_in = any("token" in act.keep for act in scenario.acts)
        acts, token = scenario.acts, self.known.get("token")
        if token is None and not signs_in and self.owns_account:
            acts = (SIGN_IN, *acts)
        self.known = {
            "user": self.number,
            "avatar": self.avatar,
            "email": self.account.email,
            "password": self.account.password,
        }
        if token is not None and not signs_in:
            self.known["token"] = token
        await self._through(acts, scenario.think)
        if signs_in:
            self.known.pop("token", None)  # the session has ended it

    async def _through(self, sequence: Sequence[Act], think: Think) -> None:
        for group in groups(sequence):
            acts = [act for act in group if self._wanted(act)]
            rounds = max((self.dice.randint(*act.times) for act in acts), default=0)
            for _ in range(rounds):
                if self.clock.over and not all(act.closing for act in acts):
                    break
                if len(acts) == 1:
                    await self._do(acts[0])
                else:
                    await asyncio.gather(*map(self._do, acts))
                await self.clock.sleep(self._pause(acts, think))

    def _wanted(self, act: Act) -> bool:
        """Roll the dice for every act alike, so that one's luck does not change another's."""
        lucky = self.dice.random() < act.share
        if (act.own_account and not self.owns_account) or (
            act.first_of_account and not self.first_of_account
        ):
            return False
        return lucky

    def _pause(self, acts: Sequence[Act], think: Think) -> float:
        spans = [think if act.think is None else act.think for act in acts]
        return max((self.dice.uniform(*span) for span in spans), default=0.0)

    async def _do(self, act: Act) -> None:
        if not act.placeholders <= set(self.known):
            if not act.closing:  # what would be tidied up was perhaps never made
                self.clock.skipped(act.name)
            return
        if act.closing and self.clock.over:
            await self._call(act)  # tidying up counts for nothing any more
            return
        for _ in range(MOST_WAITS):
            if not self.clock.take():
                return
            began = time.perf_counter()
            answer = await self._call(act)
            if answer.status != TOLD_TO_WAIT or answer.retry_after is None:
                break
            self.clock.limited(act.name)
            await self.clock.sleep(max(answer.retry_after, SOON_SECONDS))
            if self.clock.over:
                return
        self.clock.answered(act.name, answer, began)

    async def _call(self, act: Act) -> Answer:
        token, known = self.known.get("token"), self.known
        own = token if isinstance(token, str) else None
        form = {key: str(filled(text, known)) for key, text in act.form.items()} if act.form else None
        upload = None
        if act.upload is not None:
            upload = (act.upload.field, str(filled(act.upload.name, known)), act.upload.size)
        self.calls += 1
        request = self.gateway.request(
            act.method,
            filled_path(act.path, known),
            form=form,
            json=filled_all(act.json, known),
            upload=upload,
            token=own,
        )
        answer = await self.gateway.send(request, time.perf_counter(), bool(act.keep), secret=own or "")
        if answer.failure is None and act.keep:
            self._keep(act.keep, read_json(answer.body))
        return answer

    def _keep(self, keep: Mapping[str, str], reply: Any) -> None:
        for name, path in keep.items():
            found = reply
            for member in path.split("."):
                found = found.get(member) if isinstance(found, dict) else None
            if found is not None:
                self.known[name] = found


def filled(text: str, known: Mapping[str, Any]) -> Any:
    """Fill placeholders; a text that is nothing but one becomes the value itself, number or text."""
    if (whole := PLACEHOLDER.fullmatch(text)) and whole[1] in known:
        return known[whole[1]]
    return PLACEHOLDER.sub(lambda found: str(known.get(found[1], found[0])), text)


def filled_path(path: str, known: Mapping[str, Any]) -> str:
    def quoted(found: re.Match[str]) -> str:
        return quote(str(known.get(found[1], found[0])), safe="")

    return PLACEHOLDER.sub(quoted, path)


def filled_all(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return filled(value, known)
    if isinstance(value, dict):
        return {key: filled_all(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [filled_all(one, known) for one in value]
    return value
