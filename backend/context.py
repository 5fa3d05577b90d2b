"""What a view may reach: the gateway's services, the request as it arrived, and who is asking."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

from flask import current_app, request
from pydantic import BaseModel, ValidationError

from backend.config import Settings
from backend.errors import BadRequest, NotAllowed, NotAuthenticated, NotFound
from backend.exchange import CURRENT, Exchange
from backend.schemas.common import nested
from backend.services.accounts import Accounts
from backend.services.administration import Administration
from backend.services.answering import Answering
from backend.services.audit import Audit
from backend.services.catalogue import Catalogue
from backend.services.chats import Chats
from backend.services.database import Database
from backend.services.files import Files
from backend.services.forwarding import MEGABYTE, Forwarder, Inbound
from backend.services.headers import Origin, first, request_id_or_none
from backend.services.health_checks import HealthChecks
from backend.services.http_client import HttpClient
from backend.services.language_models import LanguageModels
from backend.services.mail import Mail
from backend.services.multipart import small_form
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
from backend.services.streams import ByteStream, LimitedStream, check_length, in_time, read_whole
from backend.services.tokens import Principal, Tokens
from backend.services.upkeep import Upkeep
from backend.services.verification import Verification
from backend.services.viewers import Viewers
from backend.services.watching import Watching
from backend.services.websocket.sockets import Sockets
from backend.wsgi import WsgiBody, raw_headers, raw_target

M = TypeVar("M", bound=BaseModel)

EXTENSION = "gateway"
_INBOUND = "gateway.inbound"
# What every database can hold as a number of a row.
MOST_ID_DIGITS = 9


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


async def json_fields() -> dict[str, Any]:
    """Read a JSON object of at most a megabyte. Raises BadRequest and TooLarge."""
    stream = body(MEGABYTE)
    return _object(b"" if stream is None else await in_time(read_whole(stream, MEGABYTE)))


def _object(content: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("Please send JSON.") from exc
    if not isinstance(fields, dict):
        raise BadRequest("Please send a JSON object.")
    return fields


async def json_body(model: type[M]) -> M:
    """Read and check a JSON object. Raises BadRequest that names the field, and TooLarge."""
    return checked(model, await json_fields())


async def json_body_or_none(model: type[M]) -> M | None:
    """Read and check a JSON object that may be left out. Raises BadRequest and TooLarge."""
    stream = body(MEGABYTE)
    content = b"" if stream is None else await in_time(read_whole(stream, MEGABYTE))
    return checked(model, _object(content)) if content else None


def query(model: type[M]) -> M:
    """Read and check the query string. Raises BadRequest that names the parameter."""
    try:
        pairs = parse_qsl(
            inbound().query.decode("ascii"), keep_blank_values=False, errors="strict", max_num_fields=100
        )
    except ValueError as exc:  # also what is no UTF-8
        raise BadRequest("The query string is malformed.") from exc
    return checked(model, nested(dict(pairs)))


def checked(model: type[M], fields: Mapping[str, Any]) -> M:
    """Return what the fields say. Raises BadRequest that names the first one that is wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        error = exc.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in error["loc"])
        raise BadRequest(_spoken(name, error["type"], error["msg"])) from exc


_KINDS = {
    "missing": "is missing.",
    "string_too_short": "is too short.",
    "string_type": "needs to be text.",
    "int_type": "needs to be a whole number.",
    "int_parsing": "needs to be a whole number.",
    "bool_type": "needs to be true or false.",
    "bool_parsing": "needs to be true or false.",
    "string_pattern_mismatch": "has characters or a form that are not allowed.",
    "string_unicode": "has characters that do not exist.",
}


def _spoken(name: str, kind: str, text: str) -> str:
    if kind in _KINDS:
        return f"{name} {_KINDS[kind]}"
    return f"{name}: {text[:1].lower()}{text[1:]}." if name else f"{text}."


def row_id(text: str) -> int:
    """Return the number of a row as a path spells it, leading zeros or not. Raises NotFound."""
    digits = text.lstrip("0") if text.isascii() and text.isdigit() else ""
    if not 0 < len(digits) <= MOST_ID_DIGITS:
        raise NotFound
    return int(digits)


async def form_fields() -> dict[str, str]:
    """Read the text fields of a small form, urlencoded or multipart."""
    content_type = first(inbound().headers, b"content-type") or b""
    return await small_form(body(MEGABYTE), content_type)


async def form_field(name: str) -> str | None:
    """Read one field of a small form."""
    return (await form_fields()).get(name)


async def form(model: type[M]) -> M:
    """Read and check a small form. Raises BadRequest that names the field, UnsupportedMedia and TooLarge."""
    return checked(model, await form_fields())
