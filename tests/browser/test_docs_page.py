"""The viewer of the API document in Chromium."""

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import Watched
from tests.browser.contrast import CONTRAST, LEAST_CONTRAST
from tests.contract.stage import Scene


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_document_is_shown_in_full_and_from_this_origin_alone(
    browser: Browser, scene: Scene, scheme: str
) -> None:
    watched = await Watched.opened(browser, color_scheme=scheme)
    await watched.page.goto(f"{scene.served.url}/docs")
    await watched.page.locator(".opblock").first.wait_for()
    shown = await watched.page.locator(".opblock-summary-path").count()
    assert shown == len(scene.served.document.operations)
    await watched.page.locator('[data-path="/api/avatar/start"]').first.click()
    await watched.page.locator(".opblock-body .responses-table").first.wait_for()
    for text in (
        ".info .title",
        ".opblock-summary-path",
        ".opblock-description p",
        ".response-col_description",
    ):
        contrast = await watched.page.locator(text).first.evaluate(CONTRAST)
        assert contrast >= LEAST_CONTRAST, f"{text} in {scheme}: {contrast}"
    assert len(watched.asked) >= 6
    outside = [url for url in watched.asked if not url.startswith((scene.served.url, "data:"))]
    assert outside == []
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_operation_can_be_tried_from_the_page(browser: Browser, scene: Scene) -> None:
    watched = await Watched.opened(browser)
    await watched.page.goto(f"{scene.served.url}/docs")
    block = watched.page.locator("#operations-health-health_ping")
    await block.locator(".opblock-summary-control").click()
    await block.get_by_role("button", name="Try it out").click()
    await block.get_by_role("button", name="Execute").click()
    await block.locator(".live-responses-table .response-col_status").first.wait_for()
    assert "200" in await block.locator(".live-responses-table").first.inner_text()
    assert f"{scene.served.url}/api/ping" in watched.asked
    assert watched.complaints == []
