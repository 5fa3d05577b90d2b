import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadRequest, ClientGone, GatewayError, TooLarge, UnsupportedMedia
from backend.services import avatar_form
from backend.services.avatar_form import AvatarForm
from tests.support.forms import BOUNDARY, MULTIPART, Part, Pieces, cut, parsed, written
from tests.support.frontend import FILM, VOICE

NAME = Part("name", b"New One")
FACE = Part("prompt_face", FILM, "face.mp4")


async def passed_on(*pieces: bytes) -> tuple[bytes, bytes]:
    """Let a form through; return the content type and the bytes that came out."""
    form = await AvatarForm(Pieces(*pieces), MULTIPART).begun()
    out: list[bytes] = []
    await into(out, form)
    return form.content_type, b"".join(out)


async def into(out: list[bytes], form: AvatarForm) -> None:
    while chunk := await form.read():
        out.append(chunk)


def through(*pieces: bytes) -> list[Part]:
    return parsed(*asyncio.run(passed_on(*pieces)))


TEXT = st.text(max_size=30)
TAIL = st.lists(
    st.sampled_from([b"\r\n--", b"\r\n", b"--", BOUNDARY, b"\r"]) | st.binary(max_size=40), max_size=10
).map(b"".join)
OTHERS = st.dictionaries(st.sampled_from(["timbre", "ref_text", "description", "tts_model"]), TEXT)


@settings(deadline=None)
@given(others=OTHERS, tail=TAIL, voice=st.booleans(), cuts=st.lists(st.integers(0, 9000), max_size=15))
def test_valid_form_in_any_pieces_comes_out_the_same(
    others: dict[str, str], tail: bytes, voice: bool, cuts: list[int]
) -> None:
    parts = [NAME, *(Part(name, value.encode()) for name, value in others.items())]
    parts += [Part("prompt_voice", VOICE, "voice.wav")] if voice else []
    parts += [Part("prompt_face", FILM[:64] + tail, "face.mp4")]
    seam = b"\r\n--" + BOUNDARY
    if any(seam in b"\r\n" + part.content + b"\r\n" for part in parts):
        return
    form = written(parts)
    assert through(form) == parts
    assert through(*cut(form, cuts)) == parts


@settings(deadline=None)
@given(damage=st.binary(max_size=60) | TAIL, at=st.integers(0, 700), cuts=st.lists(st.integers(0, 900)))
def test_damaged_form_comes_out_whole_or_is_refused(damage: bytes, at: int, cuts: list[int]) -> None:
    form = written([NAME, Part("support_clone", b"true"), Part("prompt_face", FILM[:100], "face.mp4")])
    damaged = form[:at] + damage + form[at + len(damage) :]
    try:
        parts = through(*cut(damaged, cuts))
    except (BadRequest, TooLarge, UnsupportedMedia):
        return
    assert {"name", "prompt_face"} <= {part.name for part in parts}


@pytest.mark.asyncio
async def test_output_has_a_boundary_of_its_own_each_time() -> None:
    form = written([NAME, FACE])
    first, second = (await passed_on(form))[0], (await passed_on(form))[0]
    assert first != second
    assert BOUNDARY not in first


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("field", "value", "passed"),
    [
        ("avatar_blur", "true", "true"),
        ("avatar_blur", "false", "false"),
        ("support_clone", "null", "false"),
        ("support_clone", "", "false"),
        ("avatar_model", "Wav2Lip", "Wav2Lip"),
        ("avatar_model", "", ""),
        ("name", "  Ada Demo ", "Ada Demo"),
        ("ref_text", "  kept\r\nas it is ", "  kept\r\nas it is "),
    ],
)
async def test_fields_are_brought_into_one_form(field: str, value: str, passed: str) -> None:
    rest = [FACE] if field == "name" else [NAME, FACE]
    out = parsed(*await passed_on(written([Part(field, value.encode()), *rest])))
    assert out[0] == Part(field, passed.encode())


@pytest.mark.asyncio
@pytest.mark.parametrize("voice", [Part("prompt_voice", b""), Part("prompt_voice", b"", "")])
async def test_voice_that_was_not_chosen_is_left_out(voice: Part) -> None:
    assert parsed(*await passed_on(written([NAME, voice, FACE]))) == [NAME, FACE]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("filename", "passed"),
    [
        ("C:\\\\films\\\\my face.MP4", "my face.MP4"),
        ("../../etc/x.mp4", "x.mp4"),
        ("a;b.mp4", "a_b.mp4"),
        ("数字.mp4", "数字.mp4"),
        ("x" * 300 + ".mp4", "x" * 116 + ".mp4"),
    ],
)
async def test_file_name_keeps_no_directory_and_nothing_that_could_end_it(filename: str, passed: str) -> None:
    _, face = parsed(*await passed_on(written([NAME, Part("prompt_face", FILM, filename)])))
    assert face.filename == passed


REFUSED: list[tuple[list[Part], type[GatewayError], str]] = [
    ([NAME], BadRequest, "prompt_face"),
    ([FACE], BadRequest, "name"),
    ([], BadRequest, "name and prompt_face"),
    ([NAME, NAME, FACE], BadRequest, "twice"),
    ([NAME, FACE, FACE], BadRequest, "twice"),
    ([Part("name", b"../.."), FACE], BadRequest, "letters"),
    ([NAME, Part("x/name", b"../.."), FACE], BadRequest, "field"),
    ([NAME, Part("na\\\\name", b"../.."), FACE], BadRequest, "field"),
    ([NAME, Part("n" * 65, b"x"), FACE], BadRequest, "field"),
    ([NAME, Part("prompt_voice", b"x"), FACE], BadRequest, "prompt_voice"),
    ([NAME, Part("avatar_blur", b"1"), FACE], BadRequest, "avatar_blur"),
    ([NAME, Part("avatar_model", b"x"), FACE], BadRequest, "avatar_model"),
    ([NAME, Part("timbre", b"\xff"), FACE], BadRequest, "timbre"),
    ([NAME, Part("timbre", b"x" * 70_000), FACE], TooLarge, "timbre"),
    ([NAME, Part("other", FILM, "a.mp4"), FACE], UnsupportedMedia, "other"),
    ([NAME, Part("prompt_face", FILM, "mp4")], UnsupportedMedia, "prompt_face"),
    ([NAME, Part("prompt_face", FILM, "a.wav")], UnsupportedMedia, "prompt_face"),
    ([NAME, Part("prompt_face", VOICE, "a.mp4")], UnsupportedMedia, "prompt_face"),
    ([NAME, Part("prompt_voice", FILM, "a.wav"), FACE], UnsupportedMedia, "prompt_voice"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("parts", "error", "said"), REFUSED)
async def test_wrong_form_is_refused_and_never_closed(
    parts: list[Part], error: type[GatewayError], said: str
) -> None:
    form = AvatarForm(Pieces(*cut(written(parts), range(0, 200_000, 50))), MULTIPART)
    out: list[bytes] = []
    with pytest.raises(error, match=said) as caught:
        await into(out, form)
    assert form.failure is caught.value
    end = form.content_type.partition(b"boundary=")[2] + b"--"
    assert end not in b"".join(out)


@pytest.mark.asyncio
async def test_film_over_its_limit_is_refused_at_the_first_byte_too_many() -> None:
    kind = avatar_form.FILES["prompt_face"]
    head = written([NAME, Part("prompt_face", FILM, "a.mp4")]).partition(b"\r\n--" + BOUNDARY + b"--")[0]
    full = [bytes(1 << 20)] * ((kind.most_bytes - len(FILM)) >> 20)
    rest = kind.most_bytes - len(FILM) - len(full) * (1 << 20)
    form = await AvatarForm(Pieces(head, *full, bytes(rest), b"x"), MULTIPART).begun()
    with pytest.raises(TooLarge, match="100 MB"):
        await into([], form)


@pytest.mark.asyncio
async def test_no_file_is_held() -> None:
    head, _, end = written([NAME, FACE]).partition(FILM)
    source = Pieces(head + FILM, *[bytes(1 << 16)] * 50, end)
    form = await AvatarForm(source, MULTIPART).begun()
    await form.read()
    for reads in range(source.reads + 1, source.reads + 40):
        assert len(await form.read()) < 1 << 17
        assert source.reads <= reads


@pytest.mark.asyncio
async def test_client_that_leaves_is_remembered_as_the_reason() -> None:
    class Leaving(Pieces):
        async def read(self) -> bytes:
            return await super().read() or self._leave()

        def _leave(self) -> bytes:
            raise ClientGone

    body = Leaving(written([NAME, FACE])[:300])
    form = await AvatarForm(body, MULTIPART).begun()
    with pytest.raises(ClientGone):
        await into([], form)
    assert isinstance(form.failure, ClientGone)
    await form.aclose()
    assert body.closed == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("body", "content_type", "error"),
    [
        (Pieces(b"{}"), b"application/json", UnsupportedMedia),
        (Pieces(b"x"), b"", UnsupportedMedia),
        (None, MULTIPART, BadRequest),
        (Pieces(), MULTIPART, BadRequest),
    ],
)
async def test_what_is_no_form_is_refused_before_anything_is_sent(
    body: Pieces | None, content_type: bytes, error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        await AvatarForm(body, content_type).begun()
