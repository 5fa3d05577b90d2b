"""Frames of RFC 6455 as bytes: heads, masking, close codes. No I/O."""

import os
from dataclasses import dataclass
from functools import lru_cache

from websockets.speedups import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

# Section 7.4.1. 1005 and 1006 stand for what was never sent.
NORMAL, GOING_AWAY, PROTOCOL_ERROR = 1000, 1001, 1002
NO_CODE, LOST = 1005, 1006
NOT_CONSISTENT, POLICY, TOO_BIG, UNEXPECTED, TRY_LATER = 1007, 1008, 1009, 1011, 1013
# Of the range for applications: what 401 is to HTTP.
SIGNED_OUT = 4401

MOST_CONTROL_BYTES = 125
KEY_BYTES = 4
MOST_REASON_BYTES = MOST_CONTROL_BYTES - 2

_FINAL, _MASKED = 0x80, 0x80


class Violation(Exception):
    """A peer broke the protocol or a limit: the close code that tells it, and why."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(f"{code} {reason}")


@dataclass(slots=True)
class Frame:
    """A frame that was read; `wire` is all of it as it can be sent on, still masked by `key`."""

    opcode: int
    final: bool
    wire: bytes
    head_bytes: int
    key: bytes

    @property
    def payload(self) -> bytes:
        if not self.key:
            return self.wire[self.head_bytes :]
        return apply_mask(memoryview(self.wire)[self.head_bytes :], self.key)

    @property
    def payload_bytes(self) -> int:
        return len(self.wire) - self.head_bytes


def new_key() -> bytes:
    """Return a masking key that nobody can foretell."""
    return os.urandom(KEY_BYTES)


@lru_cache(maxsize=256)
def head(opcode: int, length: int, *, final: bool = True, masks: bool = False) -> bytes:
    """Return the first bytes of a frame, without its masking key."""
    first = opcode | (_FINAL if final else 0)
    bit = _MASKED if masks else 0
    if length < 126:
        return bytes((first, bit | length))
    if length < 1 << 16:
        return bytes((first, bit | 126)) + length.to_bytes(2)
    return bytes((first, bit | 127)) + length.to_bytes(8)


def frame(opcode: int, payload: bytes, *, final: bool = True, masks: bool = False) -> bytes:
    """Return a whole frame of the gateway's own making."""
    start = head(opcode, len(payload), final=final, masks=masks)
    if not masks:
        return start + payload
    key = new_key()
    return start + key + apply_mask(payload, key)


def close_frame(code: int, reason: bytes = b"", *, masks: bool = False) -> bytes:
    """Return a Close frame; NO_CODE makes one without a code."""
    payload = b"" if code == NO_CODE else code.to_bytes(2) + reason[:MOST_REASON_BYTES]
    return frame(CLOSE, payload, masks=masks)


def close_of(payload: bytes) -> tuple[int, bytes]:
    """Return code and reason of a Close frame, NO_CODE where there is none. Raises Violation."""
    if not payload:
        return NO_CODE, b""
    if len(payload) == 1:
        raise Violation(PROTOCOL_ERROR, "a close code has two bytes")
    code, reason = int.from_bytes(payload[:2]), payload[2:]
    if not may_be_sent(code):
        raise Violation(PROTOCOL_ERROR, "no such close code")
    try:
        reason.decode("utf-8")
    except UnicodeDecodeError:
        raise Violation(NOT_CONSISTENT, "the reason is no UTF-8") from None
    return code, reason


def may_be_sent(code: int) -> bool:
    """Tell whether a Close frame may carry this code (section 7.4, and IANA's registry up to 1014)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
