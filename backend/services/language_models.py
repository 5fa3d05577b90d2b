"""The chat model as tutors see it: what it says of itself, and whether it answers."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backend.errors import GatewayError
from backend.models.base import utc_now
from backend.services.forwarding import Forwarder, Upstream
from backend.services.policies import Freshness, Timeouts

PROBE_SECONDS = 1.0
PROBE_TIMEOUTS = Timeouts(first_byte=PROBE_SECONDS, idle=PROBE_SECONDS, total=PROBE_SECONDS)
KEPT_SECONDS = 5.0  # tutors may look as often as they like
Status = Literal["active", "unavailable"]
NAME, KIND = "Chat model", "LLM"
WORD_CHARACTERS = 100  # of what the model says of itself


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """One model; `known_since` is when the gateway first looked for it."""

    id: str
    name: str
    type: str
    status: Status
    version: str
    owner: str
    known_since: datetime


class LanguageModels:
    """Asks the chat model's health, for at most a second."""

    def __init__(self, forwarder: Forwarder, upstream: Upstream) -> None:
        self._forwarder = forwarder
        self._upstream = upstream
        self._kept: LanguageModel | None = None
        self._since = utc_now()
        self._fresh = Freshness(KEPT_SECONDS)
        self._lock = asyncio.Lock()

    async def all(self) -> list[LanguageModel]:
        async with self._lock:
            if self._kept is None or not self._fresh.fresh:
                self._kept = await self._probed()
                self._fresh.touch()
            return [self._kept]

    async def _probed(self) -> LanguageModel:
        try:
            # The limits of the call leave out the wait for a free place.
            async with asyncio.timeout(PROBE_SECONDS):
                answer = await self._forwarder.probe(self._upstream, "/health", PROBE_TIMEOUTS)
        except (TimeoutError, GatewayError):
            return self._row("unavailable", b"")
        return self._row("active" if answer.status == 200 else "unavailable", answer.content)

    def _row(self, status: Status, content: bytes) -> LanguageModel:
        said = _said(content)
        return LanguageModel(
            id="llm",
            name=said.get("model", NAME),
            type=KIND,
            status=status,
            version=said.get("version", ""),
            owner=said.get("owner", ""),
            known_since=self._since,
        )


def _said(content: bytes) -> dict[str, str]:
    """Return what of a health answer is text worth showing."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(fields, dict):
        return {}
    return {
        name: value[:WORD_CHARACTERS] for name, value in fields.items() if isinstance(value, str) and value
    }
