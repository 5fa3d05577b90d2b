import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UpstreamGarbage
from backend.services.model_events import EVENT_BYTES, MOST_GARBAGE, End, ModelEvents
from tests.support.chat_model import FINISHED, chunk, event

Outcome = tuple[str, End | None]


def read(pieces: Sequence[bytes]) -> Outcome:
    events = ModelEvents()
    text = "".join(events.feed(piece) for piece in pieces) + events.finish()
    return text, events.end


def told(*contents: Any) -> bytes:
    return b"".join(map(event, contents))


ODD_LINES = st.sampled_from(
    [
        b": comment\n",
        b"\n",
        b"\r\n\r\n",
        b"event: message\nid: 5\nretry: 9\n",
        b"data\n",
        b"data:\n",
        b"data: {broken\n\n",
        b"data: [1]\n\n",
        b'data: {"chunk":5}\n\n',
        b'data: {"status":"streaming"}\n\n',
        b'data: {"chunk":null,"x":NaN}\n\n',
        b"data: \xff\xfe\n\n",
        b"\xef\xbb\xbf\n",
    ]
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, str]:
    """A stream of the model with odd lines in between, and the text that it tells."""
    raw, text = b"", ""
    for part in draw(st.lists(st.one_of(TEXTS, ODD_LINES), max_size=12)):
        if isinstance(part, bytes):
            raw += part
            continue
        end = draw(st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n", b"\r\n"]))
        space = draw(st.sampled_from([b" ", b"", b"  "]))
        ascii_only = draw(st.booleans())
        content = json.dumps({"chunk": part, "status": "streaming"}, ensure_ascii=ascii_only)
        raw += b"data:" + space + content.encode() + end
        text += part
    return raw, text


@given(streams(), st.data())
def test_any_cut_of_the_models_bytes_tells_the_same(stream: tuple[bytes, str], data: st.DataObject) -> None:
    raw, text = stream
    raw += event(FINISHED) + event(chunk("too late"))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=30)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(pieces) == (text, End.FINISHED)


@given(streams())
def test_byte_by_byte_tells_the_same(stream: tuple[bytes, str]) -> None:
    raw, text = stream
    assert read([bytes([byte]) for byte in raw]) == (text, None)


@given(st.lists(st.binary(max_size=50)))
def test_no_bytes_do_harm(pieces: list[bytes]) -> None:
    try:
        text, _ = read(pieces)
    except UpstreamGarbage:
        return
    assert "\0" not in text
    text.encode("utf-8")


@given(st.text(max_size=20).map(lambda text: [json.dumps({"chunk": unit}) for unit in _halves(text)]))
def test_characters_whose_halves_come_apart_are_joined(events: list[str]) -> None:
    raw = b"".join(f"data: {each}\n\n".encode() for each in events)
    whole = "".join(json.loads(each)["chunk"] for each in events)
    expected = whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "")
    assert read([raw + event(FINISHED)])[0] == expected
    assert read([bytes([byte]) for byte in raw + event(FINISHED)])[0] == expected


def _halves(text: str) -> list[str]:
    raw = text.encode("utf-16-le", "surrogatepass")
    return [raw[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(raw), 2)]


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (FINISHED, End.FINISHED),
        ({"status": "error", "error": "x"}, End.ERROR),
        ({"error": "x"}, End.ERROR),
        ({"status": "complete"}, None),
    ],
)
def test_end_is_told_and_nothing_counts_behind_it(last: dict[str, Any], end: End | None) -> None:
    raw = told(chunk("a"), last) + (told(chunk("b")) if end else b"")
    assert read([raw]) == ("a", end)


def test_text_of_the_last_event_counts_also_without_a_line_end() -> None:
    assert read([told(chunk("a")) + told({"chunk": "b", "status": "finished"}).strip()]) == (
        "ab",
        End.FINISHED,
    )


@pytest.mark.parametrize("raw", [b"data: " + b"x" * EVENT_BYTES, b"x" * (EVENT_BYTES + 1)])
def test_event_over_its_limit_is_garbage_whether_it_ends_or_not(raw: bytes) -> None:
    for pieces in ([raw + b"\n"], [raw], [raw[:1000], raw[1000:]]):
        with pytest.raises(UpstreamGarbage):
            read(pieces)


def test_nonsense_is_passed_over_but_not_for_ever() -> None:
    assert read([b"data: {\n\n" * MOST_GARBAGE + told(chunk("a"), FINISHED)]) == ("a", End.FINISHED)
    with pytest.raises(UpstreamGarbage):
        read([b"data: {\n\n" * (MOST_GARBAGE + 1)])
    with pytest.raises(UpstreamGarbage):
        read([b"data: " + b"[" * 50_000 + b"\n\n"] * (MOST_GARBAGE + 1))
