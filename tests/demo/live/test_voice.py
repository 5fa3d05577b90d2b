from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.demo.live.mouth import PRESSED, REST

np = pytest.importorskip("numpy")
pytest.importorskip("av")
pytest.importorskip("espeakng_loader")

from backend.demo.live.voice import RATE, RECORDING_SECONDS, Speech, Timbre, Voice, VoiceError, recorded  # noqa: E402
from tests.support.recordings import wav  # noqa: E402

VOICE = Voice()
TIMBRE = Timbre.of(1)


@pytest.mark.parametrize("text", ["My papa bought a big blue map.", "妈妈买了一本大地图。"])
def test_speech_sounds_and_has_the_mouth_of_its_sounds(text: str) -> None:
    speech = VOICE.speak(text, TIMBRE)
    assert 1.0 < speech.seconds < 8.0
    assert np.abs(speech.samples).max() > 3000
    shapes = [mouth for _, mouth in speech.moments]
    assert PRESSED in shapes
    assert max(shape.open for shape in shapes) > 0.8
    assert shapes[-1] == REST


def test_mandarin_is_spoken_by_a_voice_for_it() -> None:
    # Read by the English voice, each of these signs would be named, which takes seconds.
    assert VOICE.speak("天空是蓝色的", TIMBRE).seconds < 2.5


def test_timbres_differ_and_the_same_seed_sounds_the_same() -> None:
    one, again, other = (VOICE.speak("Good morning", Timbre.of(seed)) for seed in (0, 0, 1))
    # The engine carries a rest of its noise from text to text, of some samples.
    assert abs(one.seconds - again.seconds) < 0.01
    assert pitch(one) == pytest.approx(pitch(again), rel=0.03)
    assert pitch(one) != pytest.approx(pitch(other), rel=0.15)


def pitch(speech: Speech) -> float:
    """The strongest tone below 400 Hz."""
    strength = np.abs(np.fft.rfft(speech.samples))
    tones = np.fft.rfftfreq(len(speech.samples), 1 / RATE)
    return float(tones[np.argmax(np.where((tones > 60) & (tones < 400), strength, 0))])


def test_texts_of_many_threads_do_not_mix() -> None:
    texts = ["Good morning", "What a long sentence this one is, with many words in it", "No", "早上好"] * 5
    alone = {text: len(VOICE.speak(text, TIMBRE).samples) for text in texts}
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: len(VOICE.speak(text, TIMBRE).samples), texts))
    assert together == pytest.approx([alone[text] for text in texts], rel=0.1)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=60))
def test_every_text_becomes_a_speech_whose_shapes_are_in_order(text: str) -> None:
    speech = VOICE.speak(text.encode("utf-8", "replace").decode(), TIMBRE)
    times = [seconds for seconds, _ in speech.moments]
    assert times == sorted(times)
    assert times[-1] <= speech.seconds + 0.05


def test_a_recording_moves_the_mouth_by_its_loudness() -> None:
    speech: Speech = recorded(wav(1.0))
    assert abs(len(speech.samples) - RATE) < RATE * 0.05
    assert speech.moments[5][1].open > 0.8
    assert recorded(wav(1.0, loudness=0.0)).moments[5][1] == REST


def test_a_recording_of_hours_is_cut() -> None:
    assert recorded(wav(RECORDING_SECONDS + 5, rate=8_000)).seconds == RECORDING_SECONDS


@pytest.mark.parametrize("content", [b"", b"RIFF" * 1000, wav(0.0), b"\x00" * 5000])
def test_what_is_no_recording_is_said_to_be_none(content: bytes) -> None:
    with pytest.raises(VoiceError):
        recorded(content)
