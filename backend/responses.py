"""Responses that the bridge can send without taking them apart."""

import json
from typing import Any, cast

from flask import Response, current_app
from werkzeug.datastructures import Headers
from werkzeug.http import HTTP_STATUS_CODES

from backend.errors import GatewayError
from backend.services.forwarding import Forwarded
from backend.services.headers import Pair
from backend.services.pages import Page
from backend.services.streams import ByteStream
from backend.services.websocket.relay import Opened
from backend.wsgi import PulledBody

# Where the bridge leaves its exchange; a plain WSGI server leaves nothing there.
EXCHANGE = "gateway.exchange"


class GatewayResponse(Response):
    """Flask's response, handed over as it is when the bridge serves it.

    `trouble` is the error that it tells of.
    """

    trouble: type[GatewayError] | None = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if EXCHANGE in environ:
            return self
        return super().__call__(environ, start_response)

    def put(self, name: bytes, value: bytes) -> None:
        """Set a header that the gateway owns; hooks use this one way for every kind of response."""
        self.headers[name.decode("ascii")] = value.decode("latin-1")

    def add(self, name: bytes, value: bytes) -> None:
        """Add a line to a header that others write, too, such as `Vary`."""
        self.headers.add(name.decode("ascii"), value.decode("latin-1"))

    def raw_headers(self) -> list[Pair]:
        """Return the header lines to send, names in lower case."""
        headers = self.get_wsgi_headers({})  # only a redirect that is made absolute would look into it
        return [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()]


class StreamedResponse(GatewayResponse):
    """A body that is still arriving, with header lines that nobody needs to parse.

    werkzeug's headers are built only when a hook asks for them.
    """

    def __init__(self, status: int, headers: list[Pair], body: ByteStream) -> None:
        self._status_code = status
        self._status = f"{status} {HTTP_STATUS_CODES.get(status, 'Unknown').upper()}"
        self._on_close = []
        self.response = ()
        self.direct_passthrough = True
        self.body = body
        self._raw: list[Pair] | None = headers
        self._parsed: Headers | None = None

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if EXCHANGE not in environ:
            # A WSGI server iterates, and closes with the response.
            self.response = PulledBody(self.body, cast(Any, current_app).background)
            self.direct_passthrough = False
        return super().__call__(environ, start_response)

    @property
    def headers(self) -> Headers:  # type: ignore[override]
        if self._parsed is None:
            raw = self._raw or []
            self._parsed = Headers([(n.decode("latin-1"), v.decode("latin-1")) for n, v in raw])
            self._raw = None
        return self._parsed

    def put(self, name: bytes, value: bytes) -> None:
        if self._raw is None:
            super().put(name, value)
        else:
            self._raw = [pair for pair in self._raw if pair[0] != name]
            self._raw.append((name, value))

    def add(self, name: bytes, value: bytes) -> None:
        if self._raw is None:
            super().add(name, value)
        else:
            self._raw.append((name, value))

    def raw_headers(self) -> list[Pair]:
        if self._raw is not None:
            return self._raw
        return [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in self.headers.items()]


class UpgradedResponse(GatewayResponse):
    """101: a WebSocket begins, where the server that got the handshake can let go of its connection."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(status=101)
        for name, value in opened.headers:
            self.headers.add(name.decode("ascii"), value.decode("latin-1"))
        del self.headers["content-type"]
        self.opened = opened


def relayed(forwarded: Forwarded) -> StreamedResponse:
    """Return an upstream's answer to the client as it arrives."""
    return StreamedResponse(forwarded.status, forwarded.headers, forwarded.body)


def answer(content: Any, status: int = 200) -> GatewayResponse:
    """Return a JSON answer."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # JSON of an upstream may hold half a surrogate pair, which UTF-8 cannot.
    return GatewayResponse(text.encode("utf-8", "replace"), status=status, mimetype="application/json")


def shown(page: Page, policy: bytes, if_none_match: bytes | None) -> GatewayResponse:
    """Return one of the gateway's own pages under a content security policy, or 304 to who has it."""
    known = page.is_known(if_none_match or b"")
    response = GatewayResponse(b"" if known else page.content, status=304 if known else 200)
    response.put(b"content-type", page.content_type)
    response.put(b"etag", page.tag)
    # Kept, but asked for again: another version of the gateway has other pages, and all have to fit together.
    response.put(b"cache-control", b"no-cache")
    response.put(b"content-security-policy", policy)
    response.put(b"x-content-type-options", b"nosniff")
    response.put(b"referrer-policy", b"no-referrer")
    return response
