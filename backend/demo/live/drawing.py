"""The parts of a face, drawn once at several times their size and then made smooth."""

from __future__ import annotations

from functools import lru_cache
from math import pi, sin

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from backend.demo.live.mouth import Mouth
from backend.demo.portrait import Look

SIZE = 384
FINE = 3  # drawn so many times larger, for smooth edges

MOUTH_BOX = (122, 206, 262, 296)
EYES_BOX = (118, 146, 266, 210)

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

_TEETH: Colour = (247, 244, 238)
_INSIDE: Colour = (74, 24, 30)
_TONGUE: Colour = (196, 92, 96)
_IRIS: Colour = (74, 58, 46)


def mixed(colour: bytes, other: bytes, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _layer(width: int, height: int) -> Image.Image:
    return Image.new("RGBA", (width * FINE, height * FINE))


def _small(image: Image.Image) -> Image.Image:
    # Premultiplied, or the black of what is transparent would show at the edges.
    size = (image.width // FINE, image.height // FINE)
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def _oval(draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
    draw.ellipse([(x - rx) * FINE, (y - ry) * FINE, (x + rx) * FINE, (y + ry) * FINE], fill=colour)


def _soft(image: Image.Image, x: float, y: float, rx: float, ry: float, colour: Colour, alpha: int) -> None:
    """Lay a blurred spot over what is there, and not beyond it."""
    spot = Image.new("L", image.size)
    ImageDraw.Draw(spot).ellipse(
        [(x - rx) * FINE, (y - ry) * FINE, (x + rx) * FINE, (y + ry) * FINE], fill=alpha
    )
    spot = spot.filter(ImageFilter.GaussianBlur(min(rx, ry) * FINE / 2.4))
    paint = Image.new("RGBA", image.size, (*colour, 255))
    kept = image.getchannel("A")
    image.paste(Image.composite(paint, image, spot), (0, 0))
    image.putalpha(kept)


# An instance shows one person, so what takes half a second is drawn once.
@lru_cache(maxsize=8)
def stage(look: Look) -> Image.Image:
    """Draw what stands still: the room, the hair behind the head, the shoulders."""
    sky, ground = mixed(look.sky, look.sky, 0), mixed(look.ground, b"\x20\x24\x38", 0.35)
    whole = (SIZE * FINE, SIZE * FINE)
    lower = Image.linear_gradient("L").resize(whole)
    room = Image.composite(Image.new("RGB", whole, ground), Image.new("RGB", whole, sky), lower).convert(
        "RGBA"
    )
    draw = ImageDraw.Draw(room)
    dark = mixed(look.hair, b"\x00\x00\x00", 0.18)
    if look.long_hair:
        draw.rounded_rectangle([85 * FINE, 130 * FINE, 299 * FINE, 318 * FINE], 74 * FINE, fill=dark)
    _oval(draw, 192, 188, 108, 116 if look.long_hair else 92, dark)
    _oval(draw, 192, 424, 164, 116, mixed(look.shirt, b"\x00\x00\x00", 0.12))
    _oval(draw, 192, 430, 156, 116, mixed(look.shirt, b"\xff\xff\xff", 0.04))
    neck = mixed(look.skin, b"\x7a\x3e\x2a", 0.2)
    draw.rounded_rectangle([156 * FINE, 250 * FINE, 228 * FINE, 336 * FINE], 34 * FINE, fill=neck)
    collar = mixed(look.shirt, b"\xff\xff\xff", 0.25)
    for side in (-1, 1):
        points = [(192, 352), (192 + side * 40, 308), (192 + side * 66, 322), (192 + side * 20, 366)]
        draw.polygon([(x * FINE, y * FINE) for x, y in points], fill=collar)
    return _small(room).convert("RGB")


@lru_cache(maxsize=8)
def head(look: Look) -> Image.Image:
    """Draw the head without eyes and mouth."""
    skin = mixed(look.skin, look.skin, 0)
    shade = mixed(look.skin, b"\x7a\x3e\x2a", 0.28)
    image = _layer(SIZE, SIZE)
    draw = ImageDraw.Draw(image)
    for side in (-1, 1):
        _oval(draw, 192 + side * 85, 196, 15, 24, shade)
        _oval(draw, 192 + side * 84, 196, 9, 16, skin)
    draw.polygon([(x * FINE, y * FINE) for x, y in _outline()], fill=skin)
    _soft(image, 192, 296, 74, 34, shade, 120)
    _soft(image, 168, 140, 62, 56, mixed(look.skin, b"\xff\xff\xff", 0.5), 70)
    for side in (-1, 1):
        _soft(image, 192 + side * 48, 232, 24, 15, (224, 104, 92), 70)
    _soft(image, 196, 214, 15, 24, shade, 120)
    _soft(image, 190, 210, 8, 20, mixed(look.skin, b"\xff\xff\xff", 0.35), 120)
    draw = ImageDraw.Draw(image)
    for side in (-1, 1):
        _oval(draw, 192 + side * 7, 228, 3.6, 2.4, mixed(look.skin, b"\x50\x20\x18", 0.5))
    _hair(image, look)
    return _small(image)


def _outline() -> Points:
    """The face: round above, narrower towards the chin."""
    points = []
    for step in range(180):
        angle = 2 * pi * step / 180
        x, y = sin(angle + pi / 2), sin(angle)
        jaw = 1 - 0.17 * max(0.0, y) ** 1.6
        points.append((192 + 87 * x * jaw, 190 + 108 * y))
    return points


def _hair(image: Image.Image, look: Look) -> None:
    """Lay the hair over the forehead, parted at one side."""
    cap = Image.new("L", image.size)
    draw = ImageDraw.Draw(cap)
    draw.ellipse([94 * FINE, 60 * FINE, 290 * FINE, 270 * FINE], fill=255)
    face = Image.new("L", image.size)
    cut = ImageDraw.Draw(face)
    cut.ellipse([112 * FINE, 112 * FINE, 300 * FINE, 330 * FINE], fill=255)
    cut.ellipse([102 * FINE, 150 * FINE, 240 * FINE, 330 * FINE], fill=255)
    cut.rectangle([0, 196 * FINE, SIZE * FINE, SIZE * FINE], fill=255)
    strands = Image.new("RGBA", image.size, (*mixed(look.hair, look.hair, 0), 255))
    _soft(strands, 150, 84, 60, 26, mixed(look.hair, b"\xff\xff\xff", 0.45), 110)
    image.paste(strands, (0, 0), ImageChops.subtract(cap, face))


# A blink has three steps; the mouth some dozens of shapes that come again and again.
@lru_cache(maxsize=64)
def eyes(look: Look, lid: int, gaze: int) -> Image.Image:
    """Draw both eyes and brows; `lid` 0 is open, 2 closed; `gaze` -2 to 2 is where they look."""
    left, top, right, bottom = EYES_BOX
    image = _layer(right - left, bottom - top)
    draw = ImageDraw.Draw(image)
    brow = mixed(look.hair, b"\x20\x18\x18", 0.35)
    lash = mixed(look.hair, b"\x10\x10\x14", 0.7)
    for side in (-1, 1):
        x, y = 192 - left + side * 36, 186 - top
        if lid < 2:
            white = Image.new("L", image.size)
            tall = (11.5, 6.5)[lid]
            _shape(white, x, y, 17, tall)
            ball = Image.new("RGBA", image.size, (252, 250, 246, 255))
            inner = ImageDraw.Draw(ball)
            _oval(inner, x + gaze, y - 0.5, 9.5, 9.5, _IRIS)
            _oval(inner, x + gaze, y - 0.5, 5, 5, (18, 14, 14))
            _oval(inner, x + gaze - 3, y - 4, 2.4, 2.4, (255, 255, 255))
            image.paste(ball, (0, 0), white)
        else:
            tall = -3.0
        _arc(draw, x, y, 17, tall, lash, 2.6)
        _arc(draw, x, y - 20 + lid, 21, 7.0, brow, 5.0)
    return _small(image)


def _shape(mask: Image.Image, x: float, y: float, rx: float, ry: float) -> None:
    upper = [(x + rx * t / 20, y - ry * (1 - abs(t / 20) ** 2.2)) for t in range(-20, 21)]
    lower = [(x + rx * t / 20, y + ry * 0.8 * (1 - abs(t / 20) ** 2.2)) for t in range(20, -21, -1)]
    ImageDraw.Draw(mask).polygon([(a * FINE, b * FINE) for a, b in upper + lower], fill=255)


def _arc(
    draw: ImageDraw.ImageDraw, x: float, y: float, rx: float, rise: float, colour: Colour, thick: float
) -> None:
    points = [(x + rx * t / 16, y - rise * (1 - abs(t / 16) ** 2.2)) for t in range(-16, 17)]
    draw.line(
        [(a * FINE, b * FINE) for a, b in points], fill=colour, width=round(thick * FINE), joint="curve"
    )


def mouth(look: Look, shape: Mouth) -> Image.Image:
    """Draw the mouth in the nearest of some hundred shapes."""
    return _mouth(look, round(shape.open * 12), round(shape.wide * 5), round(shape.teeth * 3))


@lru_cache(maxsize=256)
def _mouth(look: Look, openness: int, spread: int, teeth: int) -> Image.Image:
    left, top, right, bottom = MOUTH_BOX
    image = _layer(right - left, bottom - top)
    draw = ImageDraw.Draw(image)
    x, y = 192.0 - left, 250.0 - top
    opened = openness / 12
    half = 27 + 7.5 * spread / 5 - 3 * opened
    smile = 3.2 * (1 - opened) * (1 + min(0, spread) / 5)
    up, down = 1 + 6 * opened, 1 + 24 * opened
    lip = mixed(bytes((186, 78, 80)), look.skin, 0.18)
    draw.polygon(_lips(x, y, half + 4, up + 6.5, down + 8, smile), fill=lip)
    inner = _lips(x, y, half, up, down, smile)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(inner, fill=255)
    cavity = Image.new("RGBA", image.size, (*_INSIDE, 255))
    inside = ImageDraw.Draw(cavity)
    if opened > 0.25:
        _oval(inside, x, y + down + 3, half * 0.62, 9 + 4 * opened, _TONGUE)
    if teeth and opened > 0.05:
        low = y - up + 2 + teeth * (1.2 + 2.4 * opened)
        inside.rectangle([0, 0, image.width, low * FINE], fill=_TEETH)
    image.paste(cavity, (0, 0), mask)
    _soft(image, x, y + down + 5, half * 0.5, 2.5, (255, 214, 208), 120)
    return _small(image)


def _lips(x: float, y: float, half: float, up: float, down: float, smile: float) -> Points:
    """Both curves of a mouth, the corners drawn up by a smile, the upper one with its dip."""

    def height(t: float) -> float:
        return max(0.0, 1.0 - float(abs(t) ** 2.1))

    upper, lower = [], []
    for step in range(-24, 25):
        t = step / 24
        corner = -smile * t * t
        dip = min(up, 2.6) * max(0.0, 1 - abs(t) * 4.5) if up > 5 else 0.0
        upper.append((x + half * t, y + corner - up * height(t) + dip))
        lower.append((x + half * t, y + corner + down * height(t)))
    return [(a * FINE, b * FINE) for a, b in upper + lower[::-1]]
