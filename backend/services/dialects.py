"""What the avatar services mean by what they answer: many report failures with status 200."""

import json
from collections.abc import Mapping
from typing import Any

from backend.errors import (
    BadRequest,
    Conflict,
    GatewayError,
    NotFound,
    TooLarge,
    UnsupportedMedia,
    UpstreamBusy,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRejected,
)
from backend.services.streams import ByteStream, read_whole
from backend.services.trail import TRAIL

ANSWER_BYTES = 1 << 20

# An error status of an avatar service -> what the caller is told. Others from 400 on mean UpstreamRejected.
BY_STATUS: Mapping[int, type[GatewayError]] = {
    400: BadRequest,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    415: UnsupportedMedia,
    422: BadRequest,
    429: UpstreamBusy,
    503: UpstreamBusy,
    504: UpstreamFirstByteTimeout,
}

# The manager answers 400 to everything it cannot do just now: no port, no memory, limit reached.
MANAGER_BY_STATUS: Mapping[int, type[GatewayError]] = {**BY_STATUS, 400: UpstreamBusy}


def refusal(
    status: int, payload: object, by_status: Mapping[int, type[GatewayError]] = BY_STATUS
) -> GatewayError | None:
    """Return the error that an upstream's answer means, or None for success."""
    if status >= 400:
        return by_status.get(status, UpstreamRejected)()
    if status >= 300:
        return UpstreamGarbage()
    if isinstance(payload, dict):
        if payload.get("code") == -1:
            return UpstreamBusy()
        if payload.get("status") == "error":
            return UpstreamRejected()
    return None


def json_value(content: bytes) -> Any:
    """Parse an upstream's JSON. Raises UpstreamGarbage."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as exc:
        raise UpstreamGarbage from exc


def _no_number(text: str) -> None:
    """Refuse NaN and Infinity: Python's JSON knows them, no browser's does (RFC 8259, section 6)."""
    raise ValueError(text)


async def read_answer(body: ByteStream) -> bytes:
    """Read an upstream's short answer, let go of its connection. Raises UpstreamGarbage over a megabyte."""
    try:
        with TRAIL.get().waiting():
            return await read_whole(body, ANSWER_BYTES)
    except TooLarge as exc:
        raise UpstreamGarbage from exc
    finally:
        await body.aclose()


def json_object(
    status: int, content: bytes, by_status: Mapping[int, type[GatewayError]] = BY_STATUS
) -> dict[str, Any]:
    """Return the object of a successful answer; raise what anything else means."""
    if status >= 300:
        raise refusal(status, None, by_status) or UpstreamGarbage()
    payload = json_value(content)
    error = refusal(status, payload, by_status)
    if error is not None:
        raise error
    if not isinstance(payload, dict):
        raise UpstreamGarbage
    return payload
