import re
from pathlib import Path

import pytest

from backend.routes.console import FOLDER
from backend.services.pages import read_folder
from tests.support.frontend import Frontend
from tests.support.gateway import Served

FILES = sorted(read_folder(FOLDER))
SCRIPTS = [file.name for file in sorted(FOLDER.glob("*.js"))]


@pytest.mark.asyncio
async def test_console_is_a_page_that_nobody_signs_in_for(visitor: Frontend) -> None:
    answer = await visitor.get("/console")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<main" in answer.text


@pytest.mark.asyncio
@pytest.mark.parametrize("name", FILES)
async def test_every_file_may_run_nothing_but_files_of_this_origin(visitor: Frontend, name: str) -> None:
    answer = await visitor.get(f"/console/{name}")
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"


@pytest.mark.asyncio
async def test_a_known_version_is_not_sent_again(served: Served) -> None:
    http = served.http
    tag = (await http.get("/console/console.js")).headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        answer = await http.get("/console/console.js", headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    other = await http.get("/console/console.js", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/console/nothing.js", "/console/README.md", "/console/x/y", "/console/__init__"]
)
async def test_nothing_else_is_served(visitor: Frontend, path: str) -> None:
    answer = await visitor.get(path)
    assert answer.status_code == 404
    assert answer.json()["msg"]


@pytest.mark.asyncio
async def test_no_path_leads_out_of_the_folder(visitor: Frontend) -> None:
    for path in ("/console/..%2fconsole%2findex.html", "/console/%2e%2e/config.py"):
        assert (await visitor.get(path)).status_code in (400, 404)


def test_pages_ask_nothing_of_other_places_and_have_no_script_inside() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text(encoding="utf-8")
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w", text) == [], file.name
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", page) == []
    assert re.findall(r"\son\w+=|\sstyle=", page) == []


def test_modules_import_files_that_exist() -> None:
    for script in SCRIPTS:
        for path in re.findall(r'from "/console/([\w.]+)"', (FOLDER / script).read_text(encoding="utf-8")):
            assert Path(FOLDER / path).is_file()


def test_both_languages_have_every_text() -> None:
    english, chinese = (FOLDER / "words.js").read_text(encoding="utf-8").split("  zh: {")
    keys = [set(re.findall(r"(?<=[\s{])(\w+): \"", text)) for text in (english, chinese)]
    assert len(keys[0]) > 30
    assert keys[0] == keys[1]
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'data-(?:text|label)="(\w+)"', page)) <= keys[0]
