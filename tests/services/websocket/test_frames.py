import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.websocket import frames
from backend.services.websocket.frames import Frame, Violation, close_of, head, may_be_sent
from tests.support import websocket as support


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_mask_is_the_one_of_the_standard_and_comes_off_again(content: bytes, key: bytes) -> None:
    start = head(frames.BINARY, len(content), masks=True) + key
    hidden = bytes(byte ^ key[place % 4] for place, byte in enumerate(content))
    assert Frame(frames.BINARY, True, start + hidden, len(start), key).payload == content


@given(st.binary(max_size=300))
def test_frame_for_the_upstream_can_be_unmasked_by_the_key_that_it_carries(content: bytes) -> None:
    wire = frames.frame(frames.BINARY, content, masks=True)
    start = len(wire) - len(content)
    assert wire[:start] == head(frames.BINARY, len(content), masks=True) + wire[start - 4 : start]
    assert Frame(frames.BINARY, True, wire, start, wire[start - 4 : start]).payload == content


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 1 << 40])
def test_head_has_the_shortest_length(size: int) -> None:
    whole = support.frame(support.BINARY, bytes(min(size, 70_000)), mask=None)
    if size <= 70_000:
        assert head(frames.BINARY, size) == whole[: len(whole) - size]
    else:
        assert head(frames.BINARY, size)[2:] == size.to_bytes(8)


def test_frame_of_a_client_is_masked_by_a_new_key_each_time() -> None:
    seen = {frames.frame(frames.PONG, b"same", masks=True) for _ in range(50)}
    assert len(seen) > 40
    assert all(frame[1] & 0x80 for frame in seen)


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"", (frames.NO_CODE, b"")),
        (b"\x03\xe8", (1000, b"")),
        (b"\x0f\xa0bye", (4000, b"bye")),
    ],
)
def test_close_says_code_and_reason(payload: bytes, found: tuple[int, bytes]) -> None:
    assert close_of(payload) == found


@pytest.mark.parametrize(
    ("payload", "code"), [(b"\x03", 1002), (b"\x03\xed", 1002), (b"\x00\x00", 1002), (b"\x03\xe8\xff", 1007)]
)
def test_close_that_says_nonsense_is_a_violation(payload: bytes, code: int) -> None:
    with pytest.raises(Violation) as raised:
        close_of(payload)
    assert raised.value.code == code


def test_close_frame_without_a_code_is_empty_and_reasons_are_cut_to_fit() -> None:
    assert frames.close_frame(frames.NO_CODE) == b"\x88\x00"
    assert len(frames.close_frame(1000, b"r" * 500)) == 2 + 125


def test_codes_that_stand_for_what_was_never_sent_are_not_sent() -> None:
    assert not any(may_be_sent(code) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000))
    assert all(may_be_sent(code) for code in (1000, 1001, 1011, 1014, 3000, frames.SIGNED_OUT, 4999))
