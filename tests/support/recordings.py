"""Recordings as a browser makes them."""

import io
import wave

import numpy as np


def wav(seconds: float, rate: int = 16_000, loudness: float = 0.4) -> bytes:
    """A tone as the voice input of a browser would record it."""
    tone = np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 300 / rate) * loudness * 32767
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(tone.astype("<i2").tobytes())
    return file.getvalue()
