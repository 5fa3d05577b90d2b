"""Frames and field blocks, right and wrong, to put cases together from."""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from backend.http2 import frames
from backend.http2.frames import ACK, END_HEADERS, END_STREAM, PADDED, WITH_PRIORITY, Setting, frame
from tests.conformance.client import Client, Target
from tests.conformance.expectations import Expectation

Pair = tuple[bytes, bytes]
Step = bytes | Callable[[Client], Awaitable[None]]
_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@dataclass(frozen=True)
class Case:
    """One rule: `steps` are sent in order after the handshake, then the expectation is looked for."""

    section: str
    title: str
    expects: Expectation
    steps: tuple[Step, ...]
    handshake: bool = True

    def __str__(self) -> str:
        return f"{self.section} {self.title}"


# Field blocks


def string(text: bytes, *, huffman: bool = False) -> bytes:
    """RFC 7541, section 5.2, for strings shorter than 127 octets, and longer ones by two octets more."""
    octets = _huffman.encode(text) if huffman else text
    mark = 0x80 if huffman else 0
    if len(octets) < 127:
        return bytes([mark | len(octets)]) + octets
    rest, length = len(octets) - 127, [mark | 127]
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + octets


def literal(name: bytes, value: bytes) -> bytes:
    """A field that enters no table, its name spelled out."""
    return b"\x00" + string(name) + string(value)


def block(*fields: Pair) -> bytes:
    return b"".join(literal(name, value) for name, value in fields)


class Head:
    """Heads for one target."""

    def __init__(self, target: Target) -> None:
        self.scheme = b"https" if target.tls else b"http"
        self.authority = f"{target.host}:{target.port}".encode("ascii")
        self.path, self.post_path = target.get.encode("ascii"), target.post.encode("ascii")

    def pseudo(self, method: bytes = b"GET") -> list[Pair]:
        path = self.post_path if method == b"POST" else self.path
        return [
            (b":method", method),
            (b":scheme", self.scheme),
            (b":path", path),
            (b":authority", self.authority),
        ]

    def fields(self, *more: Pair, method: bytes = b"GET") -> bytes:
        return block(*self.pseudo(method), *more)

    def get(self, stream: int = 1, *more: Pair) -> bytes:
        """A whole request."""
        return headers(stream, self.fields(*more), END_HEADERS | END_STREAM)

    def post(self, stream: int = 1, *more: Pair) -> bytes:
        """The head of a request whose body is still to come."""
        fields = self.fields((b"content-type", b"application/json"), *more, method=b"POST")
        return headers(stream, fields, END_HEADERS)

    def without(self, name: bytes) -> bytes:
        return whole(block(*[pair for pair in self.pseudo() if pair[0] != name]))

    def with_instead(self, name: bytes, value: bytes) -> bytes:
        return whole(block(*[(n, value if n == name else v) for n, v in self.pseudo()]))


# Frames


def headers(stream: int, fragment: bytes, flags: int = END_HEADERS) -> bytes:
    return frame(frames.HEADERS, flags, stream, fragment)


def whole(fragment: bytes, stream: int = 1) -> bytes:
    return headers(stream, fragment, END_HEADERS | END_STREAM)


def continuation(stream: int, fragment: bytes, flags: int = END_HEADERS) -> bytes:
    return frame(frames.CONTINUATION, flags, stream, fragment)


def data(stream: int, content: bytes, flags: int = 0) -> bytes:
    return frame(frames.DATA, flags, stream, content)


def padded(kind: int, stream: int, content: bytes, padding: int, flags: int = 0) -> bytes:
    return frame(kind, flags | PADDED, stream, bytes([padding]) + content + bytes(padding))


def prioritised(
    stream: int, fragment: bytes, *, on: int = 0, weight: int = 15, exclusive: bool = False
) -> bytes:
    payload = struct.pack(">LB", on | exclusive << 31, weight) + fragment
    return headers(stream, payload, END_HEADERS | END_STREAM | WITH_PRIORITY)


def priority(stream: int, *, on: int = 0, weight: int = 15, exclusive: bool = False) -> bytes:
    return frame(frames.PRIORITY, 0, stream, struct.pack(">LB", on | exclusive << 31, weight))


def rst_stream(stream: int, code: int = frames.Code.CANCEL) -> bytes:
    return frame(frames.RST_STREAM, 0, stream, frames.long(code))


def setting(name: int, value: int) -> bytes:
    return frame(frames.SETTINGS, 0, 0, struct.pack(">HL", name, value))


def window_update(stream: int, increment: int) -> bytes:
    return frame(frames.WINDOW_UPDATE, 0, stream, frames.long(increment))


def ping(content: bytes = b"12345678", *, stream: int = 0, flags: int = 0) -> bytes:
    return frame(frames.PING, flags, stream, content)


def goaway(code: int = 0, *, stream: int = 0) -> bytes:
    return frame(frames.GOAWAY, 0, stream, frames.long(0) + frames.long(code))


# Steps


def answer_of(stream: int = 1) -> Step:
    """Wait until a stream has been answered."""

    async def wait(client: Client) -> None:
        answer = client.answer(stream)
        assert await client.until(lambda: answer.ended or answer.reset is not None), "no answer came"

    return wait


def body_of(stream: int, length: int) -> Step:
    """Wait until so many octets of a body have come, and no more."""

    async def wait(client: Client) -> None:
        answer = client.answer(stream)
        assert await client.until(lambda: len(answer.body) >= length), "too little came"
        assert await client.is_alive()  # what else was under way is here by now
        assert len(answer.body) == length, "more came than the window allows"

    return wait


async def round_trip(client: Client) -> None:
    """Wait until the server has read what was sent."""
    assert await client.is_alive(), "the connection ended"


def tiny_windows(size: int) -> Step:
    async def set_it(client: Client) -> None:
        await client.send(setting(Setting.INITIAL_WINDOW_SIZE, size))
        await round_trip(client)

    return set_it


EMPTY_SETTINGS = frame(frames.SETTINGS, 0, 0)
UNKNOWN = 0x16  # a type that no RFC gives to a frame
ACKNOWLEDGE = frame(frames.SETTINGS, ACK, 0)
