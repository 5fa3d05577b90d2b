"""A 256 by 256 portrait for any name, drawn in spans and packed as PNG."""

from __future__ import annotations

import colorsys
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

SIZE = 256

Colour = bytes

SKINS: tuple[Colour, ...] = (b"\xf6\xd7\xc3", b"\xe8\xb9\x94", b"\xc6\x8c\x63", b"\x8d\x5a\x3b")
HAIRS: tuple[Colour, ...] = (b"\x2b\x22\x20", b"\x5c\x3a\x21", b"\xb0\x7b\x3e", b"\x6d\x6a\x70")
WHITE: Colour = b"\xff\xff\xff"
INK: Colour = b"\x2a\x2a\x33"
LIP: Colour = b"\xb5\x4b\x4b"


@dataclass(frozen=True)
class Look:
    """The colours of a person, and whether the hair is long."""

    skin: Colour
    hair: Colour
    shirt: Colour
    long_hair: bool
    sky: Colour
    ground: Colour


def seed_of(name: str) -> int:
    return zlib.crc32(name.encode())


def look_of(name: str) -> Look:
    """Return how somebody looks; the same name always looks the same."""
    seed = seed_of(name)
    return Look(
        skin=SKINS[seed % len(SKINS)],
        hair=HAIRS[seed // 4 % len(HAIRS)],
        shirt=_tint(seed // 16 % 360 / 360, 0.38),
        long_hair=bool(seed // 256 % 2),
        sky=_backdrop(seed, 0),
        ground=_backdrop(seed, SIZE),
    )


@dataclass(frozen=True)
class Ellipse:
    """A filled ellipse, of which only the rows from `top` to `bottom` show."""

    x: float
    y: float
    rx: float
    ry: float
    colour: Colour
    top: int = 0
    bottom: int = SIZE

    def span(self, row: int) -> tuple[int, int]:
        """Return the columns covered in a row, first and past the last."""
        height = (row + 0.5 - self.y) / self.ry
        if not (self.top <= row < self.bottom and -1 < height < 1):
            return 0, 0
        half = self.rx * sqrt(1 - height * height)
        return max(0, round(self.x - half)), min(SIZE, round(self.x + half))


# As many as a catalogue can hold in a long demo; a portrait is a few kilobytes.
@lru_cache(maxsize=256)
def portrait(name: str) -> bytes:
    """Return the PNG of a name; the same name always looks the same."""
    shapes, seed = _face(look_of(name)), seed_of(name)
    rows = b"".join(b"\x00" + _row(row, shapes, _backdrop(seed, row)) for row in range(SIZE))
    return _png(rows)


def _face(look: Look) -> tuple[Ellipse, ...]:
    skin, hair = look.skin, look.hair
    return (
        Ellipse(128, 124, 74, 84, hair, bottom=200 if look.long_hair else 160),
        Ellipse(128, 270, 104, 74, look.shirt),
        Ellipse(128, 204, 26, 34, skin),
        Ellipse(128, 128, 58, 70, skin),
        Ellipse(128, 92, 62, 46, hair, bottom=88),
        *(eye for x in (104, 152) for eye in _eye(x)),
        Ellipse(128, 150, 7, 5, _shaded(skin)),
        Ellipse(128, 164, 22, 14, LIP, top=164),
    )


def _eye(x: int) -> tuple[Ellipse, ...]:
    return (
        Ellipse(x, 108, 13, 5, INK, bottom=108),
        Ellipse(x, 122, 11, 8, WHITE),
        Ellipse(x, 122, 6, 6, INK),
        Ellipse(x + 2, 120, 2, 2, WHITE),
    )


def _row(row: int, shapes: tuple[Ellipse, ...], backdrop: Colour) -> bytes:
    pixels = bytearray(backdrop * SIZE)
    for shape, (first, last) in _spans(row, shapes):
        pixels[3 * first : 3 * last] = shape.colour * (last - first)
    return bytes(pixels)


def _spans(row: int, shapes: tuple[Ellipse, ...]) -> Iterator[tuple[Ellipse, tuple[int, int]]]:
    for shape in shapes:
        first, last = shape.span(row)
        if first < last:
            yield shape, (first, last)


def _backdrop(seed: int, row: int) -> Colour:
    return _tint(seed % 360 / 360, 0.82 - 0.22 * row / SIZE)


def _tint(hue: float, lightness: float) -> Colour:
    return bytes(round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.5))


def _shaded(colour: Colour) -> Colour:
    return bytes(part * 9 // 10 for part in colour)


def _png(rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
