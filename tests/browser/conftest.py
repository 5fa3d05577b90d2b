"""Chromium, one for each test or one for a module, and a page of another origin."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserType, Page, async_playwright

from tests.contract.stage import Scene, opened_scene
from tests.support.demo import Demo, demo

FOLDER = Path(__file__).parent
TYPES = {"/": ("page.html", b"text/html; charset=utf-8"), "/page.js": ("page.js", b"text/javascript")}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
# All tests of a module sign in as the same two people.
SHARED_DEMO = {"GATEWAY_LOGIN_LIMIT": "1000/minute"}


def chromium() -> str:
    """Return the path of Chromium; without one the test is skipped, under CI it fails."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing = "Chromium is not installed; on Debian as root: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return path


async def launched(playing: BrowserType) -> Browser:
    return await playing.launch(executable_path=chromium(), args=[*FLAGS])


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await launched(playwright.chromium)
        try:
            yield browser
        finally:
            await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playing() -> AsyncIterator[BrowserType]:
    async with async_playwright() as playwright:
        yield playwright.chromium


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_browser(playing: BrowserType) -> AsyncIterator[Browser]:
    browser = await launched(playing)
    yield browser
    await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_demo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Demo]:
    folder = tmp_path_factory.mktemp("demo")
    async with demo(folder, "--demo-latency=0.1", **SHARED_DEMO) as opened:
        yield opened


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with opened_scene(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def other_origin() -> AsyncIterator[int]:
    """The port of a server that has nothing but the tests' page."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode().partition("?")[0]
        file, kind = TYPES.get(path, TYPES["/"])
        content = (FOLDER / file).read_bytes()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\n" % kind)
        writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(content), content))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass
class Watched:
    """A page, what addresses it asked for, and what its console and its scripts complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    async def opened(cls, browser: Browser, **how: str) -> "Watched":
        watched = cls(await browser.new_page(**how))
        watched.page.on("request", lambda request: watched.asked.append(request.url))
        watched.page.on("pageerror", lambda error: watched.complaints.append(str(error)))
        watched.page.on(
            "console",
            lambda message: message.type in ("error", "warning") and watched.complaints.append(message.text),
        )
        return watched
