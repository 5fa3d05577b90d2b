"""Pictures for tests: good ones of every kind, and ones that lie, break off or blow up."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

SECRET = b"Musterstrasse 7, 52.5200 N"


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 48), mode: str = "RGB", **how: Any) -> bytes:
    """A picture, red on its left half and blue on its right."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    out = io.BytesIO()
    image.convert(mode).save(out, kind, **how)
    return out.getvalue()


def photo(orientation: int = 1, size: tuple[int, int] = (800, 400)) -> bytes:
    """A JPEG as phones make them: turned by a note, and telling where it was taken."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    return picture("JPEG", size, exif=exif, comment=SECRET, icc_profile=SECRET, quality=90)


def moving() -> bytes:
    """A GIF whose first frame is red and whose second one is blue."""
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is this large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def many_scans(count: int = 2000) -> bytes:
    """A progressive JPEG that goes over its pixels again and again."""
    whole = picture("JPEG", (2000, 2000), progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image
