"""The dashboard in Chromium, before a gateway with its demo world.

Gateway, world and browser are one for all tests: each starts with no page open and no fault in the world.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Watched
from tests.browser.contrast import CONTRAST, LEAST_CONTRAST
from tests.support.demo import Demo
from tests.support.gateway import spawned
from tests.support.ports import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

PATIENCE_MS = 60_000
PASSWORD = "Demo-pass1!"
# As seen from another machine.
AWAY = {"X-Forwarded-For": "203.0.113.9"}
# A line is told from its ground from here on (WCAG 2, 1.4.11).
LEAST_OF_LINES = 3.0
TEXTS = (
    "h1",
    "h2",
    "#health",
    "#about",
    "#link",
    ".quiet",
    ".tile dt",
    ".value",
    ".note",
    ".legend li",
    "th",
    "td",
)
LINE = re.compile(r"M[\d.]+ [\d.]+")


@pytest_asyncio.fixture(loop_scope="module")
async def running(shared_demo: Demo) -> AsyncIterator[Demo]:
    yield shared_demo
    await shared_demo.clear_faults()
    await shared_demo.until_healthy()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(shared_browser: Browser) -> AsyncIterator[Browser]:
    yield shared_browser
    for context in shared_browser.contexts:
        await context.close()


async def opened(browser: Browser, url: str, away: bool = False, **how: Any) -> Watched:
    watched = await Watched.opened(browser, **how)
    watched.page.set_default_timeout(PATIENCE_MS)
    if away:
        await watched.page.set_extra_http_headers(AWAY)
    await watched.page.goto(f"{url}/dashboard")
    return watched


async def drawn(page: Page) -> None:
    """Wait until there is something to see, lines included."""
    await expect(page.locator("#room")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator("#chart-rate .line")).to_have_attribute("d", LINE, timeout=PATIENCE_MS)


async def sign_in(page: Page, role: str, password: str = PASSWORD) -> None:
    """By the keyboard alone."""
    await expect(page.locator("#email")).to_be_focused(timeout=PATIENCE_MS)
    await page.keyboard.type(f"{role}@demo.local")
    await page.keyboard.press("Tab")
    await page.keyboard.type(password)
    await page.keyboard.press("Enter")


async def test_the_page_shows_what_the_gateway_does_while_it_does_it(browser: Browser, running: Demo) -> None:
    watched = await opened(browser, running.gateway.url)
    page = watched.page
    await drawn(page)
    await expect(page.locator("#health")).to_have_text("healthy")
    await expect(page.locator("#link")).to_have_text("live")
    await asyncio.gather(*(running.preview() for _ in range(5)))
    await running.http.get("/api/nothing")
    row = page.locator("#table-routes tr", has_text="POST /api/avatar/preview")
    await expect(row).to_contain_text("5", timeout=PATIENCE_MS)
    await expect(page.locator("#table-codes")).to_contain_text("not_found", timeout=PATIENCE_MS)
    await expect(page.locator("#table-upstreams tr", has_text="catalogue")).to_contain_text("ok")
    await expect(page.locator("#chart-errors .bar.slate")).to_have_attribute("d", LINE, timeout=PATIENCE_MS)
    assert watched.complaints == []
    outside = [url for url in watched.asked if not url.startswith((running.gateway.url, "data:"))]
    assert outside == []


async def test_an_upstream_that_fails_is_seen_without_being_asked_for(
    browser: Browser, running: Demo
) -> None:
    page = (await opened(browser, running.gateway.url)).page
    await drawn(page)
    await running.put("/faults", service="manager", fault="refuse")
    await expect(page.locator("#health")).to_have_text("degraded", timeout=PATIENCE_MS)
    row = page.locator("#table-upstreams tr", has_text="manager")
    await expect(row.locator(".wrong")).to_have_text("not running", timeout=PATIENCE_MS)


async def test_from_elsewhere_it_is_for_tutors(browser: Browser, running: Demo) -> None:
    watched = await opened(browser, running.gateway.url, away=True)
    page = watched.page
    await sign_in(page, "tutor", "Wrong-pass1!")
    await expect(page.locator("#error")).to_contain_text("password", timeout=PATIENCE_MS)
    await page.reload()
    await sign_in(page, "student")
    await expect(page.locator("#error")).to_contain_text("for tutors", timeout=PATIENCE_MS)
    await expect(page.locator("#room")).to_be_hidden()
    await page.reload()
    await sign_in(page, "tutor")
    await drawn(page)
    await page.reload()  # still signed in
    await drawn(page)
    await page.click("#sign-out")
    await expect(page.locator("#entry")).to_be_visible()
    await expect(page.locator("#room")).to_be_hidden()


async def test_a_forged_token_leads_to_the_sign_in(browser: Browser, running: Demo) -> None:
    page = (await opened(browser, running.gateway.url)).page
    await page.evaluate("sessionStorage.setItem('console.token', 'eyJ.forged.token')")
    await page.reload()
    await expect(page.locator("#entry")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator("#error")).to_contain_text("sign in again")
    assert await page.evaluate("sessionStorage.getItem('console.token')") is None


async def test_a_sign_in_that_ends_takes_the_picture_away(browser: Browser, running: Demo) -> None:
    page = (await opened(browser, running.gateway.url, away=True)).page
    await sign_in(page, "tutor")
    await drawn(page)
    async with httpx.AsyncClient(base_url=running.gateway.url, trust_env=False) as http:
        account = {"email": "tutor@demo.local", "password": PASSWORD}
        assert (await http.post("/api/login", json=account)).status_code == 200
    await expect(page.locator("#entry")).to_be_visible(timeout=PATIENCE_MS)
    await expect(page.locator("#room")).to_be_hidden()


async def test_charts_can_be_read_by_keys_and_as_tables(browser: Browser, running: Demo) -> None:
    page = (await opened(browser, running.gateway.url)).page
    await drawn(page)
    plot = page.locator("#chart-rate .plot")
    await plot.focus()
    assert (await plot.get_attribute("aria-valuetext") or "").startswith("Now: all ")
    await page.keyboard.press("PageDown")
    await page.keyboard.press("PageUp")
    await page.keyboard.press("PageUp")
    assert (await plot.get_attribute("aria-valuetext") or "").startswith("2 min ago: all ")
    await page.keyboard.press("Escape")
    assert (await plot.get_attribute("aria-valuetext") or "").startswith("Now")
    await page.locator("#chart-rate summary").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#chart-rate tbody tr")).to_have_count(15)
    nameless = await page.evaluate(
        """() => [...document.querySelectorAll("input, button, [role=slider], section")]
          .filter(e => !(e.labels?.length || e.ariaLabel || e.hasAttribute("aria-labelledby")))
          .filter(e => !e.textContent.trim())
          .map(e => e.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_can_be_told_from_its_ground(browser: Browser, running: Demo, scheme: str) -> None:
    page = (await opened(browser, running.gateway.url, color_scheme=scheme)).page
    await drawn(page)
    await running.put("/faults", service="manager", fault="refuse")
    await expect(page.locator(".wrong")).to_be_visible(timeout=PATIENCE_MS)
    for text in (*TEXTS, ".wrong"):
        contrast = await page.locator(text).locator("visible=true").first.evaluate(CONTRAST)
        assert contrast >= LEAST_CONTRAST, f"{text} in {scheme}: {contrast}"
    for colour in ("blue", "teal", "violet", "amber", "red", "slate"):
        mark = page.locator(f".legend .{colour}").first
        contrast = await mark.evaluate(
            CONTRAST.replace("(element).color", '(element, "::before").backgroundColor')
        )
        assert contrast >= LEAST_OF_LINES, f"{colour} in {scheme}: {contrast}"


async def test_it_fits_a_phone_and_speaks_chinese(browser: Browser, running: Demo) -> None:
    size = {"width": 360, "height": 740}
    page = (await opened(browser, running.gateway.url, viewport=size, locale="zh-CN")).page
    await drawn(page)
    await expect(page.locator("#health")).to_have_text("正常")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.get_attribute("html", "lang") == "zh-CN"
    await page.click("#language")
    await expect(page.locator("#tile-rate dt")).to_have_text("Requests a second")
    assert await page.get_attribute("html", "lang") == "en"


async def test_the_page_does_not_grow_while_it_is_looked_at(browser: Browser, running: Demo) -> None:
    page = (await opened(browser, running.gateway.url)).page
    await drawn(page)
    count = "document.querySelectorAll('*').length"
    sizes = []
    for _ in range(3):
        told = await page.locator("#tile-uptime .value").inner_text()
        await expect(page.locator("#tile-uptime .value")).not_to_have_text(told, timeout=PATIENCE_MS)
        await asyncio.sleep(5)  # the tables are made anew so often
        sizes.append(await page.evaluate(count))
    assert sizes[2] <= sizes[0] + 20  # a route or two that were asked for meanwhile


async def test_a_pause_looks_no_more_and_goes_on(browser: Browser, running: Demo) -> None:
    page = (await opened(browser, running.gateway.url)).page
    await drawn(page)
    await page.click("#pause")
    await expect(page.locator("#link")).to_have_text("paused")
    async with asyncio.timeout(60):
        while await viewers(running):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.2)
    await page.click("#pause")
    await expect(page.locator("#link")).to_have_text("live", timeout=PATIENCE_MS)
    assert await viewers(running) == 1


async def viewers(running: Demo) -> int:
    async with httpx.AsyncClient(base_url=running.gateway.url, trust_env=False, timeout=30) as http:
        return int((await http.get("/api/stats")).json()["viewers"])


async def test_a_gateway_that_comes_back_is_found_again(browser: Browser, tmp_path: Path) -> None:
    port = f"--port={free_port()}"
    with spawned(tmp_path, port) as gateway:
        page = (await opened(browser, gateway.url)).page
        await expect(page.locator("#link")).to_have_text("live", timeout=PATIENCE_MS)
        await asyncio.to_thread(gateway.stop)
    await expect(page.locator("#link")).to_have_text("connecting …", timeout=PATIENCE_MS)
    with spawned(tmp_path, port):
        await expect(page.locator("#link")).to_have_text("live", timeout=PATIENCE_MS)
        await expect(page.locator("#error")).to_be_hidden()
