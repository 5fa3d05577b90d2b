"""Request and response heads over HTTP/2: what RFC 9113, section 8, asks of field lists."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hpack.table import HeaderTable

Pair = tuple[bytes, bytes]

# Section 8.2.1 forbids upper case and little else; RFC 9110, section 5.1, wants a token.
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9110, section 5.5: no control characters but the tab, no blanks around.
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
# No user in front, no path behind: what is left names a host and a port.
_AUTHORITY = re.compile(rb"[!$%&'()*+,\-.0-9:;=A-Z\[\]_a-z~]+")
_TARGET = re.compile(rb"(?:/[\x21-\x7e]*|\*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")

# Section 8.2.2: they speak of a connection, and HTTP/2 has its own ways for that.
CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path"})
# RFC 7541, section 7.1.3: never in a table, neither here nor in a proxy on the way.
_SECRET = frozenset({b"authorization", b"proxy-authorization", b"set-cookie", b"cookie"})

_INDEX_OF = {name: index for index, (name, _) in reversed([*enumerate(HeaderTable.STATIC_TABLE, 1)])}
_WHOLE = {pair: index for index, pair in enumerate(HeaderTable.STATIC_TABLE, 1)}


class Malformed(Exception):
    """The field list breaks a rule of section 8: its stream ends with PROTOCOL_ERROR."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head that may go on; `host` comes first among its fields, cookies are one field again."""

    method: bytes
    scheme: bytes
    target: bytes
    headers: list[Pair]
    content_length: int | None
    # As SETTINGS_MAX_HEADER_LIST_SIZE counts: names, values, and 32 octets each.
    size: int

    @property
    def target_is_plain(self) -> bool:
        """Whether the target is one that HTTP/1.1 could carry: no blanks, no raw octets above ASCII."""
        return _TARGET.fullmatch(self.target) is not None


def read_request(fields: Iterable[Pair]) -> RequestHead:
    """Check a request's field list. Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[Pair] = []
    cookies: list[bytes] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 32
        if not _VALUE.fullmatch(value):
            raise Malformed("field value with forbidden octets")
        if name[:1] == b":":
            if regular or cookies or name in pseudo or name not in _PSEUDO:
                raise Malformed("pseudo-header field unknown, twice or late")
            pseudo[name] = value
            continue
        _check_regular(name, value)
        if name == b"cookie":
            cookies.append(value)
        else:
            regular.append((name, value))
    if cookies:  # section 8.2.3: one field again before anything but HTTP/2 sees it
        regular.append((b"cookie", b"; ".join(cookies)))
    method, scheme, target = _control_data(pseudo)
    host = _host(pseudo.get(b":authority"), regular)
    headers = [(b"host", host), *(pair for pair in regular if pair[0] != b"host")]
    return RequestHead(method, scheme, target, headers, _content_length(regular), size)


def check_trailers(fields: Iterable[Pair]) -> None:
    """Check the fields after a body. Raises Malformed."""
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise Malformed("field value with forbidden octets")
        _check_regular(name, value)  # a pseudo-header field is no token


def _check_regular(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise Malformed("field name with forbidden octets")
    if name in CONNECTION_SPECIFIC:
        raise Malformed("connection-specific field")
    if name == b"te" and value.lower() != b"trailers":
        raise Malformed("te is anything but trailers")


def _control_data(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes, bytes]:
    """Return method, scheme and target (section 8.3.1)."""
    method = pseudo.get(b":method", b"")
    if not _METHOD.fullmatch(method):
        raise Malformed("no method")
    if method == b"CONNECT":
        if pseudo.keys() != {b":method", b":authority"}:
            raise Malformed("CONNECT with scheme or path, or without authority")
        return method, b"", b""
    scheme, target = pseudo.get(b":scheme", b""), pseudo.get(b":path", b"")
    if not _SCHEME.fullmatch(scheme):
        raise Malformed("no scheme")
    if target[:1] != b"/" and (method, target) != (b"OPTIONS", b"*"):
        raise Malformed("no path")
    return method, scheme, target


def _host(authority: bytes | None, regular: Sequence[Pair]) -> bytes:
    hosts = [value for name, value in regular if name == b"host"]
    if authority is not None:
        hosts.append(authority)
    if not hosts:
        raise Malformed("neither authority nor host")
    if len({host.lower() for host in hosts}) > 1 or len(hosts) > 2:
        raise Malformed("authority and host differ")
    if not _AUTHORITY.fullmatch(hosts[-1]):
        raise Malformed("authority with a user, or with forbidden octets")
    return hosts[-1]


def _content_length(regular: Sequence[Pair]) -> int | None:
    lengths = [value for name, value in regular if name == b"content-length"]
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Malformed("content-length twice, or no number")
    return int(lengths[0])


def encode_response(status: int, headers: Iterable[Pair]) -> bytes:
    """Encode a response head without the dynamic table: no state to keep, and a fifth of the work."""
    block = bytearray(_encoded_status(status))
    for name, value in headers:
        lower = name.lower()
        if lower not in CONNECTION_SPECIFIC:
            block += _encoded_name(lower)
            block += _integer(len(value), 7)
            block += value
    return bytes(block)


@lru_cache(maxsize=64)
def _encoded_status(status: int) -> bytes:
    text = b"%d" % status
    if index := _WHOLE.get((b":status", text)):
        return bytes([0x80 | index])
    return _encoded_name(b":status") + _integer(len(text), 7) + text


@lru_cache(maxsize=512)
def _encoded_name(name: bytes) -> bytes:
    """Encode a name for a literal that enters no table (RFC 7541, sections 6.2.2 and 6.2.3)."""
    pattern = 0x10 if name in _SECRET else 0x00
    index = _INDEX_OF.get(name)
    if index is not None:
        return _integer(index, 4, pattern)
    return bytes([pattern]) + _integer(len(name), 7) + name


def _integer(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """Encode an integer (RFC 7541, section 5.1)."""
    most = (1 << prefix_bits) - 1
    if value < most:
        return bytes([pattern | value])
    octets = [pattern | most]
    value -= most
    while value >= 128:
        octets.append(value & 127 | 128)
        value >>= 7
    octets.append(value)
    return bytes(octets)
