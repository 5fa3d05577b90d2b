"""What goes out to one session: sound by a clock of 20 ms, and frames by one of 40 ms."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import numpy as np
from aiortc import MediaStreamTrack
from av import AudioFrame, VideoFrame

from backend.demo.live.face import Face
from backend.demo.live.speaker import Speaker
from backend.demo.live.voice import RATE

FRAME_SECONDS = 0.02
FRAME_SAMPLES = int(RATE * FRAME_SECONDS)
PICTURES_A_SECOND = 25
VIDEO_CLOCK = 90_000
# After a stall of the machine nobody wants the missed seconds sent in a burst.
BEHIND_SECONDS = 0.5


class Pace:
    """Ticks at a fixed rate; after a stall it goes on from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next: float | None = None

    async def tick(self) -> None:
        now = asyncio.get_running_loop().time()
        due = now if self._next is None else self._next
        if now < due:
            await asyncio.sleep(due - now)
        elif now > due + BEHIND_SECONDS:
            due = now
        self._next = due + self._seconds


class Sound(MediaStreamTrack):
    """What the session says, or silence."""

    kind = "audio"

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self._speaker = speaker
        self._pace = Pace(FRAME_SECONDS)
        self._sent = 0

    async def recv(self) -> AudioFrame:
        await self._pace.tick()
        samples = self._speaker.read(FRAME_SAMPLES)
        frame = AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        frame.pts = self._sent
        self._sent += FRAME_SAMPLES
        return frame


class Picture(MediaStreamTrack):
    """The face, with the mouth that belongs to the sound of this moment.

    Without a sound track `alone` lets the speech go on at the pace of the frames, unheard.
    """

    kind = "video"

    def __init__(self, speaker: Speaker, face: Face, *, alone: bool) -> None:
        super().__init__()
        self._speaker = speaker
        self._face = face
        self._alone = alone
        self._pace = Pace(1 / PICTURES_A_SECOND)
        self._sent = 0

    async def recv(self) -> VideoFrame:
        await self._pace.tick()
        if self._alone:
            self._speaker.read(RATE // PICTURES_A_SECOND)
        mouth, speaking = self._speaker.mouth(), self._speaker.speaking
        seconds = self._sent / PICTURES_A_SECOND
        # In a thread, so that the sound of every session keeps its pace.
        pixels = await asyncio.to_thread(
            lambda: np.asarray(self._face.frame(seconds, mouth, speaking), dtype=np.uint8)
        )
        frame = VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = self._sent * VIDEO_CLOCK // PICTURES_A_SECOND
        frame.time_base = Fraction(1, VIDEO_CLOCK)
        self._sent += 1
        return frame
