"""The voice: text to sound and mouth shapes by eSpeak NG; recordings by their loudness."""

from __future__ import annotations

import ctypes
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import espeakng_loader  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from backend.demo.live.mouth import REST, Moments, Mouth, of_loudness, of_phoneme
from backend.demo.words import chinese

Samples = npt.NDArray[np.int16]

RATE = 48_000
# Loudness is looked at as often as a face is drawn.
LOUDNESS_SECONDS = 0.04
# A voice message of the frontend is seconds long; one of minutes would hold the avatar for as long.
RECORDING_SECONDS = 120.0

# speak_lib.h
_SYNCHRONOUS = 2
_PHONEME_EVENTS, _IN_IPA, _DONT_EXIT = 0x1, 0x2, 0x8000
_EVENT_END, _EVENT_PHONEME = 0, 7
_UTF8 = 1
_BY_CHARACTER = 1
_PARAMETER_RATE, _PARAMETER_PITCH = 1, 3
# Words in a minute: a teacher's pace. Mandarin counts syllables, so the same number is quicker.
_WORDS_PER_MINUTE = {"en-us": 160, "cmn": 165}


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Speech:
    """Sound of 48 kHz, one channel, and the mouth shapes with the second at which each begins."""

    samples: Samples
    moments: Moments

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


class VoiceError(Exception):
    """The engine or a recording cannot be used; the text says why."""


class Voice:
    """One engine for the process; it is not made for threads, so a lock lets one text in at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engine: ctypes.CDLL | None = None
        self._rate = 22_050
        self._sound = bytearray()
        self._moments: list[tuple[float, Mouth]] = []
        # The engine keeps only a pointer: the object has to live as long as it does.
        self._callback = _Callback(self._heard)

    def speak(self, text: str, timbre: Timbre) -> Speech:
        """Return a text as speech; blocks for some milliseconds. Raises VoiceError."""
        with self._lock:
            engine = self._engine or self._opened()
            language = "cmn" if chinese(text) else "en-us"
            self._sound, self._moments = bytearray(), []
            name = f"{language}+{timbre.variant}".encode()
            if engine.espeak_SetVoiceByName(name):
                raise VoiceError(f"there is no voice {name.decode()}")
            engine.espeak_SetParameter(_PARAMETER_RATE, _WORDS_PER_MINUTE[language], 0)
            engine.espeak_SetParameter(_PARAMETER_PITCH, timbre.pitch, 0)
            data = text.replace("\0", " ").encode()
            if engine.espeak_Synth(data, len(data) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None):
                raise VoiceError("the text could not be spoken")
            samples = np.frombuffer(bytes(self._sound), np.int16)
            return Speech(
                _resampled(samples, self._rate), (*self._moments, (len(samples) / self._rate, REST))
            )

    def _opened(self) -> ctypes.CDLL:
        engine = ctypes.CDLL(espeakng_loader.get_library_path())
        options = _PHONEME_EVENTS | _IN_IPA | _DONT_EXIT
        rate = engine.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), options)
        if rate <= 0:
            raise VoiceError("the speech engine does not start")
        engine.espeak_SetSynthCallback(self._callback)
        self._engine, self._rate = engine, rate
        return engine

    def _heard(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._sound += ctypes.string_at(samples, count * 2)
        place = 0
        while events[place].type != _EVENT_END:
            event = events[place]
            if event.type == _EVENT_PHONEME:
                shape = of_phoneme(event.id.string.decode("utf-8", "replace"))
                if shape is not None:
                    self._moments.append((event.audio_position / 1000, shape))
            place += 1
        return 0


@dataclass(frozen=True)
class Timbre:
    """How a voice differs from others: a variant of the engine, and a pitch of 0 to 99."""

    variant: str
    pitch: int

    @classmethod
    def of(cls, seed: int) -> Timbre:
        """Return the timbre of an avatar; the same seed always sounds the same."""
        variants = ("f2", "m3", "f3", "m1", "f4", "m7")
        return cls(variants[seed % len(variants)], 42 + seed // 7 % 17)


def recorded(content: bytes) -> Speech:
    """Return a recording, of any kind that can be decoded, as speech. Raises VoiceError."""
    try:
        samples = np.concatenate([*_decoded(content), np.zeros(0, np.int16)])
    except (OSError, ValueError) as error:  # av.FFmpegError is one of both
        raise VoiceError("the recording cannot be read") from error
    if not len(samples):
        raise VoiceError("the recording is empty")
    return Speech(samples, tuple(_loudness(samples)))


def _decoded(content: bytes) -> Iterator[Samples]:
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    left = int(RECORDING_SECONDS * RATE)
    with av.open(io.BytesIO(content), "r") as container:
        if not container.streams.audio:
            raise VoiceError("the recording has no sound")
        for frame in container.decode(container.streams.audio[0]):
            for piece in resampler.resample(frame):
                yield piece.to_ndarray()[0][:left]
                left -= piece.samples
            if left <= 0:
                return
        for piece in resampler.resample(None):
            yield piece.to_ndarray()[0][:left]


def _loudness(samples: Samples) -> Iterator[tuple[float, Mouth]]:
    step = int(LOUDNESS_SECONDS * RATE)
    for begin in range(0, len(samples), step):
        part = samples[begin : begin + step].astype(np.float64) / 32768
        yield begin / RATE, of_loudness(float(np.sqrt(np.mean(part * part))))
    yield len(samples) / RATE, REST


def _resampled(samples: Samples, rate: int) -> Samples:
    if not len(samples):
        return samples
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis, :], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    pieces = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])
