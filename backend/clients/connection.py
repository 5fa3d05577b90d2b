"""A client's connection: HTTP/1.1 requests one after another, and then a WebSocket, or HTTP/2."""

import asyncio
import math
import socket
import struct
from typing import TYPE_CHECKING, cast

from backend.clients.answer import refusal
from backend.clients.bodies import Framing, framing_of
from backend.clients.call import Call
from backend.clients.head import Refused, RequestHead, check_beginning, parse
from backend.clients.upgrade import ClientWire

if TYPE_CHECKING:
    from backend.clients.server import Clients

# The first byte of a request head until its last; the promise is that slow heads are gone by then.
HEAD_SECONDS = 15.0
# Unread of a request body at most, and where reading goes on.
HIGH_WATER_BYTES = 256 * 1024
LOW_WATER_BYTES = 64 * 1024
# Requests that were sent before the answer to the first.
PIPELINED_BYTES = 64 * 1024
# RFC 9112, section 9.6: closed at once, a connection whose client still sends would lose the answer.
LINGER_SECONDS = 2.0
# A client that takes nothing of the end of an answer for so long is not coming back for it.
FLUSH_SECONDS = 30.0


class Connection(asyncio.Protocol):
    """One client's connection; `writable` is None unless the client takes too little."""

    def __init__(self, server: "Clients") -> None:
        self.server = server
        self.scheme = "http"
        self.client: tuple[str, int] | None = None
        self.address: tuple[str, int] | None = None
        self.writable: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._searched = 0  # so far of the buffer there is no end of a head
        self._framing: Framing | None = None
        self._call: Call | None = None
        self._requests = 0
        self._paused = False
        self._lingers = False
        self._socket: ClientWire | None = None
        self._unsent = 0  # when it was last looked at
        self._deadline = math.inf

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.scheme = "https"
            if tls.selected_alpn_protocol() == "h2":
                self.server.hand_over(self._transport, b"")
                return
        self.client = _address(transport.get_extra_info("peername"))
        self.address = _address(transport.get_extra_info("sockname"))
        self._deadline = self.server.now() + self.server.config.keep_alive_timeout
        self.server.add(self)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        if self._framing is not None:
            self._take_body(self._framing, data)
            return
        self._buffer += data
        if self._call is None:
            self._next_request()
        elif len(self._buffer) > PIPELINED_BYTES:
            self._pause()

    def eof_received(self) -> None:
        self._client_left()
        self._deadline = self.server.now() + FLUSH_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:
        self._client_left()
        self.resume_writing()
        self.server.forget(self)

    def pause_writing(self) -> None:
        self.writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writable, self.writable = self.writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # Requests.

    def _next_request(self) -> None:
        """Begin with the next request if its head is whole."""
        buffer = self._buffer
        most = self.server.config.h11_max_incomplete_size
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        try:
            if end < 4 or end > most:
                check_beginning(buffer if end < 4 else buffer[:end], max(0, self._searched - 1), most)
                if buffer and not self._searched:
                    self._deadline = self.server.now() + HEAD_SECONDS
                self._searched = len(buffer)
                return
            raw = bytes(buffer[:end])
            request = parse(raw)
        except Refused as refused:
            self.refuse(refused.status)
            return
        self._searched = 0
        if request.foreign:
            read = bytes(buffer)
            buffer.clear()
            self.read_on()
            self.server.forget(self)
            self.server.hand_over(self._transport, read)
            return
        del buffer[:end]
        self._begin(request)

    def _begin(self, request: RequestHead) -> None:
        self._deadline = math.inf
        self._requests += 1
        self._framing = framing_of(request.length)
        self._call = Call(self, request)
        self.server.run(self._call)
        if self._framing is not None and self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._take_body(self._framing, data)

    def _take_body(self, framing: Framing, data: bytes) -> None:
        call = self._call
        try:
            body, after = framing.feed(data)
        except Refused as refused:
            self._refuse_body(refused)
            return
        if framing.ended:
            self._framing = None
            self._buffer += after
        if call is not None:
            call.feed(body, ended=framing.ended)
            if call.unread_bytes > HIGH_WATER_BYTES:
                self._pause()

    def _refuse_body(self, refused: Refused) -> None:
        call = self._call
        if call is None or call.began_answering:
            self.break_off(reset=False)
        else:
            self.refuse(refused.status)
        if call is not None:
            call.end()

    def may_stay_open(self, request: RequestHead) -> bool:
        """Tell whether another request may follow this one."""
        few = self._requests < self.server.config.keep_alive_max_requests
        return request.stays_open and few and not self.server.stopping

    # Reading.

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
            self.server.paused.add(self)

    def read_on(self) -> None:
        """Read on if there is room for more."""
        unread = self._call.unread_bytes if self._call is not None else 0
        if self._paused and unread <= LOW_WATER_BYTES and len(self._buffer) <= PIPELINED_BYTES:
            self._paused = False
            self.server.paused.discard(self)
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # Writing.

    def write(self, *pieces: bytes) -> None:
        if self._transport.is_closing():
            return
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writelines(pieces)

    async def drained(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self.writable is not None:
            await asyncio.shield(self.writable)

    def answered(self, call: Call, *, stays_open: bool) -> None:
        """Go on with the next request, or close, now that the answer is whole."""
        if self._call is not call:
            return
        self._call = None
        if not stays_open or self._framing is not None or self.server.stopping:
            self._end()
            return
        self._deadline = self.server.now() + self.server.config.keep_alive_timeout
        if self._buffer:
            self._next_request()
        self.read_on()

    # WebSockets.

    def upgrade(self, head: bytes, most_bytes: int) -> ClientWire:
        """Answer with this head, and let a WebSocket have the connection."""
        self._call = None
        self.write(head)
        self._socket = ClientWire(self, self._transport, most_bytes)
        early = bytes(self._buffer)
        self._buffer.clear()
        self._socket.take_over(early, paused=self._paused)
        return self._socket

    def note_paused(self, *, paused: bool) -> None:
        """A connection that is not read is looked after by the server."""
        (self.server.paused.add if paused else self.server.paused.discard)(self)

    def forget(self) -> None:
        self.server.forget(self)

    # The end.

    def refuse(self, status: int) -> None:
        """Answer what is no request with an error, and close: where the next one begins nobody knows."""
        self.write(refusal(status))
        self._call = None
        self._framing = None
        self._linger()

    def break_off(self, *, reset: bool) -> None:
        """End an answer that stays incomplete; by a reset where its end would look like its close."""
        if reset and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        self._call = None
        self._close()

    def _end(self) -> None:
        """Close behind the last answer; what the client still sends is taken in for a moment."""
        if self._framing is None and not self._buffer:
            self._close()
        else:
            self._linger()

    def _linger(self) -> None:
        self._lingers = True
        self._framing = None
        self._buffer.clear()
        self._deadline = self.server.now() + LINGER_SECONDS
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.read_on()

    def _close(self) -> None:
        self._deadline = self.server.now() + FLUSH_SECONDS
        self._transport.close()

    def stop(self) -> None:
        """The server stops: close unless a call is being answered, which then says `connection: close`."""
        if self._socket is not None:
            self._socket.stop()
        elif self._call is None:
            self._close()

    def check(self, now: float) -> None:
        """End what lasts too long: an idle connection, a slow request head, a farewell."""
        if now < self._deadline:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent and unsent != self._unsent:
            self._unsent = unsent  # the client still takes what was said
            self._deadline = now + FLUSH_SECONDS
        elif unsent or self._transport.is_closing():
            self._transport.abort()
        elif self._buffer:
            self.refuse(408)
        else:
            self._close()

    def leave(self) -> None:
        """The client has left, as the system knows, although not all it sent was read."""
        self._client_left()
        self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()

    @property
    def closing(self) -> bool:
        return self._transport.is_closing()

    @property
    def fileno(self) -> int:
        return cast(int, self._transport.get_extra_info("socket").fileno())

    def _client_left(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.leave()

    def __repr__(self) -> str:
        state = "closing" if self.closing else "busy" if self._call is not None else "idle"
        return f"<Connection of {self.client} {state}>"


def _address(name: tuple[str, int] | str | None) -> tuple[str, int] | None:
    """As ASGI wants it: IPv6 without scope and flow, nothing for a Unix socket."""
    return (name[0], name[1]) if isinstance(name, tuple) else None
