"""The opening handshake (RFC 6455, section 4), both ways: what a client offers, what an upstream answers."""

import base64
import binascii
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1

from backend.errors import BadRequest, UpgradeRequired, UpstreamGarbage
from backend.services.headers import Headers, Pair

VERSION = b"13"
# Whoever cannot set Authorization, as pages in browsers, offers this protocol and, behind it, its token.
BEARER = "bearer"
MOST_PROTOCOLS = 32

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OWN = b"sec-websocket-"


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client's handshake asks for; `token` is a sign-in's, never to be passed on."""

    key: bytes
    protocols: tuple[str, ...] = ()
    token: str | None = None

    @classmethod
    def of(cls, headers: Headers, *, takes_token: bool) -> "Offer":
        """Read the request. Raises UpgradeRequired for another version, BadRequest for what is malformed."""
        if _values(headers, b"version") != [VERSION]:
            raise UpgradeRequired
        keys = _values(headers, b"key")
        if len(keys) != 1 or not _is_key(keys[0]):
            raise BadRequest("Sec-WebSocket-Key is malformed.")
        protocols = _protocols(_values(headers, b"protocol"))
        if not takes_token or BEARER not in protocols:
            return cls(keys[0], protocols)
        place = protocols.index(BEARER)
        if place + 1 == len(protocols):
            raise BadRequest("Sec-WebSocket-Protocol: a token follows bearer.")
        return cls(keys[0], protocols[:place] + protocols[place + 2 :], protocols[place + 1])

    def answer(self, chosen: str | None) -> str | None:
        """Return the protocol to name to the client: browsers give up where none of theirs is."""
        return BEARER if chosen is None and self.token is not None else chosen


def asked(headers: Iterable[Pair], protocols: tuple[str, ...], key: bytes) -> list[Pair]:
    """Return the headers of the gateway's own handshake, made of those that may go upstream.

    Extensions are not asked for: what they do to frames would have to be undone to be checked.
    """
    kept = [pair for pair in headers if not pair[0].startswith(_OWN)]
    kept += [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", VERSION),
        (b"sec-websocket-key", key),
    ]
    if protocols:
        kept.append((b"sec-websocket-protocol", ", ".join(protocols).encode("ascii")))
    return kept


def chosen(headers: Headers, key: bytes, protocols: tuple[str, ...]) -> str | None:
    """Return the protocol that an upstream's 101 chose. Raises UpstreamGarbage for what is no answer."""
    options = b",".join(value for name, value in headers if name == b"connection").lower().split(b",")
    upgrades = [value.lower() for name, value in headers if name == b"upgrade"]
    if upgrades != [b"websocket"] or b"upgrade" not in [option.strip() for option in options]:
        raise UpstreamGarbage
    if _values(headers, b"accept") != [accept(key)] or _values(headers, b"extensions"):
        raise UpstreamGarbage
    named = [value.decode("latin-1") for value in _values(headers, b"protocol")]
    if not named:
        return None
    if len(named) > 1 or named[0] not in protocols:
        raise UpstreamGarbage
    return named[0]


def without_own(headers: Iterable[Pair]) -> list[Pair]:
    """Return what of an answer's headers is not about the handshake of one hop."""
    return [pair for pair in headers if not pair[0].startswith(_OWN)]


def accept(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept that answers a key."""
    return base64.b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def new_key() -> bytes:
    return base64.b64encode(os.urandom(16))


def _values(headers: Headers, name: bytes) -> list[bytes]:
    wanted = _OWN + name
    return [value.strip() for key, value in headers if key == wanted]


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _protocols(values: list[bytes]) -> tuple[str, ...]:
    if not values:
        return ()
    names = tuple(name.strip(" \t") for name in b",".join(values).decode("latin-1").split(","))
    if len(names) > MOST_PROTOCOLS or len(set(names)) != len(names):
        raise BadRequest("Sec-WebSocket-Protocol is malformed.")
    if not all(_TOKEN.fullmatch(name) for name in names):
        raise BadRequest("Sec-WebSocket-Protocol is malformed.")
    return names
