"""Turning whatever people upload as their picture into a small one that is safe to show.

Everything here blocks: it runs in threads. Nothing of the upload but its pixels survives.
"""

from pathlib import Path
from typing import BinaryIO

from PIL import Image

from backend.errors import BadRequest

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
SPOKEN_FORMATS = "a PNG, JPEG, WebP or GIF picture"
MOST_PIXELS = 25_000_000  # what good phones make; unpacked it takes a hundred megabytes
SIDE_PIXELS = 512
# A progressive JPEG has ten or so. Each one costs a pass over all pixels, and a forged file has a hundred
# thousand of them in a few bytes each: an hour of work.
MOST_SCANS = 40
SCAN = b"\xff\xda"
JPEG_QUALITY = 88

# EXIF's orientation to what turns the picture upright (CIPA DC-008, table 4.6.4 A).
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NO_PICTURE = f"avatar needs to be {SPOKEN_FORMATS}."


def portrait_of(upload: Path, target: BinaryIO) -> str:
    """Write the picture in `upload` small, upright and bare to `target`; return its suffix.

    Raises BadRequest for what is no picture or too large a one, OSError when the disk takes no more.
    """
    try:
        small = _small(upload)
    except BadRequest:
        raise
    except Exception as exc:  # decoders raise whatever they stumble over: struct, Index, Value, Memory…
        raise BadRequest(NO_PICTURE) from exc
    if small.mode == "RGBA":
        small.save(target, "PNG", optimize=True)
        return ".png"
    small.save(target, "JPEG", quality=JPEG_QUALITY, optimize=True, progressive=True)
    return ".jpg"


def _small(upload: Path) -> Image.Image:
    with upload.open("rb") as file, _opened(file) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise BadRequest(_too_large(width, height))
        if image.format in ("JPEG", "MPO"):
            if upload.read_bytes().count(SCAN) > MOST_SCANS:
                raise BadRequest(NO_PICTURE)
            image.draft("RGB", (SIDE_PIXELS, SIDE_PIXELS))  # decoded at the least size that is enough
        turn = UPRIGHT.get(_orientation(image))
        plain = _plain(image)
    plain.thumbnail((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.LANCZOS, reducing_gap=2.0)
    upright = plain if turn is None else plain.transpose(turn)
    if upright.mode == "RGBA" and upright.getchannel("A").getextrema() == (255, 255):
        upright = upright.convert("RGB")
    # A new one knows nothing of comments, profiles and places.
    bare = Image.new(upright.mode, upright.size)
    bare.paste(upright)
    return bare


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise BadRequest(_too_large(0, 0)) from exc


def _too_large(width: int, height: int) -> str:
    has = f", this one has {width} x {height}" if width else ""
    return f"avatar may have at most {MOST_PIXELS // 1_000_000} million pixels{has}."


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a camera's broken notes are no reason to refuse its picture
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """Decode the first frame to RGB, or to RGBA where something shines through."""
    image.load()
    if image.mode.startswith("I;16"):
        # Pillow would cut off what is above 255 instead of scaling it.
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
