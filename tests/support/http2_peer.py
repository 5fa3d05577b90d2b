"""A scripted upstream that speaks HTTP/2: runs the scripts of `Peer`, or shows the bare connection."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import httptools

from .peer import Head
from .wire import Pair


class Stream:
    """One request at the peer, with the face of `peer.Exchange`: raw HTTP/1.1 answers go out as frames."""

    def __init__(self, line: "Line", number: int, head: Head, count: int) -> None:
        self.line = line
        self.id = number
        self.head = head
        self.number = count
        self.gone = asyncio.Event()
        self.writer = self
        self.reader = self
        self.reset_code: int | None = None
        self.closed = False
        self._arrived: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        self._eof = False
        self._parser: Any = httptools.HttpResponseParser(self)
        self._out: list[Callable[[], Awaitable[None]]] = []
        self._fields: list[Pair] = []
        self.ended = False

    # What a script reads.

    async def chunk(self) -> bytes:
        """Return the content of the next frame, b"" at the end of the body."""
        if self._eof and self._arrived.empty():
            return b""
        content, size = await self._arrived.get()
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.line.h2.acknowledge_received_data(size, self.id)
        await self.line.flush()
        return content

    async def body(self) -> bytes:
        whole = b""
        while chunk := await self.chunk():
            whole += chunk
        return whole

    async def read(self, _size: int = -1) -> bytes:
        return await self.chunk()

    async def client_left(self) -> None:
        await self.gone.wait()

    # What a script writes.

    async def send(self, raw: bytes) -> None:
        with contextlib.suppress(httptools.HttpParserError):
            self._parser.feed_data(raw)
        out, self._out = self._out, []
        for step in out:
            await step()

    async def reply(self, body: bytes = b"ok", *headers: Pair, status: bytes = b"200 OK") -> None:
        fields = [(b":status", status.split()[0]), (b"content-length", b"%d" % len(body)), *headers]
        await self.headers(fields, end=not body)
        if body:
            await self.data(body, end=True)

    async def headers(self, fields: list[Pair], *, end: bool = False) -> None:
        lower = [(name.lower(), value) for name, value in fields]
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.line.h2.send_headers(self.id, lower, end_stream=end)
            self._sent(end)
        await self.line.flush()

    async def data(self, content: bytes, *, end: bool = False) -> None:
        """Send as the windows open. Raises ConnectionResetError when the other side left."""
        connection = self.line.h2
        position = 0
        while True:
            if self.gone.is_set():
                raise ConnectionResetError
            left = len(content) - position
            try:
                room = connection.local_flow_control_window(self.id)
                size = max(0, min(left, room, connection.max_outbound_frame_size))
                if size or not content:
                    part = content[position : position + size]
                    connection.send_data(self.id, part, end_stream=end and size == left)
            except h2.exceptions.ProtocolError:
                raise ConnectionResetError from None
            position += size
            await self.line.flush()
            if position == len(content):
                self._sent(end)
                return
            if not size:
                self.line.opened.clear()
                await self.line.opened.wait()

    def close(self) -> None:
        """End as a connection's close would: whole where the framing says so, else cut."""
        if self.closed:
            return
        self.closed = True
        if not self.ended:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                if self._until_close:
                    self.line.h2.end_stream(self.id)
                else:
                    self.line.h2.reset_stream(self.id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self._sent(True)
        self.line.push()

    def is_closing(self) -> bool:
        return self.closed or self.gone.is_set()

    def reset(self, code: int | None = None) -> None:
        """Break the whole connection, or this stream with a code."""
        if code is None:
            self.line.abort()
            return
        self.line.h2.reset_stream(self.id, code)
        self._sent(True)
        self.line.push()

    @property
    def _until_close(self) -> bool:
        return any(name == b"connection" for name, _ in self._fields)

    def _sent(self, end: bool) -> None:
        if end and not self.ended:
            self.ended = True
            if self._eof:
                self.leave()

    # What arrives.

    def arrived(self, content: bytes, size: int) -> None:
        self._arrived.put_nowait((content, size))

    def end(self) -> None:
        self._eof = True
        self._arrived.put_nowait((b"", 0))
        if self.ended:
            self.leave()

    def leave(self) -> None:
        if not self.gone.is_set():
            self.gone.set()
            self.line.peer.open -= 1
            self.line.opened.set()
            self._arrived.put_nowait((b"", 0))

    # What the parser of raw answers calls.

    def on_message_begin(self) -> None:
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        kept = [pair for pair in self._fields if pair[0] not in (b"connection", b"transfer-encoding")]
        end = self.head.method == b"HEAD" or status in (204, 304)
        end = end or dict(kept).get(b"content-length") == b"0"
        self._out.append(lambda: self.headers([(b":status", b"%d" % status), *kept], end=end))

    def on_body(self, content: bytes) -> None:
        self._out.append(lambda: self.data(content))

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:
            self._out.append(self._whole)

    async def _whole(self) -> None:
        if not self.ended:
            await self.data(b"", end=True)


Script = Callable[[Any], Awaitable[None]]


class Line:
    """One connection at the peer."""

    def __init__(self, peer: "Http2Peer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(
            client_side=False, header_encoding=None, validate_inbound_headers=peer.strict
        )
        self.h2 = h2.connection.H2Connection(config)
        first = {
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: peer.streams,
            h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 20,
        }
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=first | peer.settings)
        self.opened = asyncio.Event()
        self.streams: dict[int, Stream] = {}
        self.events: list[h2.events.Event] = []
        self._reader, self._writer = reader, writer

    async def run(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        try:
            while data := await self._reader.read(65536):
                for event in self.h2.receive_data(data):
                    self._on(event)
                await self.flush()
        finally:
            for stream in self.streams.values():
                stream.leave()
            self._writer.close()

    def _on(self, event: h2.events.Event) -> None:
        self.events.append(event)
        number = getattr(event, "stream_id", None)
        stream = self.streams.get(number or 0)
        if isinstance(event, h2.events.RequestReceived):
            fields = dict(event.headers)
            rest = [(bytes(name), bytes(value)) for name, value in event.headers if name[:1] != b":"]
            head = Head(
                bytes(fields[b":method"]),
                bytes(fields[b":path"]),
                b"HTTP/2",
                [(b"host", bytes(fields[b":authority"])), *rest],
            )
            self.peer.begin(self, event.stream_id, head)
        elif stream is None:
            if isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                self.opened.set()
        elif isinstance(event, h2.events.DataReceived):
            stream.arrived(event.data, event.flow_controlled_length)
        elif isinstance(event, h2.events.StreamEnded):
            stream.end()
        elif isinstance(event, h2.events.StreamReset):
            stream.reset_code = event.error_code
            stream.leave()
        elif isinstance(event, h2.events.WindowUpdated):
            self.opened.set()

    def push(self) -> None:
        self._writer.write(self.h2.data_to_send())

    async def flush(self) -> None:
        self.push()
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def raw(self, content: bytes) -> None:
        """Send bytes as they are, past every check."""
        self.push()
        self._writer.write(content)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.transport.abort()


class Http2Peer:
    """Listens on a free loopback port while `async with` lasts; runs `script` for each request.

    `open` are the streams that stand, `connections` all connections there were. `streams` are allowed on
    each connection.
    """

    strict = False

    def __init__(
        self,
        script: Script,
        *,
        streams: int = 100,
        settings: dict[h2.settings.SettingCodes, int] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.script = script
        self.streams = streams
        self.settings = settings or {}
        self.heads: list[Head] = []
        self.exchanges: list[Stream] = []
        self.lines: list[Line] = []
        self.open = 0
        self.most_open = 0
        self.connections = 0
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Http2Peer":
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, backlog=2048, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def begin(self, line: Line, number: int, head: Head) -> None:
        self.heads.append(head)
        stream = line.streams[number] = Stream(line, number, head, len(self.heads))
        self.exchanges.append(stream)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self._run(self._scripted(stream))

    async def _scripted(self, stream: Stream) -> None:
        with contextlib.suppress(ConnectionError):
            await self.script(stream)

    def _run(self, what: Any) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        line = Line(self, reader, writer)
        self.lines.append(line)
        try:
            with contextlib.suppress(ConnectionError, h2.exceptions.ProtocolError):
                await line.run()
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


@contextlib.asynccontextmanager
async def listening(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Serve bare connections on a free loopback port until the block ends; give the URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await connected(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(run, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)
