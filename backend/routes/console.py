"""The gateway's own pages: a console to try it with, and a dashboard; both are clients like any other."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from flask import Flask

from backend.context import inbound
from backend.errors import NotFound
from backend.responses import GatewayResponse, shown
from backend.services.headers import first
from backend.services.pages import Page, read_folder
from backend.shortcut import direct

WEB = Path(__file__).parents[1] / "web"
FOLDER = WEB / "console"
DASHBOARD = WEB / "dashboard"
INDEX = "index.html"
# Scripts and styles come from files of this origin alone; previews are made into blobs by the page.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def register(app: Flask) -> None:
    """Add `/console`, `/dashboard` and their files; they are read here, once."""
    for folder in (FOLDER, DASHBOARD):
        show = _shown(read_folder(folder))
        for rule in (f"/{folder.name}", f"/{folder.name}/<name>"):
            app.add_url_rule(rule, folder.name, show, methods=["GET"])


def _shown(pages: Mapping[str, Page]) -> Callable[..., Awaitable[GatewayResponse]]:
    @direct
    async def show(name: str = INDEX) -> GatewayResponse:
        page = pages.get(name)
        if page is None:
            raise NotFound
        return shown(page, POLICY, first(inbound().headers, b"if-none-match"))

    return show
