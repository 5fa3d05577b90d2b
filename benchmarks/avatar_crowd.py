"""`python -m benchmarks.avatar_crowd`: a catalogue, a manager and instances that say who they are.

Each answer of an instance names its port and the session that was asked: a call that went astray shows.
`POST /kill {"port": n}` at the manager ends an instance with all its connections, as a crash does.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import Failure, Process, running

Fields = dict[str, Any]
Handler = Callable[[str, Fields], Awaitable[tuple[int, Fields]]]
START_LINE_SECONDS = 20.0


class Door:
    """A port that answers JSON; `shut` ends it with every connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def open(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    def shut(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = head.lower().split("\r\n")
                sizes = [int(line[15:]) for line in lines if line.startswith("content-length:")]
                body = await reader.readexactly(sizes[0]) if sizes else b""
                status, answer = await self._handler(head.split(" ", 2)[1], json.loads(body or b"{}"))
                content = json.dumps(answer).encode()
                top = (
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
                )
                writer.write(top.encode() + b"\r\n\r\n" + content)
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


@dataclass
class Instance:
    """One avatar with its sessions."""

    name: str
    avatar_id: str
    connections: int = 0
    sessions: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.door = Door(self.answer)

    @property
    def info(self) -> Fields:
        place = {"avatar_id": self.avatar_id, "real_avatar_name": self.name, "port": self.door.port}
        return place | {"running": True, "gpu": 0, "connections": self.connections}

    async def answer(self, path: str, fields: Fields) -> tuple[int, Fields]:
        if path == "/health":
            told = {"status": "running", "service": str(self.door.port)}
            return 200, told | {"sessions": len(self.sessions), "max_sessions": 1000}
        if path == "/offer":
            session = 100_000 + self.door.port % 1000 * 900 + len(self.sessions)
            self.sessions.add(session)
            return 200, {"sdp": "v=0\r\n", "type": "answer", "sessionid": session}
        if fields.get("sessionid") not in self.sessions:
            return 404, {"code": -1, "msg": "session not found"}
        return 200, {"code": 0, "msg": f"{self.door.port} {fields['sessionid']}", "data": False}


class World:
    """The catalogue and the manager, on one port each."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._running: dict[str, Instance] = {}
        self._lock = asyncio.Lock()

    async def catalogue(self, path: str, fields: Fields) -> tuple[int, Fields]:
        return 200, {"status": "success", "avatars": {name: {"status": "ready"} for name in self._names}}

    async def manager(self, path: str, fields: Fields) -> tuple[int, Fields]:
        async with self._lock:
            return await self._manage(path.replace("%20", " "), fields)

    async def _manage(self, path: str, fields: Fields) -> tuple[int, Fields]:
        if path == "/avatar/list":
            return 200, {"status": "success", "data": [each.info for each in self._running.values()]}
        if path == "/kill":
            for name, each in list(self._running.items()):
                if each.door.port == fields["port"]:
                    self._running.pop(name).door.shut()
            return 200, {"status": "success"}
        if path == "/avatar/start":
            found = self._running.get(fields["avatar_name"])
            if found is None:
                found = Instance(fields["avatar_name"], fields["avatar_id"])
                await found.door.open()
                self._running[found.name] = found
            found.connections += 1
            return 200, {"status": "success", "data": found.info}
        wanted = fields.get("avatar_id") or path.rpartition("/")[2]
        there = next((each for each in self._running.values() if each.avatar_id == wanted), None)
        if there is None:
            return (404 if "info" in path else 400), {"status": "error", "message": "not running"}
        if path == "/avatar/disconnect":
            there.connections -= 1
            if there.connections <= 0:
                self._running.pop(there.name).door.shut()
        return 200, {"status": "success", "data": there.info}


@dataclass(frozen=True)
class Crowd:
    """A running world."""

    catalogue_url: str
    manager_url: str
    names: tuple[str, ...]


@contextmanager
def served(folder: Path, core: int | None, instances: int) -> Iterator[Crowd]:
    """Run the world in a process of its own. Raises Failure."""
    command = [sys.executable, "-m", "benchmarks.avatar_crowd", f"--instances={instances}"]
    with running("avatars", command, core=core, folder=folder) as process:
        told = _first_line(process)
        yield Crowd(told["catalogue"], told["manager"], tuple(told["names"]))


def _first_line(process: Process) -> Fields:
    late = time.monotonic() + START_LINE_SECONDS
    while time.monotonic() < late:
        lines = process.log.read_text("utf-8").splitlines()
        if lines:
            told: Fields = json.loads(lines[0])
            return told
        time.sleep(0.05)
    raise Failure("the avatars did not start")


async def main(instances: int) -> None:
    names = [f"Avatar {number}" for number in range(instances)]
    world = World(names)
    catalogue, manager = Door(world.catalogue), Door(world.manager)
    told = {"catalogue": await catalogue.open(), "manager": await manager.open()}
    urls: Fields = {name: f"http://127.0.0.1:{port}" for name, port in told.items()}
    print(json.dumps(urls | {"names": names}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m benchmarks.avatar_crowd")
    _parser.add_argument("--instances", type=int, default=20)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(_parser.parse_args().instances))
