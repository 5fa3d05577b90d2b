"""The console: a small page to try the gateway with; it signs in like any other client."""

from pathlib import Path

from flask import Flask

from backend.context import inbound
from backend.errors import NotFound
from backend.responses import GatewayResponse, shown
from backend.services.headers import first
from backend.services.pages import read_folder
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
        return shown(page, POLICY, first(inbound().headers, b"if-none-match"))

    for rule in ("/console", "/console/<name>"):
        app.add_url_rule(rule, "console", show, methods=["GET"])
