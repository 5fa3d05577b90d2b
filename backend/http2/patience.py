"""How much of what costs a client nothing and the gateway something is taken from one connection."""

import time
from collections.abc import Callable

from backend.http2.frames import Code, ConnectionFault

# Streams that a client ends before their answer, and streams that it makes the gateway end: each may have
# begun a call upstream (CVE-2023-44487, CVE-2025-8671). A page that is left cancels what it waits for, at
# most the streams of a connection; a player that seeks cancels a few a second.
RESETS = 500
RESETS_PER_SECOND = 33.0
# PING, SETTINGS, PRIORITY, empty DATA, unknown frames, and frames for streams that have ended: some at the
# start of a connection, then a few a second. Each DATA frame sent earns some more: clients answer it by
# window updates for stream and connection, and some by a PING.
ODD_FRAMES = 2_000
ODD_FRAMES_PER_SECOND = 100.0
EARNED_BY_A_DATA_FRAME = 4.0


class Patience:
    """Two buckets; an empty one ends the connection with ENHANCE_YOUR_CALM."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resets = float(RESETS)
        self._odd = float(ODD_FRAMES)
        self._filled_at = clock()

    def reset(self) -> None:
        """Count a stream that ended before its answer by the client's doing. Raises ConnectionFault."""
        self._resets -= 1
        if self._resets < 0:
            self._refill()
            if self._resets < 0:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many streams reset")

    def odd(self, cost: float = 1.0) -> None:
        """Count a frame that carries nothing. Raises ConnectionFault."""
        self._odd -= cost
        if self._odd < 0:
            self._refill()
            if self._odd < 0:
                raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def earn(self) -> None:
        """Take note of a DATA frame sent."""
        if self._odd < ODD_FRAMES:
            self._odd += EARNED_BY_A_DATA_FRAME

    def _refill(self) -> None:
        now = self._clock()
        passed, self._filled_at = now - self._filled_at, now
        self._resets = min(RESETS, self._resets + passed * RESETS_PER_SECOND)
        self._odd = min(ODD_FRAMES, self._odd + passed * ODD_FRAMES_PER_SECOND)
