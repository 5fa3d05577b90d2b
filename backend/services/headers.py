"""Pure rules for headers and request targets: what passes, what ends here, what is refused."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from backend.errors import BadFraming, BadTarget
from backend.services.traceparent import checked

Pair = tuple[bytes, bytes]
Headers = Sequence[Pair]

PSEUDONYM = b"avatar-gateway"

# RFC 9110 section 7.6.1, with the two that only ever existed in practice.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Set anew for each hop: what a client writes here must never reach an upstream that believes it.
_OWNED_BY_GATEWAY = frozenset(
    {
        b"host",
        b"expect",  # answered by the server in front
        b"forwarded",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-original-url",
        b"x-real-ip",
        b"x-request-id",
        b"x-rewrite-url",
    }
)
_NOT_SENT = HOP_BY_HOP | _OWNED_BY_GATEWAY

# The gateway answers for CORS itself, and tells nobody what runs behind it.
_NOT_RELAYED = HOP_BY_HOP | {b"server", b"x-powered-by", b"x-request-id", b"via", b"timing-allow-origin"}
_CORS = b"access-control-"

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")

HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{0,255})(?::[0-9]{0,5})?")

# RFC 3986: a target is visible ASCII; everything else arrives percent-encoded.
_NOT_VISIBLE = re.compile(rb"[^\x21-\x7e]")
# Bytes that no valid UTF-8 holds: overlong spellings of "." and "/" begin with them.
_OVERLONG = re.compile(rb"%[cC][01]")
_MOST_DECODINGS = 3
# What decides where a request ends or whom it is for.
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding"})
_DOT_SEGMENT = re.compile(rb"(?:^|[/\\])\.{1,2}(?:[/\\;]|$)")
_REFUSED_DECODED = re.compile(rb"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class Passage:
    """Which of the caller's credentials may pass a route, both decided by the route's owner."""

    authorization: bool = False
    cookies: bool = False


NO_CREDENTIALS = Passage()


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent a request, as told to the upstream."""

    address: str
    scheme: str
    host: bytes
    http_version: str
    request_id: str


def check_target(path: bytes, query: bytes = b"") -> None:
    """Refuse a raw request target that could mean one thing here and another upstream.

    Raises BadTarget for anything but origin-form, and for dot segments, backslashes and control
    characters, each also percent-encoded once or several times.
    """
    if not path.startswith(b"/"):
        raise BadTarget
    if _NOT_VISIBLE.search(path) or _NOT_VISIBLE.search(query) or b"#" in path or b"#" in query:
        raise BadTarget
    if b"%" not in path:
        if b"\\" in path or (b"/." in path and _DOT_SEGMENT.search(path)):
            raise BadTarget
        return
    _check_encoded(path)


def check_host(host: bytes) -> None:
    """Refuse a Host that is no name or address with an optional port (RFC 3986, section 3.2.2)."""
    if not HOST.fullmatch(host):
        raise BadTarget("The Host of this request is not valid.")


def _check_encoded(path: bytes) -> None:
    if _OVERLONG.search(path):
        raise BadTarget
    decoded = path
    for _ in range(_MOST_DECODINGS):
        if _DOT_SEGMENT.search(decoded) or _REFUSED_DECODED.search(decoded):
            raise BadTarget
        once_more = unquote_to_bytes(decoded)
        if once_more == decoded:
            return
        decoded = once_more
    raise BadTarget("The path of this request is encoded too many times.")


def check_framing(headers: Headers, http_version: str) -> None:
    """Refuse framing that another server may read differently; some servers let it through.

    Raises BadFraming for a missing or repeated Host, for more than one length, and for any transfer coding
    but a single `chunked`. HTTP/2 has neither problem.
    """
    if not http_version.startswith("1"):
        return
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _FRAMING:
            if name in seen:
                raise BadFraming
            seen[name] = value
    if not seen.get(b"host") and http_version != "1.0":
        raise BadFraming
    coding = seen.get(b"transfer-encoding")
    if coding is not None and (b"content-length" in seen or coding.lower() != b"chunked"):
        raise BadFraming


def _named_by_connection(headers: Iterable[Pair]) -> frozenset[bytes]:
    """Return the header names that `Connection` lines declare to be hop-by-hop."""
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return frozenset(named)


def to_upstream(headers: Headers, origin: Origin, passage: Passage = NO_CREDENTIALS) -> list[Pair]:
    """Return the request headers that go upstream: order and duplicates kept, one hop's own words replaced.

    Names are expected in lower case, as ASGI delivers them.
    """
    dropped = _NOT_SENT | _named_by_connection(headers)
    if not passage.authorization:
        dropped |= {b"authorization"}
    if not passage.cookies:
        dropped |= {b"cookie"}
    kept = [
        pair
        for pair in headers
        # Programs behind CGI or WSGI read X_Real_IP as X-Real-IP.
        if pair[0] not in dropped and (b"_" not in pair[0] or pair[0].replace(b"_", b"-") not in dropped)
    ]
    names = {name for name, _ in kept}
    if b"traceparent" in names or b"tracestate" in names:
        kept = checked(kept)
    # Said by the gateway, so that no client library says it: both mean the same as saying nothing.
    if b"accept" not in names:
        kept.append((b"accept", b"*/*"))
    if b"user-agent" not in names:
        kept.append((b"user-agent", PSEUDONYM))
    kept += [
        (b"x-forwarded-for", origin.address.encode("latin-1")),
        (b"x-forwarded-proto", origin.scheme.encode("latin-1")),
        (b"x-forwarded-host", origin.host),
        (b"x-request-id", origin.request_id.encode("latin-1")),
        (b"via", origin.http_version.encode("latin-1") + b" " + PSEUDONYM),
    ]
    return kept


def to_client(headers: Headers, passage: Passage = NO_CREDENTIALS) -> list[Pair]:
    """Return the response headers that go back: end-to-end ones in their order, each Set-Cookie a line."""
    dropped = _NOT_RELAYED | _named_by_connection(headers)
    if not passage.cookies:
        dropped |= {b"set-cookie"}
    return [pair for pair in headers if pair[0] not in dropped and not pair[0].startswith(_CORS)]


def first(headers: Iterable[Pair], name: bytes) -> bytes | None:
    """Return the first value of a header, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def content_length(headers: Iterable[Pair]) -> int | None:
    """Return the declared body length in bytes, or None when there is none or it is not a number."""
    value = first(headers, b"content-length")
    return int(value) if value is not None and value.isdigit() else None


def request_id_or_none(value: bytes | None) -> str | None:
    """Return a caller's request id when it is short and plain, so that it can be logged and passed on."""
    if value is not None and _REQUEST_ID.fullmatch(value):
        return value.decode("ascii")
    return None
