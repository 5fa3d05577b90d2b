from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.demo.live.mouth import GLIDE_SECONDS, PRESSED, REST, Mouth, at, of_loudness, of_phoneme


@pytest.mark.parametrize("phoneme", ["m", "b", "ph", "mˈ"])
def test_lips_meet_for_m_b_and_p(phoneme: str) -> None:
    assert of_phoneme(phoneme) == PRESSED


def test_vowels_open_the_mouth_as_people_do() -> None:
    a, i, u = (of_phoneme(name) for name in ("ˈɑː", "ˈiː", "uː"))
    assert a is not None
    assert i is not None
    assert u is not None
    assert a.open > i.open > 0.1
    assert i.wide > a.wide > u.wide
    assert u.wide < -0.5


def test_a_pause_rests_and_a_change_of_language_is_no_sound() -> None:
    assert of_phoneme("") == REST
    assert of_phoneme("(en)") is None
    assert of_phoneme("ˈ") is None


@given(st.text())
def test_no_name_of_a_phoneme_is_too_odd(name: str) -> None:
    shape = of_phoneme(name)
    assert shape is None or 0 <= shape.open <= 1


def test_louder_speech_opens_the_mouth_wider_and_silence_closes_it() -> None:
    opened = [of_loudness(level / 100).open for level in range(101)]
    assert opened[0] == 0.0
    assert opened == sorted(opened)
    assert opened[-1] == 1.0


def test_a_mouth_is_on_its_way_before_the_next_sound_begins() -> None:
    moments = ((0.0, REST), (1.0, Mouth(1.0)))
    assert at(moments, 0.5) == REST
    half = at(moments, 1.0 - GLIDE_SECONDS / 2)
    assert 0.4 < half.open < 0.6
    assert at(moments, 1.0) == Mouth(1.0)
    assert at(moments, 9.0) == Mouth(1.0)


moments = st.lists(st.tuples(st.floats(0, 10), st.builds(Mouth, st.floats(0, 1))), min_size=1).map(
    lambda pairs: tuple(sorted(pairs, key=lambda pair: pair[0]))
)


@given(moments, st.floats(-1, 11))
def test_no_time_makes_a_mouth_that_is_wider_than_its_neighbours(
    speech: tuple[tuple[float, Mouth], ...], seconds: float
) -> None:
    assert 0 <= at(speech, seconds).open <= max(mouth.open for _, mouth in speech) + 1e-9
