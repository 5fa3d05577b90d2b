"""The head of a client's HTTP/1.1 request: one grammar, and what does not fit it is refused.

RFC 9112 lets a recipient be lenient in places; each of them is where two servers in a row may read two
different requests. Nothing is repaired here.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from backend.services.headers import HOST, Pair

# Proxies in front allow some 100; 32 KiB would hold 8,000.
MOST_FIELDS = 200
# nginx and most browsers stop at 8 KiB.
TARGET_BYTES = 16 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Possessive: what does not fit is found out in one pass.
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"++) ([\x21-\x7e]++) HTTP/([0-9]\.[0-9])\r\n")
# No space before the colon, no folding, no control characters, every line ended by CR and LF.
FIELD = re.compile(rb"(?m)^(" + _TOKEN + rb"++):[ \t]*+([^\x00-\x08\x0a-\x1f\x7f]*+)\r\n")
# 18 digits are more than any disk holds, and fit every number type of those behind.
_LENGTH = re.compile(rb"[0-9]{1,18}")

_VERSIONS = {b"1.1": "1.1", b"1.0": "1.0"}
# What decides where a request ends or whom it is for must be said once.
_ONCE = (b"host", b"content-length", b"transfer-encoding")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\n"


class Refused(Exception):
    """A request that is not answered by the application: the status says why."""

    def __init__(self, status: int = 400) -> None:
        self.status = status
        super().__init__(status)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head that was understood in the one way there is.

    `length` is the body's in bytes, None when it comes in chunks. `foreign` means that HTTP/2 is spoken
    from here on, `upgrades` that a WebSocket is asked for.
    """

    method: str
    target: bytes
    http_version: str
    headers: list[Pair]
    length: int | None
    stays_open: bool
    expects_continue: bool = False
    foreign: bool = False
    upgrades: bool = False


def parse(raw: bytes) -> RequestHead:
    """Read a whole request head, its empty line included. Raises Refused."""
    if raw == _PREFACE:
        return RequestHead("PRI", b"*", "2.0", [], 0, True, foreign=True)
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise Refused
    method, target, number = line.groups()
    version = _VERSIONS.get(number)
    if version is None:
        raise Refused(505)
    if len(target) > TARGET_BYTES:
        raise Refused(414)
    headers = _fields(raw, line.end())
    fields = _by_name(headers)
    _check_host(fields.get(b"host"), version)
    options = _options(fields.get(b"connection"))
    length = _body_length(fields, version)
    stays_open = b"close" not in options and (version == "1.1" or b"keep-alive" in options)
    return RequestHead(
        method.decode("ascii").upper(),
        target,
        version,
        headers,
        length,
        stays_open and method != b"CONNECT",
        length != 0 and version == "1.1" and fields.get(b"expect", b"").lower() == b"100-continue",
        # RFC 6455, section 4.1: not from HTTP/1.0.
        upgrades=version == "1.1"
        and b"upgrade" in options
        and _asks_for_websocket(method, fields.get(b"upgrade", b"").lower(), length),
    )


def _fields(raw: bytes, start: int) -> list[Pair]:
    pairs = FIELD.findall(raw, start)
    # Every LF is the end of a field, but for those of the request line and of the empty line.
    if len(pairs) != raw.count(b"\n") - 2 or not raw.endswith(b"\r\n\r\n"):
        raise Refused
    if len(pairs) > MOST_FIELDS:
        raise Refused(431)
    return [(name.lower(), value.rstrip(b" \t")) for name, value in pairs]


def _by_name(headers: list[Pair]) -> dict[bytes, bytes]:
    fields = dict(headers)
    if len(fields) == len(headers):
        return fields
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in joined:
            joined[name] = value
        elif name in _ONCE:
            raise Refused
        else:
            joined[name] += b"," + value
    return joined


@lru_cache(maxsize=256)
def _check_host(host: bytes | None, version: str) -> None:
    """RFC 9112, section 3.2: a valid Host, which only HTTP/1.0 may leave out."""
    if not HOST.fullmatch(host) if host else version == "1.1":
        raise Refused


@lru_cache(maxsize=64)
def _options(connection: bytes | None) -> frozenset[bytes]:
    return frozenset(option.strip(b" \t") for option in (connection or b"").lower().split(b","))


def _body_length(fields: dict[bytes, bytes], version: str) -> int | None:
    """Return how long the body is, None for chunks (RFC 9112, section 6.3, every doubt refused)."""
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None or version != "1.1":
            raise Refused
        if coding.lower() != b"chunked":
            raise Refused
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise Refused
    return int(length)


def _asks_for_websocket(method: bytes, protocol: bytes, length: int | None) -> bool:
    """Tell whether it is a WebSocket's handshake; other upgrades are ignored (RFC 9110, section 7.8)."""
    if protocol != b"websocket" or method != b"GET":
        return False
    if length != 0:
        raise Refused
    return True


# A line that ends in LF alone, or a CR in the middle of one.
_BARE = re.compile(rb"(?<!\r)\n|\r[^\n]")
_BEGINS = re.compile(_TOKEN)


def check_beginning(raw: bytes | bytearray, start: int, most_bytes: int) -> None:
    """Refuse a head that is not whole yet and can no longer become one; looks at it from `start`.

    Raises Refused.
    """
    if len(raw) > most_bytes:
        raise Refused(431 if b"\n" in raw else 414)
    if raw and (not _BEGINS.match(raw) or _BARE.search(raw, start)):
        raise Refused
