"""What one session says: a queue of speech, read at the pace of the sound that goes out."""

from __future__ import annotations

from collections import deque

import numpy as np

from backend.demo.live.mouth import REST, Mouth, at
from backend.demo.live.voice import RATE, Samples, Speech

# Minutes of speech that nobody interrupts; what comes on top is refused.
QUEUE_SECONDS = 180.0


class Speaker:
    """Speech in order; whoever sends the sound reads it, and the face asks how the mouth is."""

    def __init__(self) -> None:
        self._waiting: deque[Speech] = deque()
        self._begun = 0  # samples of the first speech that were read

    def __repr__(self) -> str:
        return f"<Speaker {self.seconds_left:.1f} s to say>"

    @property
    def speaking(self) -> bool:
        return bool(self._waiting)

    @property
    def seconds_left(self) -> float:
        return sum(speech.seconds for speech in self._waiting) - self._begun / RATE

    def add(self, speech: Speech) -> bool:
        """Queue a speech; tell whether there was room."""
        if self.seconds_left > QUEUE_SECONDS:
            return False
        if len(speech.samples):
            self._waiting.append(speech)
        return True

    def read(self, count: int) -> Samples:
        """Return the next samples, silence where there is nothing to say."""
        sound = np.zeros(count, np.int16)
        filled = 0
        while filled < count and self._waiting:
            samples = self._waiting[0].samples
            part = samples[self._begun : self._begun + count - filled]
            sound[filled : filled + len(part)] = part
            filled += len(part)
            self._begun += len(part)
            if self._begun >= len(samples):
                self._waiting.popleft()
                self._begun = 0
        return sound

    def mouth(self) -> Mouth:
        """Return the shape that belongs to what was read last."""
        return at(self._waiting[0].moments, self._begun / RATE) if self._waiting else REST

    def interrupt(self) -> None:
        self._waiting.clear()
        self._begun = 0
