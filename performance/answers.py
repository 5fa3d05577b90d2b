"""How one call ended."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Failure:
    """Why a call failed: status and message of the gateway, or what the connection did."""

    kind: str
    request_id: str = ""

    def __str__(self) -> str:
        return f"{self.kind} (request id {self.request_id})" if self.request_id else self.kind


@dataclass(frozen=True)
class Answer:
    """What came back; the body is kept for those that look at it, size counts all of it.

    `first_seconds` is the wait for the first byte of a body, `retry_after` the seconds that the gateway asks
    to wait.
    """

    seconds: float
    status: int | None = None
    size: int = 0
    body: bytes = field(default=b"", repr=False)
    failure: Failure | None = None
    first_seconds: float | None = None
    retry_after: float | None = None


def read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def first_avatar(listing: object) -> str | None:
    """The list is an object keyed by name, or an array of objects with a name."""
    names: list[object] = list(listing) if isinstance(listing, dict) else []
    if isinstance(listing, list):
        names = [item.get("name") for item in listing if isinstance(item, dict)]
    return next((name for name in names if isinstance(name, str) and name), None)
