"""Which trace a request belongs to, as W3C Trace Context spells it."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[bytes, bytes]

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
# Version 00, and what later versions promise to keep of it; all in lower case, and no id of noughts alone.
_VALID = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]{0,64})?"
)
_MEMBER = re.compile(
    rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
MOST_STATE_BYTES = 512
MOST_STATE_MEMBERS = 32
SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class Parent:
    """A span of somebody else's, in hexadecimal digits; `sampled` when it is recorded there."""

    trace_id: str
    span_id: str
    sampled: bool


def parent_of(headers: Sequence[Pair]) -> Parent | None:
    """Return what the one valid `traceparent` says; several, or anything else, say nothing."""
    found = [value for name, value in headers if name == TRACEPARENT]
    match = _VALID.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or (match[1] == b"00" and match[5] is not None):
        return None
    return Parent(match[2].decode("ascii"), match[3].decode("ascii"), bool(int(match[4], 16) & SAMPLED))


def checked(headers: list[Pair]) -> list[Pair]:
    """Return headers without what a hostile or broken client wrote about traces.

    A state without a valid parent has no meaning, and one that is malformed none either.
    """
    dropped: set[bytes] = set()
    if parent_of(headers) is None:
        dropped = {TRACEPARENT, TRACESTATE}
    elif not _is_state([value for name, value in headers if name == TRACESTATE]):
        dropped = {TRACESTATE}
    return [pair for pair in headers if pair[0] not in dropped] if dropped else headers


def spelled(trace_id: str, span_id: str) -> bytes:
    """Return the `traceparent` of a span that is recorded."""
    return f"00-{trace_id}-{span_id}-01".encode("ascii")


def new_trace_id() -> str:
    return os.urandom(16).hex()


def new_span_id() -> str:
    return os.urandom(8).hex()


def _is_state(lines: list[bytes]) -> bool:
    whole = b",".join(lines)
    members = [member.strip(b" \t") for member in whole.split(b",")]
    return (
        len(whole) <= MOST_STATE_BYTES
        and len(members) <= MOST_STATE_MEMBERS
        and all(not member or _MEMBER.fullmatch(member) for member in members)
    )
