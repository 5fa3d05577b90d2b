"""The console: a small page to try the gateway with; it signs in like any other client."""

from pathlib import Path

from flask import Flask

from backend.context import inbound
from backend.errors import NotFound
from backend.responses import GatewayResponse
from backend.services.headers import first
from backend.services.pages import Page, read_folder
from backend.shortcut import direct

FOLDER = Path(__file__).parents[1] / "web" / "console"
INDEX = "index.html"
# Scripts and styles come from files of this origin alone; previews are made into blobs by the page.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def register(app: Flask) -> None:
    """Add `/console` and its files; they are read here, once."""
    pages = read_folder(FOLDER)

    @direct
    async def show(name: str = INDEX) -> GatewayResponse:
        page = pages.get(name)
        if page is None:
            raise NotFound
        return _shown(page)

    for rule in ("/console", "/console/<name>"):
        app.add_url_rule(rule, "console", show, methods=["GET"])


def _shown(page: Page) -> GatewayResponse:
    known = page.is_known(first(inbound().headers, b"if-none-match") or b"")
    response = GatewayResponse(b"" if known else page.content, status=304 if known else 200)
    response.put(b"content-type", page.content_type)
    response.put(b"etag", page.tag)
    # Kept, but asked for again: all files of the page have to be of one version.
    response.put(b"cache-control", b"no-cache")
    response.put(b"content-security-policy", POLICY)
    response.put(b"x-content-type-options", b"nosniff")
    response.put(b"referrer-policy", b"no-referrer")
    return response
