"""One HTTP/2 connection of a server without its socket: octets in, events out (RFC 9113)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from backend.http2 import frames
from backend.http2.blocks import FieldBlock, FieldBlocks
from backend.http2.flow import CONNECTION_WINDOW, ConnectionReceipts, Growth
from backend.http2.frames import Code, ConnectionFault, Frame, Setting, StreamFault
from backend.http2.heads import Malformed, Pair, RequestHead, check_trailers, encode_response, read_request
from backend.http2.outbox import Outbox, Stream
from backend.http2.patience import Patience

# Ended streams whose end is remembered, to tell frames that crossed it on the way from faults.
ENDED_REMEMBERED = 1_000
# Priorities are not kept (section 5.3 of RFC 9113), but this was a fault in RFC 7540.
SELF_DEPENDENT = "a stream that depends on itself"


class Request(NamedTuple):
    stream_id: int
    head: RequestHead
    ended: bool


class Data(NamedTuple):
    stream_id: int
    content: bytes
    ended: bool


class Ended(NamedTuple):
    """A stream is over before its answer was."""

    stream_id: int


Event = Request | Data | Ended


class Connection:
    """Keeps the rules of the protocol; `failed` once the client has broken one that costs the connection."""

    def __init__(self, *, streams: int, head_bytes: int, patience: Patience) -> None:
        self._most_streams = streams
        self._head_bytes = head_bytes
        self._patience = patience
        self._reader = frames.FrameReader()
        self._blocks = FieldBlocks(head_bytes)
        self.streams: dict[int, Stream] = {}
        # Ended streams, and whether by a RST_STREAM of ours; those up to `_forgotten` no longer stand here.
        self._ended: dict[int, bool] = {}
        self._forgotten = 0
        self._highest = 0
        self._last_served: int | None = None
        # Streams that have ended while somebody still works for them: they take places like open ones.
        self.aftermath = 0
        self._receipts = ConnectionReceipts()
        self._growth = Growth()
        self._initial_window = frames.DEFAULT_WINDOW
        self.outbox = Outbox(patience, self._answer_ends)
        self._settled = False
        self._update_table = True
        self._events: list[Event] = []
        self.failed = False
        self.client_leaves = False

    def __repr__(self) -> str:
        state = "failed" if self.failed else "closing" if self._last_served is not None else "open"
        return f"<Connection {state}, {len(self.streams)} streams, {len(self.outbox)} octets to send>"

    # Receiving

    def start(self) -> None:
        """Say the server's half of the preface."""
        values = {
            Setting.MAX_CONCURRENT_STREAMS: self._most_streams,
            Setting.MAX_HEADER_LIST_SIZE: self._head_bytes,
        }
        self.outbox.put(frames.settings(values))
        self.outbox.put(frames.window_update(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))

    @property
    def amid_head(self) -> bool:
        """Whether something has begun to arrive that is due to be whole soon: all but a body."""
        return self._blocks.open or self._reader.amid_control

    @property
    def leaving(self) -> bool:
        """Whether the client was told that no further streams are taken."""
        return self._last_served is not None

    @property
    def more(self) -> bool:
        """Whether receive() is to be called again, with nothing, after others had their turn."""
        return self._reader.more and not self.failed

    def receive(self, arrived: bytes) -> list[Event]:
        """Take in what arrived; afterwards there may be something to take() as well."""
        if self.failed:
            return []
        try:
            for frame in self._reader.feed(arrived):
                try:
                    self._frame(frame)
                except StreamFault as fault:
                    self._patience.reset()
                    self.reset(fault.stream_id, fault.code)
                    self._events.append(Ended(fault.stream_id))
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))
        events, self._events = self._events, []
        return events

    def _frame(self, frame: Frame) -> None:
        if not self._settled:
            if frame.type != frames.SETTINGS or frame.flags & frames.ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settled = True
        if self._blocks.open and frame.type != frames.CONTINUATION:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame amid a field block")
        receive = _RECEIVE.get(frame.type)
        if receive is not None:
            frames.check_shape(frame)
            receive(self, frame)
        elif frame.type == frames.PUSH_PROMISE:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PUSH_PROMISE from a client")
        else:
            self._patience.odd()  # section 4.1: unknown types are ignored

    def _headers(self, frame: Frame) -> None:
        if frame.stream_id % 2 == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on a stream that clients cannot open")
        self._take_block(self._blocks.begin(frame))

    def _continuation(self, frame: Frame) -> None:
        self._take_block(self._blocks.go_on(frame))

    def _take_block(self, block: FieldBlock | None) -> None:
        if block is None:
            return
        if block.depends_on == block.stream_id:
            self._highest = max(self._highest, block.stream_id)
            self._fault_of(block.stream_id, Code.PROTOCOL_ERROR, SELF_DEPENDENT)
        try:
            if stream := self.streams.get(block.stream_id):
                self._trailers(stream, block.fields, ended=block.ended)
            else:
                self._open(block.stream_id, block.fields, ended=block.ended)
        except Malformed as exc:
            raise StreamFault(block.stream_id, Code.PROTOCOL_ERROR, str(exc)) from exc

    def _trailers(self, stream: Stream, fields: Iterable[Pair], *, ended: bool) -> None:
        if not stream.asking:
            raise StreamFault(stream.id, Code.STREAM_CLOSED, "HEADERS after the end of the request")
        if not ended:
            raise StreamFault(stream.id, Code.PROTOCOL_ERROR, "trailers that do not end the request")
        check_trailers(fields)
        self._request_ends(stream)
        self._events.append(Data(stream.id, b"", ended=True))

    def _open(self, stream_id: int, fields: Iterable[Pair], *, ended: bool) -> None:
        if stream_id <= self._highest:
            self._late(stream_id)
            return
        self._highest = stream_id
        if self._last_served is not None or len(self.streams) + self.aftermath >= self._most_streams:
            raise StreamFault(stream_id, Code.REFUSED_STREAM, "no place for another stream")
        head = read_request(fields)
        stream = Stream(stream_id, self._initial_window, self._growth, head.content_length)
        self.streams[stream_id] = stream
        if ended:
            self._request_ends(stream)
        self._events.append(Request(stream_id, head, ended))

    def _request_ends(self, stream: Stream) -> None:
        if stream.left:
            raise StreamFault(stream.id, Code.PROTOCOL_ERROR, "body shorter than its content-length")
        stream.asking = False
        stream.receipts.release()
        if not stream.answering:
            self._forget(stream, by_reset=False)

    def _data(self, frame: Frame) -> None:
        self._check_not_idle(frame, "DATA")
        if increment := self._receipts.received(len(frame.payload)):
            self.outbox.put(frames.window_update(0, increment))
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            self._late(frame.stream_id)
            return
        content = frames.unpadded(frame)
        if not stream.asking:
            raise StreamFault(stream.id, Code.STREAM_CLOSED, "DATA after the end of the request")
        stream.receipts.received(stream.id, len(frame.payload))
        ended = bool(frame.flags & frames.END_STREAM)
        if not content and not ended:
            self._patience.odd()
        if stream.left is not None:
            stream.left -= len(content)
            if stream.left < 0:
                raise StreamFault(stream.id, Code.PROTOCOL_ERROR, "body longer than its content-length")
        if ended:
            self._request_ends(stream)
        elif padding := len(frame.payload) - len(content):
            self.read(stream.id, padding)
        self._events.append(Data(stream.id, content, ended))

    def _late(self, stream_id: int) -> None:
        """Treat a frame with a body or a head for a stream that has ended (section 5.1, "closed")."""
        by_us = self._ended.get(stream_id)
        if by_us:  # sent before our RST_STREAM arrived
            self._patience.odd()
            return
        if by_us is None and stream_id > self._forgotten:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream identifier below earlier ones")
        raise ConnectionFault(Code.STREAM_CLOSED, "a frame on a stream that has ended")

    def _check_not_idle(self, frame: Frame, name: str) -> None:
        if frame.stream_id % 2 == 0 or frame.stream_id > self._highest:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"{name} on an idle stream")

    def _priority(self, frame: Frame) -> None:
        self._patience.odd()
        if len(frame.payload) != 5:
            self._fault_of(frame.stream_id, Code.FRAME_SIZE_ERROR, "PRIORITY of a wrong size")
        if frames.read_long(frame.payload) == frame.stream_id:
            self._fault_of(frame.stream_id, Code.PROTOCOL_ERROR, SELF_DEPENDENT)

    def _fault_of(self, stream_id: int, code: Code, why: str) -> None:
        if stream_id > self._highest:  # RST_STREAM must not name an idle stream
            raise ConnectionFault(code, why)
        raise StreamFault(stream_id, code, why)

    def _rst_stream(self, frame: Frame) -> None:
        self._check_not_idle(frame, "RST_STREAM")
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            self._patience.odd()
            return
        self._patience.reset()
        self._forget(stream, by_reset=False)
        self._events.append(Ended(stream.id))

    def _settings(self, frame: Frame) -> None:
        acknowledges = bool(frame.flags & frames.ACK)
        if len(frame.payload) % 6 or (acknowledges and frame.payload):
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if acknowledges:
            self._patience.odd()
            return
        self._patience.odd(1 + len(frame.payload) / 60)
        for name, value in frames.read_settings(frame.payload):
            self._set(name, value)
        self.outbox.reply(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _set(self, name: int, value: int) -> None:
        match name:
            case Setting.HEADER_TABLE_SIZE:
                self._update_table = True
            case Setting.ENABLE_PUSH | Setting.ENABLE_CONNECT_PROTOCOL if value > 1:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a setting that is neither 0 nor 1")
            case Setting.MAX_FRAME_SIZE if not frames.FRAME_BYTES <= value <= frames.LARGEST_FRAME_BYTES:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE out of range")
            case Setting.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "initial window out of range")
                change, self._initial_window = value - self._initial_window, value
                for stream in self.streams.values():
                    self._widen_by_setting(stream, change)

    def _widen_by_setting(self, stream: Stream, change: int) -> None:
        try:
            self.outbox.widen(stream, change)
        except StreamFault as fault:  # section 6.9.2: by SETTINGS it is the connection's fault
            raise ConnectionFault(fault.code, str(fault)) from fault

    def _ping(self, frame: Frame) -> None:
        self._patience.odd()
        if not frame.flags & frames.ACK:
            self.outbox.reply(frames.frame(frames.PING, frames.ACK, 0, frame.payload))

    def _goaway(self, frame: Frame) -> None:
        self._patience.odd()
        self.client_leaves = True

    def _window_update(self, frame: Frame) -> None:
        self._patience.odd()
        increment = frames.read_long(frame.payload)
        if frame.stream_id == 0:
            if not increment:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.outbox.widen_connection(increment)
            return
        self._check_not_idle(frame, "WINDOW_UPDATE")
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return
        if not increment:
            raise StreamFault(stream.id, Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self.outbox.widen(stream, increment)

    def read(self, stream_id: int, length: int) -> None:
        """Let the client send as much again: so many octets of a body have been read."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.asking and (increment := stream.receipts.read(length)):
            self.outbox.put(frames.window_update(stream_id, increment))

    # Sending

    def answer(self, stream_id: int, status: int, headers: Iterable[Pair], *, end: bool = False) -> None:
        """Send a response head."""
        stream = self.streams.get(stream_id)
        if stream is None or not stream.answering:
            return
        block = encode_response(status, headers)
        if self._update_table:  # RFC 7541, section 4.2: told once that the table is not used
            block, self._update_table = b"\x20" + block, False
        self.outbox.head(stream, block, end=end)

    def send(self, stream_id: int, content: bytes, *, end: bool) -> bool:
        """Send some of a body; tells whether all of it is framed, else `outbox.drained()` will tell."""
        stream = self.streams.get(stream_id)
        if stream is None or not stream.answering:
            return True
        return self.outbox.body(stream, content, end=end)

    def unsent(self, stream_id: int) -> int:
        stream = self.streams.get(stream_id)
        return stream.unsent if stream else 0

    def _answer_ends(self, stream: Stream) -> None:
        stream.answering = False
        if stream.asking:  # section 8.1: an answer that came early asks for no more of the request
            self.reset(stream.id, Code.NO_ERROR)
        else:
            self._forget(stream, by_reset=False)

    def _forget(self, stream: Stream, *, by_reset: bool) -> None:
        self.streams.pop(stream.id, None)
        stream.asking = False
        stream.receipts.release()
        self.outbox.drop(stream)
        self._remember(stream.id, by_reset=by_reset)

    def _remember(self, stream_id: int, *, by_reset: bool) -> None:
        self._ended[stream_id] = by_reset
        if len(self._ended) > ENDED_REMEMBERED:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def reset(self, stream_id: int, code: Code) -> None:
        """End a stream by RST_STREAM."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._forget(stream, by_reset=True)
        else:
            self._remember(stream_id, by_reset=True)
        self.outbox.put(frames.frame(frames.RST_STREAM, 0, stream_id, frames.long(code)))

    def leave(self) -> None:
        """Take no further streams; those that are open go on."""
        if self._last_served is None and not self.failed:
            self._last_served = self._highest
            self.outbox.put(frames.goaway(self._highest, Code.NO_ERROR))

    def fail(self, code: Code, why: str) -> None:
        """End the connection: say why, forget all else."""
        self.failed = True
        self.outbox.put(frames.goaway(self._highest, code, why))
        self._events += [Ended(stream_id) for stream_id in self.streams]
        self._forget_all()

    def close(self) -> bytes:
        """Forget everything, as the socket goes; return the last that is to be written."""
        if not self.failed:
            self.leave()
        last = self.outbox.take()
        self.failed = True
        self._forget_all()
        return last

    def _forget_all(self) -> None:
        for stream in [*self.streams.values()]:
            self._forget(stream, by_reset=True)


_RECEIVE: dict[int, Callable[[Connection, Frame], None]] = {
    frames.DATA: Connection._data,
    frames.HEADERS: Connection._headers,
    frames.PRIORITY: Connection._priority,
    frames.RST_STREAM: Connection._rst_stream,
    frames.SETTINGS: Connection._settings,
    frames.PING: Connection._ping,
    frames.GOAWAY: Connection._goaway,
    frames.WINDOW_UPDATE: Connection._window_update,
    frames.CONTINUATION: Connection._continuation,
}
