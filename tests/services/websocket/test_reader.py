import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.websocket.frames import Frame
from backend.services.websocket.reader import WHOLE_BYTES, FrameReader
from tests.support.websocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, close, frame

MEGABYTE = 1 << 20


def read(reader: FrameReader, raw: bytes, *cuts: int) -> list[Frame]:
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [found for start, end in itertools.pairwise(edges) for found in reader.feed(raw[start:end])]


def of_client(most_bytes: int = MEGABYTE) -> FrameReader:
    return FrameReader(masked=True, most_bytes=most_bytes)


messages = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY, PING]), st.text(max_size=30).map(str.encode)), max_size=8
)


@given(messages, st.lists(st.integers(0, 10_000), max_size=6))
def test_stream_says_the_same_however_it_is_cut(said: list[tuple[int, bytes]], cuts: list[int]) -> None:
    raw = b"".join(frame(opcode, payload) for opcode, payload in said)
    found = read(of_client(), raw, *cuts)
    assert [(one.opcode, one.payload) for one in found] == said
    # What is passed on is what came, byte for byte.
    assert b"".join(one.wire for one in found) == raw


@given(st.integers(WHOLE_BYTES + 1, 3 * WHOLE_BYTES), st.lists(st.integers(0, 1 << 20), max_size=6))
def test_pieces_of_a_large_frame_are_fragments_of_the_same_message(size: int, cuts: list[int]) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    raw = frame(BINARY, content[:size], mask=b"\x01\x02\x03\x04")
    found = read(of_client(), raw, *cuts)
    assert b"".join(one.payload for one in found) == content[:size]
    assert [one.opcode for one in found] == [BINARY] + [CONTINUATION] * (len(found) - 1)
    assert [one.final for one in found] == [False] * (len(found) - 1) + [True]
    # Each can stand by itself: another reader reads the same from what is passed on.
    again = read(of_client(), b"".join(one.wire for one in found))
    assert b"".join(one.payload for one in again) == content[:size]


def test_frame_of_64_kib_stays_whole_in_however_many_reads_it_comes() -> None:
    raw = frame(BINARY, bytes(WHOLE_BYTES))
    assert [len(one.wire) for one in read(of_client(), raw, *range(0, len(raw), 1000))] == [len(raw)]


def test_large_message_is_never_held() -> None:
    reader = of_client(64 * MEGABYTE)
    raw = frame(BINARY, bytes(1000))
    reader.feed(b"\x82\xff" + (32 * MEGABYTE).to_bytes(8) + raw[2:6])
    for _ in range(500):
        assert sum(len(one.wire) for one in reader.feed(bytes(65_536))) < 66_000
    assert reader._rest is None or sys.getsizeof(reader._rest) < 1000


def test_size_is_refused_by_the_head_before_anything_of_it_comes() -> None:
    reader = of_client(1000)
    assert reader.feed(frame(BINARY, bytes(1001))[:8]) == []
    assert reader.violation is not None
    assert reader.violation.code == 1009


def test_fragments_count_together_and_messages_do_not() -> None:
    reader = of_client(1000)
    for _ in range(5):
        assert len(reader.feed(frame(BINARY, bytes(1000)))) == 1
    reader.feed(frame(BINARY, bytes(600), final=False))
    assert reader.violation is None
    reader.feed(frame(CONTINUATION, bytes(401)))
    assert reader.violation is not None
    assert reader.violation.code == 1009


def test_nothing_is_read_behind_a_close() -> None:
    reader = of_client()
    assert [one.opcode for one in reader.feed(close(1000) + frame(TEXT, b"late"))] == [CLOSE]
    assert reader.feed(frame(TEXT, b"later")) == []
    assert reader.violation is None


def test_what_came_before_a_violation_is_still_given() -> None:
    reader = of_client()
    assert [one.payload for one in reader.feed(frame(TEXT, b"good") + frame(TEXT, b"\xff"))] == [b"good"]
    assert reader.violation is not None
    assert reader.violation.code == 1007
    assert reader.feed(frame(TEXT, b"more")) == []


@pytest.mark.parametrize("masked", [True, False])
def test_each_side_masks_as_it_has_to(masked: bool) -> None:
    reader = FrameReader(masked=masked, most_bytes=1000)
    right, wrong = (b"\x01\x02\x03\x04", None) if masked else (None, b"\x01\x02\x03\x04")
    assert len(reader.feed(frame(TEXT, b"x", mask=right))) == 1
    reader.feed(frame(TEXT, b"x", mask=wrong))
    assert reader.violation is not None
    assert reader.violation.code == 1002


def test_text_is_refused_in_the_fragment_that_breaks_it() -> None:
    reader = of_client()
    assert len(reader.feed(frame(TEXT, "é".encode()[:1], final=False))) == 1
    assert reader.feed(frame(CONTINUATION, b"x", final=False)) == []
    assert reader.violation is not None
    assert reader.violation.code == 1007
