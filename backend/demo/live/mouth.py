"""Mouth shapes: which one belongs to a phoneme, to a loudness, and to the moment between two."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

# A mouth is on its way to the next shape for this long before the phoneme begins.
GLIDE_SECONDS = 0.07


@dataclass(frozen=True)
class Mouth:
    """How far it is open (0 to 1), how wide (-1 round to 1 spread), how much the teeth show (0 to 1)."""

    open: float = 0.0
    wide: float = 0.0
    teeth: float = 0.0

    def towards(self, other: Mouth, share: float) -> Mouth:
        return Mouth(
            self.open + (other.open - self.open) * share,
            self.wide + (other.wide - self.wide) * share,
            self.teeth + (other.teeth - self.teeth) * share,
        )


REST = Mouth(0.0, 0.1)
PRESSED = Mouth(0.0, -0.05)

# The first sign of a phoneme that is found here decides; stress and length marks say nothing of the mouth.
_SHAPES: dict[str, Mouth] = {
    **dict.fromkeys("mbp", PRESSED),
    **dict.fromkeys("fvʋ", Mouth(0.12, 0.1, 1.0)),
    **dict.fromkeys("szʃʒɕʑʂʐjc", Mouth(0.14, 0.35, 0.9)),
    **dict.fromkeys("tdnlɾθðɲ", Mouth(0.22, 0.2, 0.6)),
    **dict.fromkeys("kɡgŋxχhqʔ", Mouth(0.3, 0.05, 0.3)),
    **dict.fromkeys("rɹɻwʍy", Mouth(0.2, -0.7, 0.1)),
    **dict.fromkeys("uʊɯ", Mouth(0.28, -0.95)),
    **dict.fromkeys("oɔɵ", Mouth(0.55, -0.7)),
    **dict.fromkeys("ɒɤ", Mouth(0.62, -0.3)),
    **dict.fromkeys("aɑæɐʌ", Mouth(0.95, 0.15, 0.3)),
    **dict.fromkeys("eɛəɜɚ", Mouth(0.55, 0.4, 0.4)),
    **dict.fromkeys("iɪɨ", Mouth(0.3, 0.85, 0.7)),
}

Moments = tuple[tuple[float, Mouth], ...]


def of_phoneme(name: str) -> Mouth | None:
    """Return the shape of a phoneme in IPA, REST for a pause, None for a sign that is no sound."""
    if not name:
        return REST
    if name.startswith("("):  # a change of language
        return None
    return next((_SHAPES[sign] for sign in name if sign in _SHAPES), None)


def of_loudness(level: float) -> Mouth:
    """Return the shape for speech whose sounds are unknown; `level` is the RMS, 1 at full scale."""
    open_ = min(1.0, level * 5.0)
    return REST if open_ < 0.06 else Mouth(open_, 0.15, 0.35 * min(1.0, open_ * 2))


def at(moments: Moments, seconds: float) -> Mouth:
    """Return the shape at a time of a speech, on its way to the next one when that is near."""
    place = bisect_right(moments, seconds, key=lambda moment: moment[0])
    here = moments[place - 1][1] if place else REST
    if place == len(moments):
        return here
    begin, following = moments[place]
    left = begin - seconds
    return here if left >= GLIDE_SECONDS else following.towards(here, left / GLIDE_SECONDS)
