"""What a view may reach: the gateway's services, the request as it arrived, and who is asking."""

import os
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from flask import current_app, request

from backend.config import Settings
from backend.errors import NotAllowed, NotAuthenticated
from backend.exchange import CURRENT, Exchange
from backend.services.accounts import Accounts
from backend.services.administration import Administration
from backend.services.answering import Answering
from backend.services.audit import Audit
from backend.services.catalogue import Catalogue
from backend.services.chats import Chats
from backend.services.database import Database
from backend.services.files import Files
from backend.services.forwarding import Forwarder, Inbound
from backend.services.headers import Origin, first, request_id_or_none
from backend.services.health_checks import HealthChecks
from backend.services.http_client import HttpClient
from backend.services.language_models import LanguageModels
from backend.services.mail import Mail
from backend.services.notifications import Notifications
from backend.services.own_account import OwnAccount
from backend.services.passwords import Passwords
from backend.services.pictures import Pictures
from backend.services.profiles import Profiles
from backend.services.rate_limits import RateLimits
from backend.services.readiness import Readiness
from backend.services.sessions import Sessions
from backend.services.signalling import Signalling
from backend.services.speech import Models
from backend.services.streams import ByteStream, LimitedStream, check_length
from backend.services.tokens import Principal, Tokens
from backend.services.upkeep import Upkeep
from backend.services.verification import Verification
from backend.services.viewers import Viewers
from backend.services.watching import Watching
from backend.services.websocket.sockets import Sockets
from backend.wsgi import WsgiBody, raw_headers, raw_target

EXTENSION = "gateway"
_INBOUND = "gateway.inbound"


@dataclass(frozen=True)
class Gateway:
    """Everything that one process serves with; made once, opened and closed by the lifespan."""

    settings: Settings
    database: Database
    passwords: Passwords
    accounts: Accounts
    mail: Mail
    verification: Verification
    own_account: OwnAccount
    tokens: Tokens
    rate_limits: RateLimits
    client: HttpClient
    forwarder: Forwarder
    catalogue: Catalogue
    sessions: Sessions
    upkeep: Upkeep
    signalling: Signalling
    speech: Models
    files: Files
    readiness: Readiness
    health_checks: HealthChecks
    profiles: Profiles
    pictures: Pictures
    notifications: Notifications
    administration: Administration
    audit: Audit
    language_models: LanguageModels
    chats: Chats
    answering: Answering
    watching: Watching
    sockets: Sockets
    viewers: Viewers


def gateway() -> Gateway:
    exchange = CURRENT.get()
    flask = current_app if exchange is None else exchange.flask
    return cast(Gateway, flask.extensions[EXTENSION])


def inbound() -> Inbound:
    """Return the present request as it reached the gateway; made once a request."""
    exchange = CURRENT.get()
    if exchange is None:
        environ = request.environ
        if _INBOUND not in environ:
            environ[_INBOUND] = _of_wsgi(environ)
        return cast(Inbound, environ[_INBOUND])
    if exchange.inbound is None:
        exchange.inbound = _of_exchange(exchange)
    return exchange.inbound


def _of_exchange(exchange: Exchange) -> Inbound:
    scope = exchange.scope
    headers = scope["headers"]
    request_id = request_id_or_none(first(headers, b"x-request-id")) or _new_request_id()
    exchange.trail.request_id = request_id
    return Inbound(
        method=scope["method"],
        path=scope["raw_path"],
        query=scope["query_string"],
        headers=headers,
        body=exchange.body if _has_body(headers, scope["http_version"], scope["method"]) else None,
        origin=Origin(
            address=(scope.get("client") or ("unknown",))[0],
            scheme=scope.get("scheme", "http"),
            host=first(headers, b"host") or b"",
            http_version=scope["http_version"],
            request_id=request_id,
        ),
    )


def _of_wsgi(environ: dict[str, Any]) -> Inbound:
    headers = raw_headers(environ)
    path, query = raw_target(environ)
    version = environ.get("SERVER_PROTOCOL", "HTTP/1.1").partition("/")[2]
    return Inbound(
        method=environ["REQUEST_METHOD"],
        path=path,
        query=query,
        headers=headers,
        body=WsgiBody(environ) if _has_body(headers, "1.1", environ["REQUEST_METHOD"]) else None,
        origin=Origin(
            address=environ.get("REMOTE_ADDR", "unknown"),
            scheme=environ.get("wsgi.url_scheme", "http"),
            host=first(headers, b"host") or b"",
            http_version=version,
            request_id=request_id_or_none(first(headers, b"x-request-id")) or _new_request_id(),
        ),
    )


def _has_body(headers: Any, http_version: str, method: str) -> bool:
    """RFC 9112 section 6.3; over HTTP/2 a body needs no header, so methods that carry none decide."""
    length = first(headers, b"content-length")
    if length is not None:
        return length != b"0" or method in ("POST", "PUT", "PATCH")
    if http_version.startswith("1"):
        return first(headers, b"transfer-encoding") is not None
    return method not in ("GET", "HEAD", "OPTIONS", "DELETE")


# Unique, not secret: a random start for the process and a count cost a tenth of asking the system each time.
_request_numbers = count(int.from_bytes(os.urandom(15)))


def _new_request_id() -> str:
    return f"{next(_request_numbers):032x}"


def is_handshake() -> bool:
    """Tell whether the request asks for a WebSocket, and the server that got it can open one."""
    exchange = CURRENT.get()
    return exchange is not None and exchange.accept is not None


def bearer() -> str | None:
    """Return the caller's token, or None when there is none."""
    value = first(inbound().headers, b"authorization")
    if value is None:
        return None
    scheme, _, token = value.decode("latin-1").strip().partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NotAuthenticated
    return token.strip()


async def caller(*, passive: bool = False, offered: str | None = None) -> Principal:
    """Return who is asking. Raises NotAuthenticated.

    The call prolongs the sign-in, but for a passive one: what an open tab asks by itself is no use of it.
    `offered` is a token that came in another way than by Authorization, and counts where that is missing.
    """
    token = bearer() or offered
    if token is None:
        raise NotAuthenticated
    tokens = gateway().tokens
    principal = await tokens.verify(token)
    if not passive:
        tokens.used(principal)
    return principal


async def tutor(*, passive: bool = False) -> Principal:
    """Return the asking tutor. Raises NotAuthenticated and NotAllowed."""
    principal = await caller(passive=passive)
    if not principal.is_tutor:
        raise NotAllowed("Only tutors may do this.")
    return principal


def body(limit: int) -> ByteStream | None:
    """Return the request body, of at most `limit` bytes. Raises TooLarge, for a declared length at once."""
    arriving = inbound()
    check_length(arriving.content_length, limit)
    return None if arriving.body is None else LimitedStream(arriving.body, limit)
