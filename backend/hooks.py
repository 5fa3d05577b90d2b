"""What happens around every view: refusing bad targets, answering preflights, drawing errors."""

import logging

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from backend.context import inbound, is_handshake
from backend.cors import Cors, is_preflight
from backend.errors import (
    BadFraming,
    BadRequest,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    NotAllowed,
    NotFound,
    TooLarge,
    UnsupportedMedia,
    UpgradeRequired,
)
from backend.responses import GatewayResponse, answer
from backend.services.headers import check_framing, check_host, check_target
from backend.shortcut import direct

log = logging.getLogger("gateway")

_BY_STATUS: dict[int, type[GatewayError]] = {
    400: BadRequest,
    404: NotFound,
    405: MethodNotAllowed,
    413: TooLarge,
    415: UnsupportedMedia,
}


def register(app: Flask, cors: Cors, sockets_at: tuple[bytes, ...] = ()) -> None:
    """Add the hooks; `sockets_at` are the prefixes of mounts that take WebSockets, with a slash."""

    @app.before_request
    @direct
    def check() -> GatewayResponse | None:
        request = inbound()
        check_framing(request.headers, request.origin.http_version)
        check_target(request.path, request.query)
        check_host(request.origin.host)
        if is_handshake():
            if not (request.path + b"/").startswith(sockets_at):
                raise NotAllowed("No WebSocket is spoken here.")
            if not cors.may_open(request.headers):
                raise NotAllowed("This page may not open a WebSocket here.")
        elif is_preflight(request.method, request.headers):
            response = GatewayResponse(status=204)
            for name, value in cors.preflight(request.headers):
                response.put(name, value)
            return response
        return None

    @app.after_request
    @direct
    def finish(response: Response) -> Response:
        if isinstance(response, GatewayResponse):
            request = inbound()
            response.put(b"x-request-id", request.origin.request_id.encode("ascii"))
            for name, value in cors.headers(request.headers):
                (response.add if name == b"vary" else response.put)(name, value)
        return response

    app.register_error_handler(Exception, draw)


def draw(error: Exception) -> GatewayResponse:
    """Return the JSON answer for an error; nothing internal is in it."""
    shown = _meaning(error)
    response = answer(
        {
            "msg": shown.msg,
            "code": shown.code,
            "request_id": inbound().origin.request_id,
            "retryable": shown.retryable,
            **shown.further,
        },
        shown.status,
    )
    response.trouble = type(shown)
    if shown.retry_after_seconds is not None:
        response.put(b"retry-after", str(shown.retry_after_seconds).encode("ascii"))
    if isinstance(error, UpgradeRequired):
        response.put(b"sec-websocket-version", b"13")
    if isinstance(error, BadFraming):
        response.put(b"connection", b"close")
    if isinstance(error, HTTPException):
        for name, value in error.get_headers():
            if name == "Allow":
                response.put(b"allow", value.encode("ascii"))
    if shown is error or isinstance(error, HTTPException):
        _forget_frames(error)
    return response


def _forget_frames(error: BaseException | None) -> None:
    """Cut what ties an error, told by now, to the frames that it came through and that know it.

    Only the garbage collector could undo such knots: after a thousand refusals it took a tenth of a second.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # whoever ties causes to a ring must not stop the loop
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _meaning(error: Exception) -> GatewayError:
    if isinstance(error, GatewayError):
        return error
    if isinstance(error, HTTPException):
        return _BY_STATUS.get(error.code or 500, InternalError)()
    log.error("a view failed", exc_info=error)
    return InternalError()
