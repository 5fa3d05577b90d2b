"""What the avatar services mean by what they answer: many report failures with status 200."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import (
    BadRequest,
    Conflict,
    GatewayError,
    NoFreePlace,
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

Words = tuple[tuple[str, type[GatewayError]], ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of service reports failures: by status, and by words of its text where that says more.

    `words` are searched for in `msg` or `message` of an answer that is a failure; the first that is found
    counts. `failed` is what `code: -1` with status 200 means without them.
    """

    by_status: Mapping[int, type[GatewayError]]
    words: Words = ()
    failed: type[GatewayError] = UpstreamBusy

    def object(self, status: int, content: bytes) -> dict[str, Any]:
        """Return the object of a successful answer; raise what anything else means."""
        told = self._told(content)
        try:
            return json_object(status, content, self.by_status, self.failed)
        except GatewayError:
            for pattern, error in self.words if told else ():
                if re.search(pattern, told, re.IGNORECASE):
                    raise error from None
            raise

    def _told(self, content: bytes) -> str:
        """Return what a failure says of itself, "" for a success and for what is no JSON."""
        try:
            payload = json.loads(content) if self.words and len(content) < WORDS_BYTES else None
        except (ValueError, RecursionError):
            return ""
        text = (payload.get("msg") or payload.get("message")) if isinstance(payload, dict) else None
        return text if isinstance(text, str) else ""


# A reason is a sentence; in what is longer nobody looks for one.
WORDS_BYTES = 4096

# Of the contract's own services. Instances say -1 when they are full, still start, or fail in any way.
INSTANCE = Dialect(BY_STATUS, words=((r"session.{0,12}(not found|unknown|gone)", NotFound),))
MANAGER = Dialect(
    MANAGER_BY_STATUS,
    words=(
        (r"最大实例数|可用端口|limit|no (free|available) port", NoFreePlace),
        (r"未运行|不存在|not running|no such", NotFound),
        (r"缺少|必须|missing|invalid", UpstreamRejected),
    ),
)
# LiveTalking looks sessions up without asking first: a missing one is a KeyError, told by its key, or 500.
LIVETALKING = Dialect(
    {**BY_STATUS, 500: NotFound},
    words=((r"^'?\d+'?$", NotFound), (r"session.{0,12}(not found|unknown|gone)", NotFound)),
)


def refusal(
    status: int,
    payload: object,
    by_status: Mapping[int, type[GatewayError]] = BY_STATUS,
    failed: type[GatewayError] = UpstreamBusy,
) -> GatewayError | None:
    """Return the error that an upstream's answer means, or None for success."""
    if status >= 400:
        return by_status.get(status, UpstreamRejected)()
    if status >= 300:
        return UpstreamGarbage()
    if isinstance(payload, dict):
        if payload.get("code") == -1:
            return failed()
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
    status: int,
    content: bytes,
    by_status: Mapping[int, type[GatewayError]] = BY_STATUS,
    failed: type[GatewayError] = UpstreamBusy,
) -> dict[str, Any]:
    """Return the object of a successful answer; raise what anything else means."""
    if status >= 300:
        raise refusal(status, None, by_status) or UpstreamGarbage()
    payload = json_value(content)
    error = refusal(status, payload, by_status, failed)
    if error is not None:
        raise error
    if not isinstance(payload, dict):
        raise UpstreamGarbage
    return payload
