"""The API document and a page that shows it; nobody signs in for them, and nothing comes from elsewhere."""

from collections.abc import Mapping
from pathlib import Path

from flask import Flask

from backend.context import inbound
from backend.errors import NotFound
from backend.responses import GatewayResponse, shown
from backend.services.headers import first
from backend.services.pages import TYPES, Page
from backend.shortcut import direct

WEB = Path(__file__).parents[1] / "web"
DOCUMENT = "openapi.json"
# What may be asked for below /docs -> the file.
FILES: Mapping[str, str] = {
    "": "docs.html",
    "docs.js": "docs.js",
    "docs.css": "docs.css",
    "swagger-ui-bundle.js": "swagger-ui/swagger-ui-bundle.js",
    "swagger-ui.css": "swagger-ui/swagger-ui.css",
}
# The viewer draws icons from data URLs and sets styles of its own; scripts come from files alone.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def register(app: Flask, document: bytes) -> None:
    """Add `/docs` and what belongs to it; everything is read here, once."""
    pages = {name: Page.read(WEB / file) for name, file in FILES.items()}
    pages[DOCUMENT] = Page.of(document, TYPES[".json"])

    @direct
    async def show(name: str = "") -> GatewayResponse:
        page = pages.get(name)
        if page is None:
            raise NotFound
        return shown(page, POLICY, first(inbound().headers, b"if-none-match"))

    for rule in ("/docs", "/docs/<name>"):
        app.add_url_rule(rule, "docs", show, methods=["GET"])
