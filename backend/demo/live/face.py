"""A face that lives: it blinks, moves a little, and shows the mouth it is given."""

from __future__ import annotations

from math import cos, radians, sin
from random import Random

from PIL import Image

from backend.demo.live import drawing
from backend.demo.live.mouth import Mouth
from backend.demo.portrait import look_of, seed_of

# What of the head layer is ever not transparent; turning less costs less.
_HEAD_BOX = (84, 52, 300, 316)
_NECK = (192 - 84, 300 - 52)  # what the head turns around
_BLINK_SECONDS = 0.2
_GAZE_SECONDS = (1.4, 4.0)
_BLINKS_APART = (2.2, 5.5)


class Face:
    """Frames of one person for one session, asked for in the order of their time."""

    def __init__(self, name: str) -> None:
        self._look = look_of(name)
        self._chance = Random(seed_of(name))  # noqa: S311 - when somebody blinks is no secret
        self._stage = drawing.stage(self._look)
        self._head = drawing.head(self._look).crop(_HEAD_BOX)
        self._blink_at = self._chance.uniform(*_BLINKS_APART)
        self._gaze_at, self._gaze = 0.0, 0
        self._vigour = 0.0

    def frame(self, seconds: float, mouth: Mouth, speaking: bool) -> Image.Image:
        """Draw the face as it is at a time of the session."""
        head = self._head.copy()
        for part, box in (
            (drawing.eyes(self._look, self._lid(seconds), self._looks(seconds)), drawing.EYES_BOX),
            (drawing.mouth(self._look, mouth), drawing.MOUTH_BOX),
        ):
            head.alpha_composite(part, (box[0] - _HEAD_BOX[0], box[1] - _HEAD_BOX[1]))
        turned = self._turned(head, seconds, speaking)
        picture = self._stage.copy()
        picture.paste(turned, _HEAD_BOX[:2], turned)
        return picture

    def _lid(self, seconds: float) -> int:
        if seconds >= self._blink_at + _BLINK_SECONDS:
            self._blink_at = seconds + self._chance.uniform(*_BLINKS_APART)
        into = (seconds - self._blink_at) / _BLINK_SECONDS
        if not 0 <= into < 1:
            return 0
        return 2 if 0.25 <= into < 0.7 else 1

    def _looks(self, seconds: float) -> int:
        if seconds >= self._gaze_at:
            self._gaze_at = seconds + self._chance.uniform(*_GAZE_SECONDS)
            self._gaze = self._chance.choice((0, 0, 0, -2, 2, 1, -1))
        return self._gaze

    def _turned(self, head: Image.Image, seconds: float, speaking: bool) -> Image.Image:
        """Sway: slowly at rest, more while speaking; the change from one to the other takes a second."""
        self._vigour += ((1.0 if speaking else 0.35) - self._vigour) * 0.06
        angle = radians(1.5 * self._vigour * sin(0.9 * seconds) + 0.5 * sin(0.37 * seconds))
        across = 2.4 * self._vigour * sin(0.63 * seconds + 1) + 0.8 * sin(1.7 * seconds)
        down = 1.6 * self._vigour * sin(2.3 * seconds) + 0.9 * sin(0.8 * seconds)
        turn_x, turn_y = _NECK
        c, s = cos(angle), sin(angle)
        # Where each pixel of the turned head comes from.
        from_x = turn_x - c * (turn_x + across) - s * (turn_y + down)
        from_y = turn_y + s * (turn_x + across) - c * (turn_y + down)
        return head.transform(
            head.size, Image.Transform.AFFINE, (c, s, from_x, -s, c, from_y), Image.Resampling.BILINEAR
        )
