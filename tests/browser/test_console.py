"""The console in a real Chromium, before a gateway that was started by `run.py --demo`.

Gateway, world and browser are one for all tests: each starts with no page open and no avatar on air.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserType, Page

from tests.browser.conftest import launched
from tests.browser.contrast import CONTRAST, LEAST_CONTRAST
from tests.support.demo import Demo
from tests.support.peer import until

pytest.importorskip("aiortc")
pytest.importorskip("espeakng_loader")

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

PASSWORD = "Demo-pass1!"
# For a busy machine; what is waited for takes a second or two on an idle one.
PATIENCE_MS = 60_000

# The largest mean change of a part of the picture within some frames; the part is given in shares of it.
MOTION = """async ([left, top, width, height]) => {
  const video = document.getElementById("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth * width;
  canvas.height = video.videoHeight * height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let before = null, most = 0, changed = 0;
  for (let frame = 0; frame < 25; frame += 1) {
    await new Promise(resolve => video.requestVideoFrameCallback(resolve));
    context.drawImage(video, -video.videoWidth * left, -video.videoHeight * top);
    const now = context.getImageData(0, 0, canvas.width, canvas.height).data;
    if (before) {
      let sum = 0;
      for (let i = 0; i < now.length; i += 1) sum += Math.abs(now[i] - before[i]);
      most = Math.max(most, sum / now.length);
      changed += sum > 0;
    }
    before = now;
  }
  return { most, changed };
}"""
MOUTH = [0.36, 0.56, 0.28, 0.2]
WHOLE = [0, 0, 1, 1]

# How loud the avatar is at most within a second.
LOUDNESS = """async () => {
  const context = new AudioContext();
  await context.resume();
  const source = context.createMediaStreamSource(document.getElementById("video").srcObject);
  const analyser = context.createAnalyser();
  source.connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let loudest = 0;
  for (let look = 0; look < 25; look += 1) {
    await new Promise(resolve => setTimeout(resolve, 40));
    analyser.getFloatTimeDomainData(samples);
    for (const sample of samples) loudest = Math.max(loudest, Math.abs(sample));
  }
  await context.close();
  return loudest;
}"""


@pytest_asyncio.fixture(loop_scope="module")
async def running(shared_demo: Demo) -> AsyncIterator[Demo]:
    yield shared_demo
    if engines(shared_demo.gateway.process.pid):
        await shared_demo.sign_in()
        await shared_demo.http.post("/api/avatar/disconnect")
        await until(lambda: engines(shared_demo.gateway.process.pid) == [], 30)


@pytest_asyncio.fixture(loop_scope="module")
async def chromium(shared_browser: Browser, running: Demo) -> AsyncIterator[Browser]:
    yield shared_browser
    for context in shared_browser.contexts:
        await context.close()


async def opened_console(chromium: Browser, running: Demo, **how: str) -> Page:
    page = await chromium.new_page(**how)
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(f"{running.gateway.url}/console")
    return page


async def met(page: Page, condition: str, length: int = 0) -> None:
    """Wait until a condition holds; the page's policy forbids the eval that Playwright would wait with."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not await page.evaluate(f"length => {condition}", length):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


async def signed_in(page: Page, role: str = "student") -> None:
    """Sign in by the keyboard alone."""
    await page.focus("#email")
    await page.keyboard.type(f"{role}@demo.local")
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#avatars button")


async def started(page: Page, avatar: str = "Ada Demo") -> None:
    await page.click(f"[data-avatar='{avatar}']")
    await page.wait_for_selector("#leave:not([hidden])")
    await met(page, "document.getElementById('video').videoWidth > 0")


async def ask(page: Page, question: str) -> None:
    await page.fill("#message", question)
    await page.press("#message", "Enter")


def engines(process: int) -> list[int]:
    """The media engines among the descendants of a process: one for each avatar that is on air."""
    found = []
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended while it was looked at
            for child in map(int, file.read_text().split()):
                if b"backend.demo.live" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
                found += engines(child)
    return found


async def disconnects(running: Demo) -> int:
    return int((await running.counters("manager"))["by_path"].get("/avatar/disconnect", 0))


async def test_a_newcomer_sees_and_hears_an_avatar_that_answers(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: said.type in ("error", "warning") and complaints.append(said.text))
    await signed_in(page)
    await page.wait_for_selector("#avatars img[src^='blob:']")
    await started(page)
    living = await page.evaluate(MOTION, WHOLE)
    assert living["changed"] > 10
    resting = (await page.evaluate(MOTION, MOUTH))["most"]

    await ask(page, "Why is the sky blue?")
    answer = page.locator("#log .theirs")
    await met(page, "document.querySelector('#log .theirs')?.textContent.length > 5")
    first = len(await answer.inner_text())
    await met(page, "document.querySelector('#log .theirs').textContent.length > length", first)
    await met(page, "document.getElementById('log').ariaBusy === 'false'")
    assert "blue" in await answer.inner_text()
    loudness = await page.evaluate(LOUDNESS)
    moving = (await page.evaluate(MOTION, MOUTH))["most"]
    assert loudness > 0.05
    assert moving > 2 * resting

    await page.click("#hush")
    await met(page, "!document.getElementById('hush').disabled")
    await page.wait_for_timeout(1000)
    assert (await page.evaluate(MOTION, MOUTH))["most"] < moving / 1.5

    assert len(engines(running.gateway.process.pid)) == 1
    released = await disconnects(running)
    await page.click("#leave")
    await until(lambda: engines(running.gateway.process.pid) == [], 30)
    assert await disconnects(running) == released + 1
    assert complaints == []
    outside = [url for url in asked if not url.startswith((running.gateway.url, "blob:", "data:"))]
    assert outside == []


async def leave_the_page(page: Page) -> None:
    await page.goto("about:blank")


async def close_the_tab(page: Page) -> None:
    """Close it as a frontend does that says nothing when it goes: only the instance knows."""
    await page.evaluate('addEventListener("pagehide", event => event.stopImmediatePropagation(), true)')
    await page.close()


async def kill_the_browser(page: Page) -> None:
    assert page.context.browser is not None
    devtools = await page.context.browser.new_browser_cdp_session()
    processes = (await devtools.send("SystemInfo.getProcessInfo"))["processInfo"]
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # the others end with the first
            os.kill(process["id"], signal.SIGKILL)


@pytest.mark.parametrize("leave", [leave_the_page, close_the_tab, kill_the_browser])
async def test_whoever_goes_frees_the_avatar(
    playing: BrowserType, running: Demo, leave: Callable[[Page], Awaitable[None]]
) -> None:
    browser = await launched(playing)
    try:
        page = await opened_console(browser, running)
        await signed_in(page)
        await started(page)
        assert len(engines(running.gateway.process.pid)) == 1
        released = await disconnects(running)
        await leave(page)
        # Within ten seconds on an idle machine, also of a browser that had no time to say goodbye.
        await until(lambda: engines(running.gateway.process.pid) == [], 30)
        assert await disconnects(running) == released + 1
    finally:
        await browser.close()


async def test_another_choice_switches_the_avatar(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    await signed_in(page)
    await started(page, "Ada Demo")
    await page.click("[data-avatar='Mei Lin']")
    await met(page, "document.getElementById('avatar-name').textContent === 'Mei Lin'")
    await met(page, "document.getElementById('curtain').hidden")
    assert (await page.evaluate(MOTION, WHOLE))["changed"] > 10
    assert await page.get_attribute("[data-avatar='Mei Lin']", "aria-pressed") == "true"
    assert await page.get_attribute("[data-avatar='Ada Demo']", "aria-pressed") == "false"
    await until(lambda: len(engines(running.gateway.process.pid)) == 1, 30)


async def test_an_avatar_that_dies_is_told_and_can_be_chosen_again(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    await running.put("/faults", service="instance", path="/offer", fault="code-1", times=1)
    await signed_in(page)
    await page.click("[data-avatar='Ada Demo']")
    await page.wait_for_selector("#error:not([hidden])")
    error = await page.inner_text("#error")
    assert "place" in error
    assert "127.0.0.1" not in error
    await started(page)
    assert await page.is_hidden("#error")


async def test_errors_are_said_in_plain_words(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    await page.fill("#email", "student@demo.local")
    await page.fill("#password", "not the password")
    await page.press("#password", "Enter")
    await page.wait_for_selector("#error:not([hidden])")
    assert await page.get_attribute("#error", "role") == "alert"
    assert "password" in (await page.inner_text("#error")).lower()
    assert await page.is_hidden("#room")


async def test_a_session_that_ended_elsewhere_leads_back_to_the_entry(
    chromium: Browser, running: Demo
) -> None:
    page = await opened_console(chromium, running)
    await signed_in(page)
    # A picture still to be asked for would notice before the question does.
    await met(page, "[...document.querySelectorAll('#avatars img')].every(image => image.src)")
    account = {"email": "student@demo.local", "password": PASSWORD}
    await running.http.post("/api/login", json=account)
    await page.wait_for_timeout(1500)  # revocations are known within a second
    await ask(page, "Hello?")
    await page.wait_for_selector("#entry:not([hidden])")
    assert "sign in again" in await page.inner_text("#error")


async def test_a_document_is_uploaded_and_asked_about(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    await signed_in(page)
    content = b"The laboratory cat of our physics department is called Schroedinger and sleeps in room 407."
    file = {"name": "cat.txt", "mimeType": "text/plain", "buffer": content}
    await page.set_input_files("#file", file)
    await page.click("#upload button")
    await met(page, "document.getElementById('upload-state').textContent.includes('cat.txt')")
    await ask(page, "In which room does the laboratory cat of the physics department sleep?")
    await met(page, "document.getElementById('log').textContent.includes('407')")


async def test_a_tutor_creates_an_avatar_and_a_student_cannot(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    await signed_in(page)
    assert await page.is_hidden("#workshop")
    await page.click("#sign-out")
    await page.wait_for_selector("#entry:not([hidden])")
    await signed_in(page, "tutor")
    await page.fill("#new-name", "Grace Demo")
    await page.wait_for_selector("#new-engine option", state="attached")
    film = b"\x00\x00\x00\x18ftypmp42" + bytes(3_000_000)
    file = {"name": "grace.mp4", "mimeType": "video/mp4", "buffer": film}
    await page.set_input_files("#new-face", file)
    await page.click("#make button")
    await page.wait_for_selector("[data-avatar='Grace Demo']")
    assert "created" in await page.inner_text("#make-state")


async def test_the_page_speaks_the_browsers_language_and_another_at_a_click(
    chromium: Browser, running: Demo
) -> None:
    page = await opened_console(chromium, running, locale="zh-CN")
    assert await page.inner_text("#sign-in button") == "登录"
    assert await page.get_attribute("html", "lang") == "zh-CN"
    await page.click("#language")
    assert await page.inner_text("#sign-in button") == "Sign in"
    await page.reload()
    assert await page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everything_has_a_name_and_enough_contrast(
    chromium: Browser, running: Demo, scheme: str
) -> None:
    page = await opened_console(chromium, running, color_scheme=scheme)
    await signed_in(page, "tutor")
    nameless = await page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, select, button, video, progress, img")]
          .filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim() || e.alt === ""))
          .map(e => e.outerHTML)"""
    )
    assert nameless == []
    for text in ("h1", "h2", "#who", "label", "#avatars small", "#send, .strong", ".quiet", "#curtain"):
        contrast = await page.locator(text).locator("visible=true").first.evaluate(CONTRAST)
        assert contrast >= LEAST_CONTRAST, f"{text} in {scheme}: {contrast}"


async def test_events_are_whole_however_the_network_cuts_them(chromium: Browser, running: Demo) -> None:
    page = await opened_console(chromium, running)
    text = await page.evaluate(
        """async () => {
          const gateway = await import("/console/gateway.js");
          const events = [{ chunk: "天空是" }, { chunk: "蓝色的 – blue" }, { status: "finished" }];
          const whole = ": beat\\n\\n" + events.map(e => `data: ${JSON.stringify(e)}\\n\\n`).join("");
          const bytes = new TextEncoder().encode(whole);
          window.fetch = async () => new Response(new ReadableStream({
            start(stream) {
              for (const byte of bytes) stream.enqueue(new Uint8Array([byte]));
              stream.close();
            },
          }));
          let text = "";
          await gateway.stream("/chat/stream", new FormData(), e => { text += e.chunk ?? e.status; });
          return text;
        }"""
    )
    assert text == "天空是蓝色的 – bluefinished"
