"""RFC 9113, sections 6.3 to 6.9 and 7: frames that carry no part of a message."""

from collections.abc import Iterator

from backend.http2 import frames
from backend.http2.frames import END_HEADERS, END_STREAM, Code, Setting, frame
from tests.conformance.client import Client
from tests.conformance.expectations import (
    FLOW,
    PROTOCOL,
    SIZE,
    STREAM_PROTOCOL,
    answered,
    goes_on,
    shows,
    stream_error,
)
from tests.conformance.pieces import (
    EMPTY_SETTINGS,
    Case,
    Head,
    Step,
    body_of,
    data,
    goaway,
    ping,
    priority,
    round_trip,
    rst_stream,
    setting,
    tiny_windows,
    window_update,
)


def small_frames(head: Head) -> Iterator[Case]:
    yield Case("6.3", "PRIORITY on stream 0", PROTOCOL, (priority(0),))
    for length in (4, 6):
        wrong = frame(frames.PRIORITY, 0, 1, bytes(length))
        yield Case(
            "6.3", f"PRIORITY of {length} octets", stream_error(Code.FRAME_SIZE_ERROR), (head.post(), wrong)
        )
    yield Case("6.4", "RST_STREAM on stream 0", PROTOCOL, (rst_stream(0),))
    for length in (3, 5):
        wrong = frame(frames.RST_STREAM, 0, 1, bytes(length))
        yield Case("6.4", f"RST_STREAM of {length} octets", SIZE, (head.post(), wrong))
    yield Case("6.4", "RST_STREAM on an even stream", PROTOCOL, (rst_stream(2),))
    yield Case(
        "6.6",
        "PUSH_PROMISE",
        PROTOCOL,
        (head.post(), frame(frames.PUSH_PROMISE, END_HEADERS, 1, frames.long(2) + head.fields())),
    )
    yield Case(
        "6.7",
        "PING comes back as it was",
        shows("the same PING", lambda c: b"abcdefgh" in c.pings),
        (ping(b"abcdefgh"),),
    )
    yield Case(
        "6.7",
        "PING with ACK is not answered",
        shows("one PING only", lambda c: c.pings == [b"second  "]),
        (ping(b"first   ", flags=frames.ACK), ping(b"second  ")),
    )
    yield Case("6.7", "PING on a stream", PROTOCOL, (ping(stream=1),))
    for length in (6, 9):
        yield Case("6.7", f"PING of {length} octets", SIZE, (ping(bytes(length)),))
    yield Case("6.8", "GOAWAY on a stream", PROTOCOL, (goaway(stream=1),))
    yield Case("6.8", "GOAWAY of 7 octets", SIZE, (frame(frames.GOAWAY, 0, 0, bytes(7)),))
    yield Case(
        "6.8",
        "streams that are open go on after the client's GOAWAY",
        answered(),
        (head.post(), goaway(), data(1, b"{}", END_STREAM)),
    )
    yield Case(
        "7",
        "an unknown error code in GOAWAY",
        answered(),
        (head.post(), goaway(0xFF), data(1, b"{}", END_STREAM)),
    )
    yield Case("7", "an unknown error code in RST_STREAM", goes_on(), (head.post(), rst_stream(1, 0xFF)))


def settings(head: Head) -> Iterator[Case]:
    yield Case(
        "6.5", "SETTINGS with ACK and a payload", SIZE, (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),)
    )
    yield Case("6.5", "SETTINGS on a stream", PROTOCOL, (frame(frames.SETTINGS, 0, 1),))
    yield Case("6.5", "SETTINGS of 3 octets", SIZE, (frame(frames.SETTINGS, 0, 0, bytes(3)),))
    for name, value, expects in [
        (Setting.ENABLE_PUSH, 2, PROTOCOL),
        (Setting.INITIAL_WINDOW_SIZE, 2**31, FLOW),
        (Setting.MAX_FRAME_SIZE, 2**14 - 1, PROTOCOL),
        (Setting.MAX_FRAME_SIZE, 2**24, PROTOCOL),
        (Setting.ENABLE_CONNECT_PROTOCOL, 2, PROTOCOL),
    ]:
        yield Case("6.5.2", f"{name.name} of {value}", expects, (setting(name, value),))
    for name, value in [
        (Setting.ENABLE_PUSH, 0),
        (Setting.ENABLE_PUSH, 1),
        (Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
        (Setting.MAX_FRAME_SIZE, 2**24 - 1),
        (Setting.MAX_CONCURRENT_STREAMS, 0),
        (Setting.MAX_HEADER_LIST_SIZE, 0),
        (Setting.HEADER_TABLE_SIZE, 2**32 - 1),
    ]:
        yield Case("6.5.2", f"{name.name} of {value}", answered(), (setting(name, value), head.get()))
    twice = setting(Setting.INITIAL_WINDOW_SIZE, 100)[9:] + setting(Setting.INITIAL_WINDOW_SIZE, 1)[9:]
    in_order: tuple[Step, ...] = (frame(frames.SETTINGS, 0, 0, twice), head.get(), body_of(1, 1))
    yield Case("6.5.3", "values are taken in the order they stand", goes_on(), in_order)
    yield Case(
        "6.5.3",
        "each SETTINGS is acknowledged",
        shows("three acknowledgements", lambda c: c.acks == 3),
        (EMPTY_SETTINGS, EMPTY_SETTINGS),
    )


def windows(head: Head) -> Iterator[Case]:
    yield Case("6.9", "WINDOW_UPDATE of 0 on the connection", PROTOCOL, (window_update(0, 0),))
    yield Case("6.9", "WINDOW_UPDATE of 0 on a stream", STREAM_PROTOCOL, (head.post(), window_update(1, 0)))
    for length in (3, 5):
        wrong = frame(frames.WINDOW_UPDATE, 0, 0, b"\x01" * length)
        yield Case("6.9", f"WINDOW_UPDATE of {length} octets", SIZE, (wrong,))
    one = tiny_windows(1)
    yield Case("6.9.1", "no more is sent than the window allows", goes_on(), (one, head.get(), body_of(1, 1)))
    yield Case(
        "6.9.1",
        "more is sent once the window opens",
        goes_on(),
        (one, head.get(), body_of(1, 1), window_update(1, 4), body_of(1, 5)),
    )
    yield Case("6.9.1", "the connection's window beyond 2^31-1", FLOW, (window_update(0, 2**31 - 1),))
    yield Case(
        "6.9.1",
        "a stream's window beyond 2^31-1",
        stream_error(Code.FLOW_CONTROL_ERROR),
        (head.post(), window_update(1, 2**31 - 1)),
    )
    yield Case(
        "6.9.1",
        "a body beyond the stream's window",
        stream_error(Code.FLOW_CONTROL_ERROR),
        (_more_than_allowed(head),),
    )
    yield Case(
        "6.9.1",
        "a body of the whole window",
        answered(),
        (head.post(), *[data(1, b" " * 2**14)] * 3, data(1, b"{}" + b" " * 16381, END_STREAM)),
    )
    yield Case(
        "6.9.1",
        "an empty DATA frame needs no window",
        answered(),
        (
            head.post(),
            data(1, b"{}" + b" " * 16382),
            *[data(1, b" " * 2**14)] * 2,
            data(1, b" " * 16383),
            data(1, b"", END_STREAM),
        ),
    )
    yield Case(
        "6.9.2",
        "SETTINGS change the windows of open streams",
        goes_on(),
        (tiny_windows(0), head.get(), round_trip, setting(Setting.INITIAL_WINDOW_SIZE, 1), body_of(1, 1)),
    )
    negative: tuple[Step, ...] = (
        tiny_windows(3),
        head.get(),
        body_of(1, 3),
        tiny_windows(2),
        window_update(1, 2),
        body_of(1, 4),
    )
    yield Case("6.9.2", "a window below 0 is kept account of", goes_on(), negative)
    too_wide: tuple[Step, ...] = (
        head.post(),
        window_update(1, 2**30),
        setting(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
    )
    yield Case("6.9.2", "SETTINGS that widen a window beyond 2^31-1", FLOW, too_wide)
    yield Case(
        "6.9.2",
        "SETTINGS leave the connection's window alone",
        goes_on(),
        (setting(Setting.INITIAL_WINDOW_SIZE, 2**31 - 1), window_update(0, 2**31 - 1 - 65_535)),
    )


def _more_than_allowed(head: Head) -> Step:
    """Send more than both windows together can ever have been opened to, reading nothing between."""

    async def overrun(client: Client) -> None:
        await client.send(head.post(), data(1, b" " * 2**14) * 80)

    return overrun


def cases(head: Head) -> Iterator[Case]:
    for section in (small_frames, settings, windows):
        yield from section(head)
