from __future__ import annotations

import itertools

import pytest

from backend.demo.live.mouth import REST, Mouth

np = pytest.importorskip("numpy")
pytest.importorskip("PIL")

from PIL import Image  # noqa: E402

from backend.demo.live.drawing import MOUTH_BOX, SIZE  # noqa: E402
from backend.demo.live.face import Face  # noqa: E402

WIDE_OPEN = Mouth(1.0, 0.2, 0.4)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean())


def test_frames_have_the_size_that_the_encoder_likes() -> None:
    assert Face("Ada Demo").frame(0.0, REST, speaking=False).size == (SIZE, SIZE)
    assert SIZE % 16 == 0


def test_an_open_mouth_changes_the_mouth_and_nothing_else() -> None:
    closed, opened = (Face("Ada Demo").frame(0.0, mouth, speaking=False) for mouth in (REST, WIDE_OPEN))
    assert difference(closed.crop(MOUTH_BOX), opened.crop(MOUTH_BOX)) > 5
    eyes = (0, 0, SIZE, MOUTH_BOX[1] - 10)
    assert difference(closed.crop(eyes), opened.crop(eyes)) == 0


def test_two_people_look_different_and_one_always_the_same() -> None:
    ada, again, mei = (
        Face(name).frame(0.0, REST, speaking=False) for name in ("Ada Demo", "Ada Demo", "Mei Lin")
    )
    assert difference(ada, again) == 0
    assert difference(ada, mei) > 5


def test_a_face_at_rest_moves_a_little_and_blinks() -> None:
    face = Face("Ada Demo")
    frames = [face.frame(number / 25, REST, speaking=False) for number in range(25 * 12)]
    steps = [difference(one, other) for one, other in itertools.pairwise(frames)]
    assert sum(step > 0 for step in steps) > 200
    assert max(steps) < 8  # it sways, it does not jump
    eyes = [np.asarray(frame.crop((130, 165, 254, 205)), np.int16).mean() for frame in frames]
    lids = sum(abs(value - np.median(eyes)) > 3 for value in eyes)
    assert 3 <= lids < 60
