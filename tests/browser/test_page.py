"""A page of another origin, as the frontend is one, in Chromium: what CORS, streams and uploads really do."""

from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Watched
from tests.contract.services import WORDS
from tests.contract.stage import Scene
from tests.support.frontend import FILM
from tests.support.gateway import PASSWORD

LOADED_BYTES = 8 << 20


@pytest_asyncio.fixture
async def watched(browser: Browser, scene: Scene, other_origin: int) -> Watched:
    watched = await Watched.opened(browser)
    await watched.page.goto(f"http://127.0.0.1:{other_origin}/?port={scene.served.port}")
    return watched


async def sign_in(page: Page, role: str, password: str = PASSWORD) -> None:
    await page.fill("[name=email]", f"{role}@test.local")
    await page.fill("[name=password]", password)
    await page.click("text=Sign in")


async def slowed(page: Page, bytes_a_second: int) -> None:
    network = await page.context.new_cdp_session(page)
    await network.send("Network.enable")
    rates = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_a_second}
    await network.send("Network.emulateNetworkConditions", {"offline": False, **rates})


@pytest.mark.asyncio
async def test_page_of_another_origin_signs_in_and_lists_avatars(watched: Watched, scene: Scene) -> None:
    await sign_in(watched.page, "student")
    await expect(watched.page.locator("#state")).to_have_text("signed in")
    await watched.page.locator("#avatars li").first.wait_for()
    listed = await watched.page.locator("#avatars li").all_inner_texts()
    assert "Ada Demo: active" in listed
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_page_may_read_the_words_of_an_error(watched: Watched) -> None:
    await sign_in(watched.page, "student", "Wrong-horse1!")
    await expect(watched.page.locator("#state")).to_contain_text("password")


@pytest.mark.asyncio
async def test_answer_grows_in_the_page_while_the_model_speaks(watched: Watched, scene: Scene) -> None:
    scene.model.pause_seconds = 0.25
    await sign_in(watched.page, "student")
    await expect(watched.page.locator("#state")).to_have_text("signed in")
    await watched.page.fill("[name=message]", "Why does light bend?")
    await watched.page.click("text=Ask")
    await expect(watched.page.locator("#state")).to_have_text("finished, closed")
    await expect(watched.page.locator("#answer")).to_have_text("".join(WORDS))
    growth = await watched.page.evaluate("growth")
    lengths = [length for _, length in growth]
    assert len({length for length in lengths if length}) == len(WORDS)
    assert growth[-1][0] - growth[0][0] > 500
    assert await watched.page.evaluate("lost") == []
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_upload_shows_its_progress_and_its_outcome(
    watched: Watched, scene: Scene, tmp_path: Path
) -> None:
    film = tmp_path / "face.mp4"
    film.write_bytes(FILM + bytes(LOADED_BYTES))
    await sign_in(watched.page, "tutor")
    await expect(watched.page.locator("#state")).to_have_text("signed in")
    await slowed(watched.page, LOADED_BYTES)  # as fast as it is, one step would be all
    await watched.page.set_input_files("#film", film)
    await expect(watched.page.locator("#upload")).to_have_text("200 success", timeout=30_000)
    steps = await watched.page.evaluate("steps")
    assert steps == sorted(steps)
    assert steps[-1] > LOADED_BYTES
    assert len(steps) > 1
    assert await watched.page.locator("#sent").evaluate("bar => bar.value") == 1
    assert watched.complaints == []


@pytest.mark.asyncio
async def test_upload_that_is_refused_tells_the_page_why(watched: Watched, tmp_path: Path) -> None:
    film = tmp_path / "face.mp4"
    film.write_bytes(b"this is no film")
    await sign_in(watched.page, "tutor")
    await expect(watched.page.locator("#state")).to_have_text("signed in")
    await watched.page.set_input_files("#film", film)
    await expect(watched.page.locator("#upload")).to_contain_text("415")
