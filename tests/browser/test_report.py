"""The load script's page in a browser: wide and narrow, light and dark, without a request."""

import asyncio
import json
from pathlib import Path

import pytest
from playwright.async_api import Browser

from performance.run import main
from tests.support.scripted_gateway import scripted_gateway


def report(folder: Path) -> Path:
    path = folder / "run.html"
    with scripted_gateway() as gateway:
        gateway.fails_from = 12
        argv = ["--users", "1,2,5,10", "--serial-calls", "1", "--claims", "1", "--quiet", "--html", str(path)]
        main(["--base-url", gateway.url, *argv])
    return path


@pytest.mark.asyncio
async def test_page_fits_phones_and_follows_dark_without_a_request(browser: Browser, tmp_path: Path) -> None:
    path = await asyncio.to_thread(report, tmp_path)
    grounds, requests, complaints = [], [], []
    for width, scheme in ((375, "light"), (1280, "dark")):
        context = await browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if scheme == "dark" else "light"
        )
        page = await context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: complaints.append(line.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(path.as_uri())
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        grounds.append(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
        drawn = await page.evaluate("[...document.querySelectorAll('svg')].map(s => s.getBBox().width > 100)")
        assert drawn == [True] * len(drawn)
        assert len(drawn) == 4
        await context.close()
    assert grounds[0] != grounds[1]
    assert (set(requests), complaints) == ({path.as_uri()}, []), json.dumps(complaints)
