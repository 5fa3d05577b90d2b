"""The instance manager: one instance per avatar name, shared by everybody who starts it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from backend.demo.answers import Answer, as_json
from backend.demo.instance import Instance
from backend.demo.service import Latency, Routes, Service
from backend.demo.settings import Settings
from backend.demo.wire import Exchange, Listener

Fields = dict[str, Any]
Act = Callable[[Fields], Coroutine[Any, Any, Answer]]

GPUS = 2


@dataclass
class Running:
    """A started instance and how many starts it has served."""

    avatar_id: str
    name: str
    gpu: int
    listener: Listener
    instance: Instance
    connections: int = 1
    started_at: float = field(default_factory=time.time)

    def described(self) -> dict[str, object]:
        return {
            "avatar_id": self.avatar_id,
            "real_avatar_name": self.name,
            "port": self.listener.port,
            "gpu": self.gpu,
            "pid": os.getpid(),
            "running": True,
            "start_time": datetime.fromtimestamp(self.started_at, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "uptime_seconds": int(time.time() - self.started_at),
            "webrtc_url": self.listener.url,
            "connections": self.connections,
        }


class Manager:
    """Starts and stops instances, one change after another."""

    def __init__(self, settings: Settings, latency: Latency, instances: Service) -> None:
        self._settings = settings
        self._latency = latency
        self._instances = instances
        self._running: dict[str, Running] = {}
        self._lock = asyncio.Lock()
        self._changes: set[asyncio.Task[Answer]] = set()

    def __repr__(self) -> str:
        return f"<Manager {len(self._running)} of {self._settings.capacity} running>"

    def routes(self) -> Routes:
        return {
            ("POST", "/avatar/start"): self._changing(self.start),
            ("POST", "/avatar/disconnect"): self._changing(self.disconnect),
            ("POST", "/avatar/stop"): self._changing(self.stop),
            ("POST", "/avatar/restart"): self._changing(self.restart),
            ("POST", "/avatar/stop-all"): self.stop_all,
            ("GET", "/avatar/list"): self.list,
            ("GET", "/avatar/info/*"): self.info,
            ("GET", "/status"): self.status,
            ("GET", "/health"): self.health,
        }

    def hang_up(self, session: int | None = None) -> int:
        """Let the pages of a session, or of all, be closed; tell how many sessions that were."""
        return sum(running.instance.hang_up(session) for running in self._running.values())

    async def start(self, fields: Fields) -> Answer:
        avatar_id, name = fields.get("avatar_id"), fields.get("avatar_name")
        if not isinstance(avatar_id, str) or not isinstance(name, str) or not avatar_id or not name:
            return _failed("缺少必要参数: avatar_id, avatar_name")
        if running := self._running.get(name):
            running.connections += 1
            return _done("数字人已在运行, 共享现有实例", running.described())
        if len(self._running) >= self._settings.capacity:
            return _failed(f"已达到最大实例数限制: {self._settings.capacity}")
        return await self._start_cold(avatar_id, name)

    async def disconnect(self, fields: Fields) -> Answer:
        running = self._running.get(str(fields.get("avatar_name"))) or self._by_id(fields.get("avatar_id"))
        if running is None:
            return _failed("数字人未运行")
        running.connections -= 1
        if running.connections > 0:
            return _done("已断开连接", {"connections": running.connections})
        await self._stop(running)
        return _done("已断开连接, 实例已停止", {"connections": 0})

    async def stop(self, fields: Fields) -> Answer:
        running = self._by_id(fields.get("avatar_id"))
        if running is None:
            return _failed("数字人未运行")
        await self._stop(running)
        return _done("数字人已停止")

    async def restart(self, fields: Fields) -> Answer:
        running = self._by_id(fields.get("avatar_id"))
        if running is None:
            return _failed("数字人未运行")
        await self._stop(running)
        return await self._start_cold(running.avatar_id, running.name)

    async def stop_all(self, exchange: Exchange) -> Answer:
        await exchange.drain()
        return await self._outlive(self._stop_all())

    async def list(self, exchange: Exchange) -> Answer:
        described = [running.described() for running in self._running.values()]
        return as_json({"status": "success", "count": len(described), "data": described})

    async def info(self, exchange: Exchange) -> Answer:
        running = self._by_id(exchange.tail)
        return _done("", running.described()) if running else _failed("数字人不存在", 404)

    async def status(self, exchange: Exchange) -> Answer:
        running, capacity = list(self._running.values()), self._settings.capacity
        described = {
            "running": len(running),
            "max": capacity,
            "available": capacity - len(running),
            "utilization": f"{len(running)}/{capacity}",
            "gpu_distribution": Counter(str(each.gpu) for each in running),
            "total_connections": sum(each.connections for each in running),
            "shared_avatars": sum(each.connections > 1 for each in running),
            "avatar_map": {each.name: each.avatar_id for each in running},
            "avatars": [each.described() for each in running],
        }
        return _done("", {"manager": described, "gpu": []})

    async def health(self, exchange: Exchange) -> Answer:
        return as_json({"status": "healthy", "service": "avatar-manager", "version": "1.0.0"})

    async def close(self) -> None:
        for change in list(self._changes):
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        await asyncio.gather(*(running.instance.close() for running in self._running.values()))

    def _changing(self, act: Act) -> Callable[[Exchange], Awaitable[Answer]]:
        async def handler(exchange: Exchange) -> Answer:
            try:
                fields = await exchange.read_object()
            except ValueError:
                return _failed("请求体必须是JSON")
            return await self._outlive(self._in_turn(act, fields))

        return handler

    async def _in_turn(self, act: Act, fields: Fields) -> Answer:
        async with self._lock:
            return await act(fields)

    async def _outlive(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Finish a change even when its caller leaves, as a server with a thread per request does."""
        change = asyncio.create_task(work)
        self._changes.add(change)
        change.add_done_callback(self._changes.discard)
        return await asyncio.shield(change)

    async def _start_cold(self, avatar_id: str, name: str) -> Answer:
        await self._latency.wait()
        settings = self._settings
        instance = Instance(name, self._latency, settings.max_sessions, settings.max_live_sessions)
        listener = await self._open(instance)
        if listener is None:
            return _failed("没有可用端口")
        running = Running(avatar_id, name, len(self._running) % GPUS, listener, instance)
        self._running[name] = running
        return _done("数字人启动成功", running.described())

    async def _open(self, instance: Instance) -> Listener | None:
        for port in self._settings.instance_ports:
            try:
                return await self._instances.open(port, instance.routes())
            except OSError:
                continue
        return None

    async def _stop(self, running: Running) -> None:
        """Close the port first and take the time afterwards, as killing a process and waiting for it does."""
        del self._running[running.name]
        await self._instances.shut(running.listener)
        await running.instance.close()
        await self._latency.wait()

    async def _stop_all(self) -> Answer:
        async with self._lock:
            stopped = list(self._running.values())
            for running in stopped:
                await self._stop(running)
        return _done(f"已停止 {len(stopped)} 个数字人")

    def _by_id(self, avatar_id: object) -> Running | None:
        return next((each for each in self._running.values() if each.avatar_id == avatar_id), None)


def _done(message: str, described: object = None) -> Answer:
    extra = {} if described is None else {"data": described}
    return as_json({"status": "success", "message": message, **extra})


def _failed(message: str, status: int = 400) -> Answer:
    return as_json({"status": "error", "message": message}, status)
