"""`python -m benchmarks.avatars`: does every call of every user reach the own instance, whatever dies?

Users on many instances call through several workers. Every answer names the instance and the session that it
came from. Three runs: undisturbed; a worker is killed every few seconds; an instance is killed.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import avatar_crowd, command, people, report
from benchmarks.machine import described, require
from benchmarks.processes import ROOT, Failure, Process, answering, exchange, free_port, running
from benchmarks.workers import serving

VERSIONS = ("flask", "hypercorn", "granian", "uvloop")
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
    were refused though theirs had not.
    """

    run: str
    calls: int = 0
    right: int = 0
    wrong: int = 0
    lost: int = 0
    refused: int = 0
    strange: int = 0
    recovered: int = 0
    seconds: float = 0.0
    told: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        lost = self.lost if self.run != "a worker killed now and then" else 0
        return "ok" if not (self.wrong or self.strange or lost) else "short"


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

    def __init__(self, name: str, port: int, everybody: list[Person]) -> None:
        self.outcome = Outcome(name)
        self.killed_port = 0
        self._port = port
        self._everybody = everybody

    async def made(self, calls: int, callers: int, disturb: Disturb | None) -> Outcome:
        """Make so many calls, each user's one after another. Raises Failure."""
        began = time.monotonic()
        disturbing = None if disturb is None else asyncio.create_task(disturb(self))
        shares = [self._everybody[number::callers] for number in range(callers)]
        try:
            await asyncio.gather(*(self._caller(share, calls // callers) for share in shares if share))
        finally:
            if disturbing is not None:
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)
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
        if person.port == self.killed_port and told["code"] in START_AGAIN:
            outcome.refused += 1
            outcome.told[f"{status} {told['msg']}"] += 1
            await self._seated(caller, person)
            outcome.recovered += 1
            return
        outcome.strange += 1
        outcome.told[f"{status} {told['msg']}"] += 1

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


def kill_workers(process: Process, port: int, seconds: float) -> Disturb:
    async def disturb(run: Run) -> None:
        while True:
            await asyncio.sleep(seconds)
            workers = await asyncio.to_thread(serving, process, port)
            if workers:
                os.kill(random.choice(sorted(workers)), signal.SIGKILL)

    return disturb


def kill_instance(crowd: avatar_crowd.Crowd, everybody: list[Person], seconds: float) -> Disturb:
    async def disturb(run: Run) -> None:
        await asyncio.sleep(seconds)
        run.killed_port = everybody[0].port
        body = json.dumps({"port": run.killed_port}).encode()
        await asyncio.to_thread(exchange, "POST", f"{crowd.manager_url}/kill", body)

    return disturb


async def measured(
    process: Process, port: int, crowd: avatar_crowd.Crowd, tokens: dict[int, str], asked: argparse.Namespace
) -> list[Outcome]:
    everybody = [
        Person(user, token, crowd.names[number % len(crowd.names)])
        for number, (user, token) in enumerate(tokens.items())
    ]
    outcomes = []
    for name, disturb in (
        ("undisturbed", None),
        ("a worker killed now and then", kill_workers(process, port, asked.every)),
        ("an instance killed", kill_instance(crowd, everybody, asked.after)),
    ):
        report.progress(f"{name}: {asked.calls} calls of {len(everybody)} users")
        outcomes.append(await Run(name, port, everybody).made(asked.calls, asked.callers, disturb))
    return outcomes


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.avatars", "Calls of many users on many instances, while things die.")
    parser.add_argument(
        "--calls", type=command.whole(100, 10_000_000), default=2000, metavar="N", help="a run"
    )
    parser.add_argument("--users", type=command.whole(1, 10_000), default=100, metavar="N")
    parser.add_argument("--instances", type=command.whole(1, 100), default=20, metavar="N")
    parser.add_argument("--workers", type=command.whole(2, 16), default=4, metavar="N")
    parser.add_argument("--callers", type=command.whole(1, 500), default=32, metavar="N", help="connections")
    parser.add_argument(
        "--every", type=command.between(0.5, 600), default=3.0, metavar="S", help="between deaths"
    )
    parser.add_argument(
        "--after",
        type=command.between(0.1, 600),
        default=1.0,
        metavar="S",
        help="until an instance is killed",
    )
    parser.add_argument(
        "--database", default=None, metavar="URL", help="an empty PostgreSQL one; else SQLite"
    )
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    require(("setpriv",))
    key, port = secrets.token_urlsafe(48), free_port()
    database = asked.database or f"sqlite:///{folder / 'gateway.db'}"
    tokens = people.signed_in(folder, database, key, asked.users)
    with avatar_crowd.served(folder, None, asked.instances) as crowd:
        settings = {
            "WORKERS": str(asked.workers),
            "DATABASE_URL": database,
            "JWT_SECRET_KEY": key,
            "GATEWAY_INSTANCE_DIR": str(folder),
            "AVATAR_SERVICE_URL": crowd.catalogue_url,
            "AVATAR_MANAGER_URL": crowd.manager_url,
            "AVATAR_INSTANCE_PORTS": "1024-65535",
        }
        gateway = [sys.executable, str(ROOT / "run.py"), f"--port={port}"]
        with running("gateway", gateway, core=None, folder=folder, settings=settings) as process:
            answering(process, f"http://127.0.0.1:{port}/api/ping")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                outcomes = runner.run(measured(process, port, crowd, tokens, asked))
    machine, tables = described(VERSIONS), [_table(outcomes)]
    notes = [
        "Wrong answers came from another instance or session than the caller's own, strange ones refused a "
        "call whose instance lived: there may be none. Lost are calls without an answer: their worker died.",
        *(f"{one.run}: {count} x {said}" for one in outcomes for said, count in one.told.most_common(6)),
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    report.save(asked.json, {"machine": machine, "runs": [asdict(one) for one in outcomes]})
    return command.FINE if all(one.verdict == "ok" for one in outcomes) else command.SHORT


def _table(outcomes: Sequence[Outcome]) -> report.Table:
    counted = ("calls", "right", "wrong", "strange", "lost", "refused", "recovered")
    rows = [
        (
            one.run,
            *(str(getattr(one, name)) for name in counted),
            f"{one.calls / one.seconds:.0f}/s",
            one.verdict,
        )
        for one in outcomes
    ]
    return report.Table("Everybody on the own instance", ("run", *counted, "rate", ""), tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
