"""A client that shows each stream of one HTTP/2 connection as it is."""

import asyncio

import h2.connection
import h2.events

from tests.support.peer import until


class Http2:
    """One connection to a server that knows HTTP/2 without being asked."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._h2 = h2.connection.H2Connection()
        self._bodies: dict[int, bytes] = {}
        self._ended: set[int] = set()
        self._reset: set[int] = set()

    async def __aenter__(self) -> "Http2":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._h2.initiate_connection()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def get(self, path: str, *headers: tuple[str, str]) -> int:
        stream = self._h2.get_next_available_stream_id()
        head = {":method": "GET", ":path": path, ":scheme": "http", ":authority": "x"}
        self._h2.send_headers(stream, [*head.items(), *headers], end_stream=True)
        await self._flush()
        return stream

    async def post(self, path: str, *headers: tuple[str, str], body: bytes, ended: bool = True) -> int:
        """Send a request with a small body; one that is not `ended` is an upload that stops there."""
        stream = self._h2.get_next_available_stream_id()
        head = {":method": "POST", ":path": path, ":scheme": "http", ":authority": "x"}
        self._h2.send_headers(stream, [*head.items(), *headers])
        self._h2.send_data(stream, body, end_stream=ended)
        await self._flush()
        return stream

    async def reset(self, stream: int) -> None:
        self._h2.reset_stream(stream)
        await self._flush()

    async def body(self, stream: int) -> bytes:
        """Wait for the end of a body. Raises ConnectionResetError when its stream is reset."""
        await until(lambda: stream in self._ended | self._reset)
        if stream in self._reset:
            raise ConnectionResetError
        return self._bodies.get(stream, b"")

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def _read(self) -> None:
        while chunk := await self._reader.read(65536):
            for event in self._h2.receive_data(chunk):
                if isinstance(event, h2.events.DataReceived):
                    self._bodies[event.stream_id] = self._bodies.get(event.stream_id, b"") + event.data
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self._ended.add(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self._reset.add(event.stream_id)
            await self._flush()
