"""A scripted instance manager on a real socket, which counts as the real one does."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from .peer import JSON, Exchange

FULL = "已达到最大实例数限制: 5"
NOT_RUNNING = "数字人未运行"


@dataclass
class Manager:
    """One instance a name, one connection more for each start; changes come one after another.

    `go` holds changes back until it is set, `deaf` answers nothing to paths that are in it though it does
    what they say, `broken` answers what it is told instead.
    """

    capacity: int = 5
    first_port: int = 8615
    running: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    deaf: set[str] = field(default_factory=set)
    broken: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cold: int = 0
    most_cold: int = 0
    cold_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.go.set()
        self._turn = asyncio.Lock()
        self._at_work: Counter[str] = Counter()

    @property
    def changes(self) -> list[str]:
        """The calls that were to change something."""
        return [path for path in self.calls if not path.startswith(("/avatar/info", "/avatar/list"))]

    @property
    def connections(self) -> dict[str, int]:
        return {name: info["connections"] for name, info in self.running.items()}

    async def __call__(self, exchange: Exchange) -> None:
        path = unquote(exchange.head.target.decode())
        self.calls.append(path)
        fields = json.loads(await exchange.body() or b"{}")
        self.asked.append(fields)
        if path in self.broken:
            status, content = self.broken[path]
            await exchange.reply(content, JSON, status=status)
            return
        await self.go.wait()
        status, content = await self._answer(path, fields)
        if path in self.deaf:
            exchange.reset()
            return
        await exchange.reply(json.dumps(content).encode(), JSON, status=status)

    async def _answer(self, path: str, fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        if path == "/avatar/list":
            listed = [dict(info) for info in self.running.values()]
            return b"200 OK", {"status": "success", "count": len(listed), "data": listed}
        if path == "/avatar/start":
            return await self._start(fields["avatar_id"], fields["avatar_name"])
        wanted = fields.get("avatar_id") or path.rpartition("/")[2]
        info = next((info for info in self.running.values() if info["avatar_id"] == wanted), None)
        if info is None:
            missing = b"404 Not Found" if path.startswith("/avatar/info") else b"400 Bad Request"
            return missing, {"status": "error", "message": NOT_RUNNING}
        if path == "/avatar/disconnect":
            info["connections"] -= 1
            if info["connections"] <= 0:
                self.running = {name: each for name, each in self.running.items() if each is not info}
        return b"200 OK", {"status": "success", "data": dict(info)}

    async def _start(self, instance_id: str, name: str) -> tuple[bytes, dict[str, Any]]:
        self._at_work[name] += name not in self.running
        self.most_cold = max(self.most_cold, self._at_work[name])
        try:
            async with self._turn:
                if name not in self.running:
                    if len(self.running) >= self.capacity:
                        return b"400 Bad Request", {"status": "error", "message": FULL}
                    await asyncio.sleep(self.cold_seconds)
                    self.cold += 1
                    self.running[name] = self._new(instance_id, name)
                info = self.running[name]
                info["connections"] += 1
                return b"200 OK", {"status": "success", "data": dict(info)}
        finally:
            self._at_work[name] -= self._at_work[name] > 0

    def _new(self, instance_id: str, name: str) -> dict[str, Any]:
        taken = {info["port"] for info in self.running.values()}
        port = next(port for port in range(self.first_port, self.first_port + 100) if port not in taken)
        place = {"avatar_id": instance_id, "real_avatar_name": name, "port": port}
        return place | {"running": True, "gpu": 0, "connections": 0}
