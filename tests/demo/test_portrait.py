from __future__ import annotations

import struct
import zlib

from backend.demo.portrait import SIZE, portrait


def test_portrait_is_a_whole_png() -> None:
    png = portrait("Ada Demo")
    assert struct.unpack(">II", png[16:24]) == (SIZE, SIZE)
    start = png.index(b"IDAT") + 4
    length = struct.unpack(">I", png[start - 8 : start - 4])[0]
    assert len(zlib.decompress(png[start : start + length])) == SIZE * (1 + 3 * SIZE)


def test_portrait_is_drawn_once_and_differs_by_name() -> None:
    assert portrait("Ada Demo") is portrait("Ada Demo")
    assert portrait("Ada Demo") != portrait("Mei Lin")
