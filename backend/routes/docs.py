"""The API document and a page that shows it; nobody signs in for them, and nothing comes from elsewhere."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flask import Flask

from backend.context import inbound
from backend.errors import NotFound
from backend.responses import GatewayResponse
from backend.services.headers import first
from backend.shortcut import direct

WEB = Path(__file__).parents[1] / "web"
DOCUMENT = "openapi.json"
PAGE = "docs.html"
# What may be asked for below /docs -> the file, and its content type.
FILES: Mapping[str, tuple[str, str]] = {
    "docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "docs.css": ("docs.css", "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css; charset=utf-8"),
}
# The viewer draws icons from data URLs and sets styles of its own; scripts come from files alone.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Page:
    content: bytes
    content_type: str
    tag: bytes

    @classmethod
    def of(cls, content: bytes, content_type: str) -> "Page":
        return cls(content, content_type, b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode("ascii"))


def register(app: Flask, document: bytes) -> None:
    """Add `/docs` and what belongs to it; everything is read here, once."""
    pages = {"": Page.of((WEB / PAGE).read_bytes(), "text/html; charset=utf-8")}
    pages[DOCUMENT] = Page.of(document, "application/json")
    for name, (file, content_type) in FILES.items():
        pages[name] = Page.of((WEB / file).read_bytes(), content_type)

    @direct
    async def show(name: str = "") -> GatewayResponse:
        page = pages.get(name)
        if page is None:
            raise NotFound
        return _shown(page)

    for rule in ("/docs", "/docs/<name>"):
        app.add_url_rule(rule, "docs", show, methods=["GET"])


def _shown(page: Page) -> GatewayResponse:
    known = first(inbound().headers, b"if-none-match") or b""
    same = page.tag in [tag.strip().removeprefix(b"W/") for tag in known.split(b",")]
    response = GatewayResponse(b"" if same else page.content, status=304 if same else 200)
    response.put(b"content-type", page.content_type.encode("ascii"))
    response.put(b"etag", page.tag)
    # Kept, but asked for again: another version of the gateway has another document.
    response.put(b"cache-control", b"no-cache")
    response.put(b"content-security-policy", POLICY)
    response.put(b"x-content-type-options", b"nosniff")
    response.put(b"referrer-policy", b"no-referrer")
    return response
