"""Request heads into HPACK, answer heads out of it.

Requests use no dynamic table. It would be shared by all users of a connection, whose secrets could then be
guessed from the length of each other's requests (RFC 7541, section 7.1), and it costs ten times the time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpack import Decoder, HPACKError
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from backend.errors import InternalError
from backend.services.headers import HOP_BY_HOP, Pair
from backend.services.http2.frames import COMPRESSION_ERROR, Violation

# The first block says that the encoder's table is empty: RFC 7541, section 6.3.
EMPTY_TABLE = b"\x20"
# Over what one answer may carry, its stream ends; a block many times larger could exhaust memory before
# that is seen, and ends the connection.
MOST_HEAD_BYTES = 128 * 1024
MOST_DECODED_BYTES = 4 * MOST_HEAD_BYTES

# Indexes of RFC 7541, appendix A: of names, and of whole fields.
_NAMES: dict[bytes, int] = {}
_FIELDS: dict[Pair, bytes] = {}
for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _NAMES.setdefault(_name, _index)
    _FIELDS[_name, _value] = bytes([0x80 | _index])

_LITERAL, _NEVER_INDEXED = 0x00, 0x10
_SECRETS = frozenset({b"authorization", b"cookie"})
# Of another version, or said by pseudo-headers: RFC 9113, section 8.2.2.
_NOT_SENT = HOP_BY_HOP | {b"host", b"http2-settings"}

_NO_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9a-z]")
_NO_VALUE = re.compile(rb"[\x00\r\n]")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_OF_A_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)


@dataclass(frozen=True, slots=True)
class Head:
    """An answer's head; `length` is what Content-Length declares."""

    status: int
    headers: list[Pair]
    length: int | None


class Malformed(Exception):
    """An answer that is the fault of one stream, not of the whole connection."""


def _prefix(name: bytes, kind: int) -> bytes:
    integer = encode_integer(_NAMES.get(name, 0), 4)
    integer[0] |= kind
    return bytes(integer) if name in _NAMES else bytes(integer) + _sized(name)


def _sized(text: bytes) -> bytes:
    length = len(text)
    return (bytes((length,)) if length < 127 else bytes(encode_integer(length, 7))) + text


_PREFIXES = {name: _prefix(name, _NEVER_INDEXED if name in _SECRETS else _LITERAL) for name in _NAMES}


def encoded(name: bytes, value: bytes) -> bytes:
    """Return one header field, without Huffman coding, which upstreams nearby do not need."""
    return (_PREFIXES.get(name) or _prefix(name, _LITERAL)) + _sized(value)


def request_block(
    method: str, secure: bool, authority: bytes, target: bytes, headers: Sequence[Pair]
) -> bytes:
    """Return a request's header block. Raises InternalError for a header that no message may carry."""
    said = method.encode("ascii")
    fields = [
        _FIELDS.get((b":method", said)) or encoded(b":method", said),
        _FIELDS[b":scheme", b"https" if secure else b"http"],
        encoded(b":authority", authority),
        encoded(b":path", target),
    ]
    for name, value in headers:
        if name in _NOT_SENT:
            continue
        if not name or _NO_NAME.search(name) or _NO_VALUE.search(value):
            raise InternalError
        fields.append(encoded(name, value))
    return b"".join(fields)


class Heads:
    """Decodes the header blocks of one connection, each of which the state of the next depends on."""

    def __init__(self) -> None:
        self._decoder = Decoder(MOST_DECODED_BYTES)

    def decode(self, block: bytes) -> list[Pair]:
        """Raises Violation for a block that cannot be read: no later one can be, either."""
        try:
            return [(name, value) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError) as exc:
            raise Violation(COMPRESSION_ERROR, "a header block that cannot be read") from exc


def answer_head(pairs: Sequence[Pair]) -> Head:
    """Return a final or interim answer's head. Raises Malformed."""
    if not pairs or pairs[0][0] != b":status" or not _STATUS.fullmatch(pairs[0][1]):
        raise Malformed
    headers = [(name, value.strip(b" \t")) for name, value in pairs[1:]]
    check_fields(headers)
    lengths = {value for name, value in headers if name == b"content-length"}
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise Malformed
    return Head(int(pairs[0][1]), headers, int(lengths.pop()) if lengths else None)


def check_fields(headers: Sequence[Pair]) -> None:
    """Refuse what no message may carry after its pseudo-headers, also in trailers. Raises Malformed."""
    if sum(len(name) + len(value) + 32 for name, value in headers) > MOST_HEAD_BYTES:
        raise Malformed
    for name, value in headers:
        if not name or _NO_NAME.search(name) or _NO_VALUE.search(value) or name in _OF_A_CONNECTION:
            raise Malformed
