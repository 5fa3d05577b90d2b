import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.errors import BadRequest
from backend.services.portraits import portrait_of
from tests.support.pictures import (
    SECRET,
    claiming,
    many_scans,
    moving,
    opened,
    photo,
    picture,
)

RED, BLUE = (254, 0, 0), (0, 0, 254)


def portrait(folder: Path, content: bytes) -> tuple[str, bytes]:
    upload = folder / "upload"
    upload.write_bytes(content)
    out = io.BytesIO()
    suffix = portrait_of(upload, out)
    return suffix, out.getvalue()


def near(colour: object, wanted: tuple[int, int, int]) -> bool:
    assert isinstance(colour, tuple)
    return all(abs(a - b) < 12 for a, b in zip(colour, wanted, strict=True))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_usual_kind_becomes_a_jpeg(tmp_path: Path, kind: str) -> None:
    suffix, content = portrait(tmp_path, picture(kind))
    image = opened(content)
    assert (suffix, image.format, image.mode, image.size) == (".jpg", "JPEG", "RGB", (64, 48))
    assert near(image.getpixel((5, 20)), RED)
    assert near(image.getpixel((60, 20)), BLUE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_shines_through_still_does(tmp_path: Path, kind: str) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (40, 40), (255, 0, 0, 100)).save(out, kind)
    suffix, content = portrait(tmp_path, out.getvalue())
    image = opened(content)
    assert (suffix, image.format, image.mode) == (".png", "PNG", "RGBA")
    assert image.getchannel("A").getextrema() == (100, 100)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_picture_that_could_shine_through_but_does_not_is_a_jpeg(tmp_path: Path, mode: str) -> None:
    assert portrait(tmp_path, picture("PNG", mode=mode))[0] == ".jpg"


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_every_depth_of_a_png_can_be_read(tmp_path: Path, mode: str) -> None:
    out = io.BytesIO()
    wide = mode.startswith("I")
    Image.new("I" if wide else "L", (20, 20), 32_768 if wide else 128).convert(mode).save(out, "PNG")
    level = opened(portrait(tmp_path, out.getvalue())[1]).getpixel((3, 3))
    assert isinstance(level, tuple)
    assert level[0] in ((0, 255) if mode == "1" else range(118, 138))


def test_print_colours_are_turned_into_those_of_screens(tmp_path: Path) -> None:
    suffix, content = portrait(tmp_path, picture("JPEG", mode="CMYK"))
    assert (suffix, opened(content).mode) == (".jpg", "RGB")


def test_a_large_picture_keeps_its_shape_and_fits_in_512_pixels(tmp_path: Path) -> None:
    assert opened(portrait(tmp_path, picture("JPEG", (3000, 1500)))[1]).size == (512, 256)
    assert opened(portrait(tmp_path, picture("PNG", (10, 4000)))[1]).size == (1, 512)


# Where the red half of the picture, which is its left one, comes to lie.
@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (512, 256), (20, 128)),
        (2, (512, 256), (490, 128)),
        (3, (512, 256), (490, 128)),
        (4, (512, 256), (20, 128)),
        (5, (256, 512), (128, 20)),
        (6, (256, 512), (128, 20)),
        (7, (256, 512), (128, 490)),
        (8, (256, 512), (128, 490)),
    ],
)
def test_photo_is_turned_upright(
    tmp_path: Path, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    image = opened(portrait(tmp_path, photo(orientation))[1])
    assert image.size == size
    assert near(image.getpixel(red), RED)


def test_orientation_that_does_not_exist_is_ignored(tmp_path: Path) -> None:
    assert opened(portrait(tmp_path, photo(99))[1]).size == (512, 256)


def test_nothing_tells_where_and_with_what_a_picture_was_taken(tmp_path: Path) -> None:
    original = photo()
    assert SECRET in original
    content = portrait(tmp_path, original)[1]
    assert SECRET not in content
    image = opened(content)
    assert not image.getexif()
    assert not {"comment", "icc_profile", "exif"} & set(image.info)


def test_text_in_a_png_is_dropped_also_when_it_stays_a_png(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo  # only here

    notes = PngInfo()
    notes.add_text("Comment", SECRET.decode())
    out = io.BytesIO()
    Image.new("RGBA", (9, 9), (0, 0, 0, 7)).save(out, "PNG", pnginfo=notes, icc_profile=SECRET)
    suffix, content = portrait(tmp_path, out.getvalue())
    assert suffix == ".png"
    assert SECRET not in content
    assert set(opened(content).info) == set()


def test_of_a_moving_picture_the_first_frame_is_kept(tmp_path: Path) -> None:
    image = opened(portrait(tmp_path, moving())[1])
    assert getattr(image, "n_frames", 1) == 1
    assert near(image.getpixel((20, 20)), RED)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        b"\xff\xd8\xff\xe0",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<html><script>alert(1)</script>",
        b"%PDF-1.7",
        b"MZ" + bytes(100),
        picture("BMP"),
        picture("TIFF"),
        picture("JPEG", (600, 600))[:2000],
        picture("PNG")[:-30],
        picture("WEBP")[:-20],
    ],
    ids=["empty", "gif head", "jpeg head", "svg", "html", "pdf", "exe", "bmp", "tiff", "jpeg", "png", "webp"],
)
def test_what_is_no_whole_picture_of_a_known_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadRequest, match="needs to be a PNG, JPEG, WebP or GIF"):
        portrait(tmp_path, content)


@pytest.mark.parametrize("size", [(5001, 5000), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_bomb_is_refused_by_the_size_that_it_claims(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(BadRequest, match="at most 25 million pixels"):
        portrait(tmp_path, claiming(*size))


def test_a_jpeg_with_thousands_of_scans_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        portrait(tmp_path, many_scans())


def test_an_ordinary_progressive_jpeg_is_fine(tmp_path: Path) -> None:
    assert portrait(tmp_path, picture("JPEG", (300, 300), progressive=True))[0] == ".jpg"


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 10_000),
)
def test_a_damaged_picture_is_read_or_refused_and_nothing_else(
    tmp_path: Path, kind: str, changes: list[tuple[int, int]], length: int
) -> None:
    content = bytearray(picture(kind, (40, 30)))
    for place, value in changes:
        content[place % len(content)] = value
    damaged = bytes(content[: length or None])
    try:
        suffix, made = portrait(tmp_path, damaged)
    except BadRequest:
        return
    assert max(opened(made).size) <= 512
    assert suffix in (".jpg", ".png")
