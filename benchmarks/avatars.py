"""`python -m benchmarks.avatars`: does every call of every user reach the own instance, whatever dies?

Users on many instances call through several workers. Every answer names the instance and the session that it
came from. Runs: undisturbed; a worker is killed every few seconds; with --redis, a Redis is killed and
started again all the while; an instance is killed. After each the manager has to count every user once.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from benchmarks import avatar_crowd, command, people, report, stores
from benchmarks.avatar_users import INSTANCE, REDIS, WORKER, Disturb, Outcome, Person, Run
from benchmarks.machine import described, require
from benchmarks.processes import ROOT, Process, answering, exchange, free_port, running
from benchmarks.workers import serving

VERSIONS = ("flask", "hypercorn", "granian", "uvloop")
# Comparing finds what a dead worker left within a lease and two rounds; a busy machine gets some more.
COUNTED_SECONDS = 60.0


@dataclass(frozen=True)
class Scene:
    """A running gateway before the avatars of its users."""

    process: Process
    port: int
    crowd: avatar_crowd.Crowd
    redis: stores.OwnRedis | None
    everybody: list[Person]

    async def counted(self) -> int:
        """Return how many connections the manager counts, as soon as it is one for each user."""
        late = time.monotonic() + COUNTED_SECONDS
        while True:
            _, told = await asyncio.to_thread(exchange, "GET", f"{self.crowd.manager_url}/avatar/list")
            counts: int = sum(each["connections"] for each in json.loads(told)["data"])
            if counts == len(self.everybody) or time.monotonic() > late:
                return counts
            await asyncio.sleep(0.5)


def kill_workers(scene: Scene, seconds: float) -> Disturb:
    async def disturb(run: Run) -> None:
        while True:
            await asyncio.sleep(seconds)
            workers = await asyncio.to_thread(serving, scene.process, scene.port)
            if workers:
                os.kill(random.choice(sorted(workers)), signal.SIGKILL)
                run.outcome.disturbed += 1

    return disturb


def kill_redis(redis: stores.OwnRedis, seconds: float) -> Disturb:
    async def disturb(run: Run) -> None:
        while True:
            await asyncio.sleep(seconds / 2)
            await asyncio.to_thread(redis.kill)
            run.outcome.disturbed += 1
            await asyncio.sleep(seconds / 2)
            await asyncio.to_thread(redis.start)

    return disturb


def kill_instance(scene: Scene, seconds: float) -> Disturb:
    async def disturb(run: Run) -> None:
        await asyncio.sleep(seconds)
        run.killed_port = scene.everybody[0].port
        body = json.dumps({"port": run.killed_port}).encode()
        await asyncio.to_thread(exchange, "POST", f"{scene.crowd.manager_url}/kill", body)
        run.outcome.disturbed += 1

    return disturb


async def measured(scene: Scene, asked: argparse.Namespace) -> list[Outcome]:
    disturbances: list[tuple[str, str | None, Disturb | None]] = [
        ("undisturbed", None, None),
        ("a worker killed now and then", WORKER, kill_workers(scene, asked.every)),
        ("an instance killed", INSTANCE, kill_instance(scene, asked.after)),
    ]
    if scene.redis is not None:
        disturbances.append(("Redis killed and started", REDIS, kill_redis(scene.redis, asked.every)))
    outcomes = []
    for name, dying, disturb in disturbances:
        report.progress(f"{name}: {asked.calls} calls of {len(scene.everybody)} users")
        run = Run(name, scene.port, scene.everybody, dying)
        outcomes.append(await run.made(asked.calls, asked.callers, disturb))
        run.outcome.counted = await scene.counted()
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
    parser.add_argument(
        "--redis", action="store_true", help="with a Redis that is killed and started in a run of its own"
    )
    return parser.parse_args(arguments)


@contextlib.contextmanager
def running_scene(asked: argparse.Namespace, folder: Path) -> Iterator[Scene]:
    """Run the avatars, the gateway and what it stores things in. Raises Missing and Failure."""
    key, port = secrets.token_urlsafe(48), free_port()
    database = asked.database or f"sqlite:///{folder / 'gateway.db'}"
    tokens = people.signed_in(folder, database, key, asked.users)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(stores.own_redis()) if asked.redis else None
        crowd = stack.enter_context(avatar_crowd.served(folder, None, asked.instances))
        settings = {
            "WORKERS": str(asked.workers),
            "DATABASE_URL": database,
            "JWT_SECRET_KEY": key,
            "GATEWAY_INSTANCE_DIR": str(folder),
            "AVATAR_SERVICE_URL": crowd.catalogue_url,
            "AVATAR_MANAGER_URL": crowd.manager_url,
            "AVATAR_INSTANCE_PORTS": "1024-65535",
        }
        settings |= {"REDIS_URL": redis.url} if redis else {}
        gateway = [sys.executable, str(ROOT / "run.py"), f"--port={port}"]
        process = stack.enter_context(
            running("gateway", gateway, core=None, folder=folder, settings=settings)
        )
        answering(process, f"http://127.0.0.1:{port}/api/ping")
        everybody = [
            Person(user, token, crowd.names[number % len(crowd.names)])
            for number, (user, token) in enumerate(tokens.items())
        ]
        yield Scene(process, port, crowd, redis, everybody)


def main(asked: argparse.Namespace, folder: Path) -> int:
    require(("setpriv", "redis-server") if asked.redis else ("setpriv",))
    with running_scene(asked, folder) as scene, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcomes = runner.run(measured(scene, asked))
    machine, tables = described(VERSIONS), [_table(outcomes)]
    notes = [
        "Wrong answers came from another instance or session than the caller's own, strange ones refused a "
        "call whose instance lived: there may be none. Lost are calls without an answer: their worker died. "
        "Places are what the manager counts in the end, one for each user.",
        *(f"{one.run}: {count} x {said}" for one in outcomes for said, count in one.told.items()),
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    report.save(asked.json, {"machine": machine, "runs": [asdict(one) for one in outcomes]})
    return command.FINE if all(one.verdict == "ok" for one in outcomes) else command.SHORT


def _table(outcomes: Sequence[Outcome]) -> report.Table:
    counted = ("disturbed", "calls", "right", "wrong", "strange", "lost", "refused", "recovered")
    rows = [
        (
            one.run,
            *(str(getattr(one, name)) for name in counted),
            f"{one.counted} of {one.users}",
            f"{one.calls / one.seconds:.0f}/s",
            one.verdict,
        )
        for one in outcomes
    ]
    return report.Table("Everybody on the own instance", ("run", *counted, "places", "rate", ""), tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
