"""Answers as bytes."""

import pytest

from backend.clients.answer import Answer

LENGTH = (b"content-length", b"5")


def answer(
    *headers: tuple[bytes, bytes], method: str = "GET", version: str = "1.1", status: int = 200
) -> Answer:
    return Answer(method, version, status, headers, closes=False)


def said(made: Answer, *pieces: bytes) -> bytes:
    """Everything that is sent for a body in these pieces."""
    framed = [made.frame(piece, last=number == len(pieces)) for number, piece in enumerate(pieces, 1)]
    return made.head + b"".join(part for parts in framed for part in parts)


def test_body_with_a_length_goes_as_it_is() -> None:
    assert said(answer(LENGTH), b"he", b"", b"llo") == b"HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhello"


def test_body_without_a_length_goes_in_chunks() -> None:
    expected = b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    assert said(answer(), b"he", b"", b"llo") == expected
    assert said(answer(), b"he", b"llo", b"") == expected


def test_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection() -> None:
    made = answer(version="1.0")
    assert said(made, b"he", b"llo") == b"HTTP/1.1 200 \r\nconnection: close\r\n\r\nhello"
    assert made.closes
    assert made.cut_looks_whole


def test_client_of_http_1_0_that_stays_is_told_so() -> None:
    made = answer(LENGTH, version="1.0")
    assert made.head == b"HTTP/1.1 200 \r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_bodiless_answers_have_none(method: str, status: int) -> None:
    made = answer(LENGTH, method=method, status=status)
    assert said(made, b"hello") == b"HTTP/1.1 %d \r\ncontent-length: 5\r\n\r\n" % status
    assert not made.closes


def test_framing_of_the_application_is_replaced_and_its_close_honoured() -> None:
    made = answer((b"Transfer-Encoding", b"chunked"), (b"Connection", b"Close"), LENGTH)
    assert made.head == b"HTTP/1.1 200 \r\ncontent-length: 5\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("pieces", [(b"hell",), (b"hello!",), (b"hello", b"!"), (b"",)])
def test_body_of_another_length_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="length"):
        said(answer(LENGTH), *pieces)


@pytest.mark.parametrize(
    "pair",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"\r\n"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"", b"a"),
        (b"x\r\n", b"a"),
        (b"content-length", b"-5"),
        (b"content-length", b"5, 5"),
    ],
)
def test_header_that_would_break_the_head_apart_is_refused(pair: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"header|length"):
        answer(pair)


def test_two_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="length"):
        answer(LENGTH, (b"content-length", b"6"))


@pytest.mark.parametrize("status", [0, 100, 199, 1000])
def test_status_that_is_not_final_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        answer(status=status)
