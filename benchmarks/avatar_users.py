"""Users of `benchmarks.avatars`: each calls the own avatar and looks who answered."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import Failure

WORKER, REDIS, INSTANCE = "worker", "Redis", "instance"
OFFER = {"sdp": "v=0\r\n", "type": "offer"}
CALL_SECONDS = 30.0
KINDS = ("human", "is_speaking", "health")
START_AGAIN = ("avatar_gone", "conflict", "upstream_broken", "not_found")
# A user whose worker died amid a start asks again; its lease ends after twelve seconds.
RECOVER_SECONDS = 60.0


@dataclass
class Person:
    """One user: where the own avatar is."""

    number: int
    token: str
    avatar: str
    port: int = 0
    session: int = 0


@dataclass
class Outcome:
    """What a run saw. `wrong` answers came from another instance or session: there may be none.

    `lost` got no answer, as the worker died; `refused` were told that their instance has ended, `strange`
    were refused though theirs had not. `counted` is what the manager counts in the end, of `users`.
    `dying` is what was killed again and again, `disturbed` times.
    """

    run: str
    users: int
    dying: str | None = None
    disturbed: int = 0
    calls: int = 0
    right: int = 0
    wrong: int = 0
    lost: int = 0
    refused: int = 0
    strange: int = 0
    recovered: int = 0
    counted: int = 0
    seconds: float = 0.0
    told: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        lost = 0 if self.dying == WORKER else self.lost
        spared = self.dying is not None and not self.disturbed
        short = self.wrong or self.strange or lost or spared or self.counted != self.users
        return "short" if short else "ok"


class Caller:
    """A kept connection that makes one call at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def call(
        self, token: str, method: str, path: str, body: bytes = b"", kind: str = "json"
    ) -> tuple[int, Any]:
        """Raises OSError and EOFError without an answer."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        types = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {token}\r\n"
        )
        if body:
            head += f"Content-Type: {types[kind]}\r\nContent-Length: {len(body)}\r\n"
        try:
            async with asyncio.timeout(CALL_SECONDS):
                self._writer.write(head.encode() + b"\r\n" + body)
                top = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(top.split("content-length:", 1)[1].split("\r\n", 1)[0])
                return int(top.split(" ", 2)[1]), json.loads(await self._reader.readexactly(length))
        except (OSError, EOFError, IndexError):
            self.close()
            raise EOFError from None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


Disturb = Callable[["Run"], Coroutine[Any, Any, None]]


class Run:
    """One run over all users."""

    def __init__(self, name: str, port: int, everybody: list[Person], dying: str | None = None) -> None:
        self.outcome = Outcome(name, len(everybody), dying)
        self.killed_port = 0
        self._port = port
        self._everybody = everybody

    async def made(self, calls: int, callers: int, disturb: Disturb | None) -> Outcome:
        """Make so many calls, each user's one after another, and one more for each. Raises Failure."""
        began = time.monotonic()
        disturbing = None if disturb is None else asyncio.create_task(disturb(self))
        shares = [self._everybody[number::callers] for number in range(callers)]
        try:
            await asyncio.gather(*(self._caller(share, calls // callers) for share in shares if share))
        finally:
            if disturbing is not None:
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)
        await asyncio.gather(*map(self._called_once_more, shares))
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _caller(self, share: list[Person], calls: int) -> None:
        caller, dice = Caller(self._port), random.Random(share[0].number)
        try:
            for person in share:
                await self._seated(caller, person)
            for _ in range(calls):
                await self._call(caller, dice.choice(share), dice.choice(KINDS))
        finally:
            caller.close()

    async def _called_once_more(self, share: list[Person]) -> None:
        """See that also those have a session still who were not called since the last death."""
        caller = Caller(self._port)
        try:
            for person in share:
                await self._call(caller, person, "human")
        finally:
            caller.close()

    async def _call(self, caller: Caller, person: Person, kind: str) -> None:
        outcome = self.outcome
        outcome.calls += 1
        body = (
            b""
            if kind == "health"
            else json.dumps({"sessionid": person.session, "text": "x", "type": "echo"}).encode()
        )
        try:
            method = "POST" if body else "GET"
            status, told = await caller.call(person.token, method, f"/api/webrtc/{kind}", body)
        except EOFError:
            outcome.lost += 1
            return
        if status == 200:
            said = str(told["service"]) if kind == "health" else told["msg"]
            fitting = str(person.port) if kind == "health" else f"{person.port} {person.session}"
            outcome.right += said == fitting
            outcome.wrong += said != fitting
            return
        sentence = f"{status} {told['msg']}"
        outcome.told[sentence] = outcome.told.get(sentence, 0) + 1
        if person.port == self.killed_port and told["code"] in START_AGAIN:
            outcome.refused += 1
            await self._seated(caller, person)
            outcome.recovered += 1
            return
        outcome.strange += 1

    async def _seated(self, caller: Caller, person: Person) -> None:
        """Start the avatar and connect, again if a worker dies meanwhile. Raises Failure."""
        late = time.monotonic() + RECOVER_SECONDS
        while time.monotonic() < late:
            try:
                form = f"avatar_name={person.avatar.replace(' ', '+')}".encode()
                status, told = await caller.call(person.token, "POST", "/api/avatar/start", form, "form")
                if status == 200:
                    person.port = told["port"]
                    offer = json.dumps(OFFER).encode()
                    status, told = await caller.call(person.token, "POST", "/api/webrtc/offer", offer)
                    if status == 200:
                        person.session = told["sessionid"]
                        return
            except EOFError:
                pass
            await asyncio.sleep(0.2)
        raise Failure(f"user {person.number} got no avatar: {told}")
