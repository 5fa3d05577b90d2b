"""Those who look at a gateway's dashboard while it works: readers of the stream, and a page in Chromium."""

import asyncio
import shutil
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from benchmarks.processes import Failure

T = TypeVar("T")

STREAM = "/api/stats/stream"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class PageState:
    """What a page holds after its garbage was collected."""

    heap_mb: float
    nodes: int


class Viewers:
    """Open streams, on a loop and a thread of their own; `events` counts what came."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()
        self._readers: list[asyncio.Task[None]] = []
        self._session: Any = None
        self.events = 0

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the loop of the viewers."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    def begin(self) -> None:
        self._thread.start()

    async def join(self, count: int) -> None:
        """Open so many streams. Raises Failure."""
        parts = urlsplit(self._url)
        for _ in range(count):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
            self._stack.callback(writer.close)
            writer.write(f"GET {STREAM} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            if b" 200 " not in await reader.readline():
                raise Failure("the dashboard's stream was refused")
            self._readers.append(asyncio.ensure_future(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(1 << 16):
            self.events += chunk.count(b"event: now")

    async def show(self) -> bool:
        """Open the page, where there is a Chromium; tell whether there is."""
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None:
            return False
        from playwright.async_api import async_playwright  # readers of the stream need none

        playwright = await self._stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        self._stack.push_async_callback(browser.close)
        page = await browser.new_page()
        await page.goto(f"{self._url}/dashboard")
        await page.wait_for_selector("#room:not([hidden])")
        self._session = await page.context.new_cdp_session(page)
        await self._session.send("Performance.enable")
        return True

    async def page_state(self) -> PageState | None:
        if self._session is None:
            return None
        await self._session.send("HeapProfiler.collectGarbage")
        told = await self._session.send("Performance.getMetrics")
        found = {metric["name"]: metric["value"] for metric in told["metrics"]}
        return PageState(found["JSHeapUsedSize"] / (1 << 20), int(found["Nodes"]))

    async def leave(self) -> None:
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        await self._stack.aclose()

    def end(self) -> None:
        with suppress(TimeoutError):
            self.call(self.leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


@contextmanager
def watching(url: str, count: int, *, page: bool = False) -> Iterator[Viewers]:
    """Have the dashboard looked at until the block ends. Raises Failure."""
    viewers = Viewers(url)
    viewers.begin()
    try:
        viewers.call(viewers.join(count))
        if page:
            viewers.call(viewers.show())
        yield viewers
    finally:
        viewers.end()
