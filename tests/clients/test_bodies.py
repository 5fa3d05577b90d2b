"""Where a request body ends, however it is cut, and beside h11."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.clients.bodies import CHUNK_LINE_BYTES, MOST_OVERHEAD_BYTES, TRAILER_BYTES, framing_of
from backend.clients.head import Refused

CHUNKED = b"5;e=1\r\nhello\r\n00A\r\n0123456789\r\n0\r\nT: 1\r\nU:\r\n\r\n"


def read(length: int | None, *pieces: bytes) -> tuple[bytes, bytes | None]:
    """Feed pieces; return the body, and what came after it (None: it has not ended)."""
    framing = framing_of(length)
    assert framing is not None
    body = b""
    for number, piece in enumerate(pieces):
        got, after = framing.feed(piece)
        body += got
        if framing.ended:
            return body, after + b"".join(pieces[number + 1 :])
    return body, None


def test_no_length_is_no_body() -> None:
    assert framing_of(0) is None


@pytest.mark.parametrize("at", range(len(CHUNKED)))
def test_chunks_cut_anywhere_are_the_same(at: int) -> None:
    assert read(None, CHUNKED[:at], CHUNKED[at:] + b"NEXT") == (b"hello0123456789", b"NEXT")


def test_chunks_byte_by_byte_are_the_same() -> None:
    pieces = [CHUNKED[at : at + 1] for at in range(len(CHUNKED))]
    assert read(None, *pieces) == (b"hello0123456789", b"")


@pytest.mark.parametrize("at", range(8))
def test_sized_body_ends_after_its_length(at: int) -> None:
    assert read(5, b"helloNEXT"[:at], b"helloNEXT"[at:]) == (b"hello", b"NEXT")


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"\r\n",
        b"5\n",
        b"5\r\r\n",
        b"5;\x00\r\n",
        b"5\r\nhelloX",
        b"5\r\nhello\rX",
        b"5\r\nhello\n",
        b"1" * 16 + b"\r\n",
        b"5;" + b"a" * CHUNK_LINE_BYTES,
        b"0\r\nT\r\n",
        b"0\r\n T: 1\r\n",
        b"0\r\nT: 1\n",
        b"0\r\n" + b"T" * (TRAILER_BYTES + CHUNK_LINE_BYTES + 1),
        b"0\r\n" + b"T: 1\r\n" * (TRAILER_BYTES // 6 + 1),
        b"1;" + b"a" * 1000 + b"\r\n",
    ],
)
def test_chunks_that_do_not_fit_the_grammar_are_refused(raw: bytes) -> None:
    repeated = raw if not raw.startswith(b"1;") else (raw + b"x\r\n") * (MOST_OVERHEAD_BYTES // 1000 + 2)
    with pytest.raises(Refused):
        read(None, repeated)
    with pytest.raises(Refused):
        read(None, *(repeated[at : at + 1] for at in range(len(repeated))))


def test_many_small_honest_chunks_pass() -> None:
    raw = b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"
    assert read(None, raw) == (b"x" * 10_000, b"")


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    raw = bytearray(CHUNKED)
    special = st.sampled_from([bytes([n]) for n in range(256)] + [b"\r\n", b"", b";", b"0\r\n\r\n"])
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = draw(special)
    return bytes(raw)


def by_h11(raw: bytes) -> tuple[bytes, bool] | None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return body, True
            elif not isinstance(event, h11.Request):
                return body, False
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=1000, deadline=None)
@given(bodies())
def test_chunks_that_h11_refuses_are_refused(raw: bytes) -> None:
    try:
        body, after = read(None, raw)
    except Refused:
        return
    theirs = by_h11(raw)
    if theirs is None:
        # A body that has not ended yet: h11 looks at an unfinished line sooner, and no end is lost by it.
        assert after is None
    else:
        assert theirs == (body, after is not None)
