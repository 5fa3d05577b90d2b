"""A scripted LiveTalking server: session ids in JSON bodies, a few places, no manager and no health route."""

import json
from dataclasses import dataclass, field
from typing import Any

from .peer import JSON, Exchange


@dataclass
class LiveTalking:
    """`room` peers at once; `health` is what a server tells that has such a route."""

    number: int = 1
    room: int = 1
    health: dict[str, Any] | None = None
    sessions: set[int] = field(default_factory=set)
    said: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        fields = json.loads(await exchange.body() or b"{}")
        status, content = self._answer(exchange.head.target.decode(), fields)
        await exchange.reply(json.dumps(content).encode(), JSON, status=status)

    def _answer(self, path: str, fields: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        if path == "/health":
            return (b"404 Not Found", {}) if self.health is None else (b"200 OK", self.health)
        if path == "/offer":
            if len(self.sessions) >= self.room:
                return b"200 OK", {"code": -1, "msg": "reach max session"}
            session = self.number * 100_000 + len(self.sessions)
            self.sessions.add(session)
            return b"200 OK", {"sdp": "v=0\r\n", "type": "answer", "sessionid": session}
        if fields["sessionid"] not in self.sessions:
            return b"200 OK", {"code": -1, "msg": str(KeyError(fields["sessionid"]))}
        self.said.append(fields)
        return b"200 OK", {"code": 0, "data": False}
