import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadRequest, GatewayError, TooLarge, UnsupportedMedia
from backend.services.multipart import (
    FIELD_BYTES,
    MOST_HEADER_BYTES,
    MOST_PARTS,
    SMALL_FORM_BYTES,
    MultipartReader,
    PartBegan,
    PartBytes,
    PartEnded,
    boundary_of,
    small_form,
)
from tests.support.forms import BOUNDARY, MULTIPART, Part, Pieces, cut, written

URLENCODED = b"application/x-www-form-urlencoded"
# What a form is made of, and what nearly looks like its seams.
SEAMS = st.sampled_from(
    [
        b"\r",
        b"\n",
        b"\r\n",
        b"--",
        b"\r\n--",
        b"\r\n--" + BOUNDARY[:-1],
        BOUNDARY,
        b"\r\n\r\n",
        b"x",
        b"\x00\xff",
    ]
)
CONTENT = st.lists(SEAMS | st.binary(max_size=40), max_size=12).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=20)


def read(pieces: list[bytes], boundary: bytes = BOUNDARY) -> list[Part]:
    """Feed a reader and put its events together."""
    reader = MultipartReader(boundary)
    parts: list[Part] = []
    open_parts = 0
    for piece in pieces:
        for event in reader.feed(piece):
            match event:
                case PartBegan():
                    open_parts += 1
                    parts.append(Part(event.name, b"", event.filename))
                case PartBytes():
                    assert event.content
                    last = parts[-1]
                    parts[-1] = Part(last.name, last.content + event.content, last.filename)
                case PartEnded():
                    open_parts -= 1
            assert open_parts in (0, 1)
    reader.finish()
    assert open_parts == 0
    return parts


@settings(deadline=None)
@given(contents=st.lists(CONTENT, max_size=5), cuts=CUTS)
def test_form_in_any_pieces_is_the_same_form(contents: list[bytes], cuts: list[int]) -> None:
    inside = b"\r\n--" + BOUNDARY
    parts = [
        Part(f"p{number}", content, f"{number}.mp4" if number % 2 else None)
        for number, content in enumerate(contents)
        if inside not in b"\r\n" + content + b"\r\n"
    ]
    form = written(parts)
    assert read([form]) == parts
    assert read(cut(form, cuts)) == parts
    assert read([form[at : at + 1] for at in range(len(form))]) == parts


@settings(deadline=None)
@given(content=CONTENT | st.binary(max_size=300), cuts=CUTS, valid=st.booleans(), at=st.integers(0, 200))
def test_garbage_is_a_bad_request_and_nothing_else(
    content: bytes, cuts: list[int], valid: bool, at: int
) -> None:
    form = written([Part("name", b"Ada"), Part("file", b"x" * 30, "a.mp4")])
    damaged = form[:at] + content + form[at + len(content) :] if valid else content
    try:
        read(cut(damaged, cuts))
    except BadRequest:
        return


@settings(deadline=None)
@given(
    content_type=st.binary(max_size=80) | st.binary(max_size=40).map(lambda b: b"multipart/form-data;" + b)
)
def test_any_content_type_gives_a_boundary_none_or_a_refusal(content_type: bytes) -> None:
    try:
        boundary = boundary_of(content_type)
        if boundary is not None:
            MultipartReader(boundary).feed(b"--" + boundary + b"--\r\n")
    except BadRequest:
        return


@settings(deadline=None)
@given(content_type=st.sampled_from([MULTIPART, URLENCODED, b"text/plain", b""]), content=CONTENT)
def test_small_form_of_any_bytes_is_fields_or_a_refusal(content_type: bytes, content: bytes) -> None:
    try:
        fields = asyncio.run(small_form(Pieces(content), content_type))
    except (BadRequest, TooLarge, UnsupportedMedia):
        return
    assert all(isinstance(value, str) for pair in fields.items() for value in pair)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/mixed; boundary=abc", None),
        (b"application/json", None),
        (b"", None),
    ],
)
def test_boundary_is_read_from_the_content_type(content_type: bytes, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize("content_type", [b"multipart/form-data", b"multipart/form-data; boundary="])
def test_form_without_a_boundary_is_refused(content_type: bytes) -> None:
    with pytest.raises(BadRequest):
        boundary_of(content_type)


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"no form",
        written([Part("a", b"x")])[:-6],
        b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data\r\n\r\nx\r\n--" + BOUNDARY + b"--\r\n",
        b"--"
        + BOUNDARY
        + b"\r\nContent-Disposition: attachment; name=a\r\n\r\nx\r\n--"
        + BOUNDARY
        + b"--\r\n",
        b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n--" + BOUNDARY + b"--\r\n",
        b"--" + BOUNDARY + b"\r\nX: " + b"y" * (MOST_HEADER_BYTES + 1),
        written([Part(f"p{number}", b"") for number in range(MOST_PARTS + 1)]),
        written([Part("a", b"x")]).replace(b'"a"', b'"\xff"'),
    ],
)
def test_what_is_no_whole_form_is_refused(form: bytes) -> None:
    with pytest.raises(BadRequest):
        read([form])


def test_as_many_parts_as_allowed_are_read() -> None:
    assert len(read([written([Part(f"p{number}", b"") for number in range(MOST_PARTS)])])) == MOST_PARTS


@pytest.mark.asyncio
async def test_both_kinds_of_small_form_give_the_same_fields() -> None:
    form = written([Part("avatar_name", "数字 人".encode()), Part("empty", b"")])
    fields = {"avatar_name": "数字 人", "empty": ""}
    assert await small_form(Pieces(form), MULTIPART) == fields
    encoded = b"avatar_name=%E6%95%B0%E5%AD%97+%E4%BA%BA&empty="
    assert await small_form(Pieces(encoded), URLENCODED + b"; charset=UTF-8") == fields
    assert await small_form(None, URLENCODED) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content_type", "content", "error"),
    [
        (MULTIPART, written([Part("a", b"x", "a.txt")]), UnsupportedMedia),
        (MULTIPART, written([Part("a", b"\xff")]), BadRequest),
        (MULTIPART, written([Part("a", b"x" * (FIELD_BYTES + 1))]), TooLarge),
        (MULTIPART, b"x" * (SMALL_FORM_BYTES + 1), TooLarge),
        (URLENCODED, b"x" * (SMALL_FORM_BYTES + 1), TooLarge),
        (URLENCODED, b"a=%ff", BadRequest),
        (URLENCODED, b"a=1&" * MOST_PARTS, BadRequest),
        (URLENCODED + b";" * 1000, b"a=b", BadRequest),
        (b"application/json", b"{}", UnsupportedMedia),
        (b"", b"a=b", UnsupportedMedia),
    ],
)
async def test_small_form_that_is_not_one_is_refused(
    content_type: bytes, content: bytes, error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        await small_form(Pieces(content), content_type)


@pytest.mark.asyncio
async def test_body_of_another_type_is_not_even_read() -> None:
    body = Pieces(b"a=b")
    with pytest.raises(UnsupportedMedia):
        await small_form(body, b"text/plain")
    assert body.reads == 0
