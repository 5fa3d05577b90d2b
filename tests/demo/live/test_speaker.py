from __future__ import annotations

import pytest

from backend.demo.live.mouth import REST, Mouth

np = pytest.importorskip("numpy")
pytest.importorskip("av")
pytest.importorskip("espeakng_loader")

from backend.demo.live.speaker import QUEUE_SECONDS, Speaker  # noqa: E402
from backend.demo.live.voice import RATE, Speech  # noqa: E402

OPEN = Mouth(0.9)


def speech(value: int, seconds: float = 1.0) -> Speech:
    return Speech(np.full(int(RATE * seconds), value, np.int16), ((0.0, OPEN), (seconds, REST)))


def test_nothing_to_say_is_silence_with_the_mouth_at_rest() -> None:
    speaker = Speaker()
    assert not speaker.read(960).any()
    assert speaker.mouth() == REST
    assert not speaker.speaking


def test_speeches_follow_each_other_without_a_gap_and_end_in_silence() -> None:
    speaker = Speaker()
    speaker.add(speech(1, 0.015))
    speaker.add(speech(2, 0.01))
    sound = speaker.read(int(RATE * 0.03))
    assert [int((sound == value).sum()) for value in (1, 2, 0)] == [720, 480, 240]
    assert not speaker.speaking


def test_the_mouth_is_that_of_the_sound_which_was_read() -> None:
    speaker = Speaker()
    speaker.add(speech(1))
    speaker.read(RATE // 2)
    assert speaker.mouth() == OPEN
    speaker.read(RATE)
    assert speaker.mouth() == REST


def test_an_interruption_forgets_what_is_said_and_what_waits() -> None:
    speaker = Speaker()
    for value in (1, 2):
        speaker.add(speech(value))
    speaker.read(960)
    speaker.interrupt()
    assert not speaker.speaking
    assert not speaker.read(960).any()
    speaker.add(speech(3))
    assert int(speaker.read(960)[0]) == 3


def test_more_than_anybody_would_listen_to_is_refused() -> None:
    speaker = Speaker()
    long = speech(1, QUEUE_SECONDS)
    assert speaker.add(long)
    assert speaker.add(speech(2))
    assert not speaker.add(speech(3))
    speaker.read(2 * RATE)
    assert speaker.add(speech(3))
