import pytest

from backend.errors import TooLarge
from backend.services.streams import ByteStream, LimitedStream, check_length, read_whole
from tests.support.forms import Pieces

pytestmark = pytest.mark.asyncio


async def test_body_up_to_the_limit_passes_as_it_is() -> None:
    stream = LimitedStream(Pieces(b"abc", b"de"), 5)
    assert [await stream.read() for _ in range(4)] == [b"abc", b"de", b"", b""]
    assert stream.count == 5


async def test_first_byte_over_the_limit_breaks_the_body_off() -> None:
    source = Pieces(b"abc", b"def", b"never read")
    stream = LimitedStream(source, 5)
    assert await stream.read() == b"abc"
    with pytest.raises(TooLarge):
        await stream.read()
    assert source.reads == 2


async def test_nothing_is_read_before_it_is_asked_for() -> None:
    source = Pieces(b"abc")
    stream = LimitedStream(source, 5)
    assert (stream.started, source.reads) == (False, 0)
    await stream.read()
    assert (stream.started, source.reads) == (True, 1)


async def test_closing_reaches_the_source() -> None:
    source = Pieces()
    await LimitedStream(source, 5).aclose()
    assert source.closed == 1


@pytest.mark.parametrize("limit", [3, 4, 100])
async def test_small_body_is_read_whole(limit: int) -> None:
    assert await read_whole(Pieces(b"ab", b"c"), limit) == b"abc"


async def test_body_that_is_read_whole_keeps_to_its_limit() -> None:
    with pytest.raises(TooLarge):
        await read_whole(Pieces(b"ab", b"c"), 2)


@pytest.mark.parametrize("length", [None, 0, 5])
async def test_declared_length_within_the_limit_passes(length: int | None) -> None:
    check_length(length, 5)


@pytest.mark.parametrize(
    ("limit", "spoken"),
    [(5, "5 bytes"), (1024, "1 KB"), (1536, "1.5 KB"), (1 << 20, "1 MB"), (100 << 20, "100 MB")],
)
async def test_refusal_names_the_limit_for_people(limit: int, spoken: str) -> None:
    with pytest.raises(TooLarge, match=f"larger than the {spoken} allowed"):
        check_length(limit + 1, limit)


async def test_limited_stream_is_a_byte_stream() -> None:
    assert isinstance(LimitedStream(Pieces(), 1), ByteStream)
