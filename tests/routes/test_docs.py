"""The API document and its viewer as browsers get them."""

import re

import pytest

from backend.routes.docs import FILES, POLICY, WEB
from tests.support.frontend import Frontend, refused

ADDRESSES = ["/docs", "/docs/openapi.json", *(f"/docs/{name}" for name in FILES)]


@pytest.mark.asyncio
@pytest.mark.parametrize("address", ADDRESSES)
async def test_viewer_is_served_to_everybody_and_allows_no_other_origin(
    visitor: Frontend, address: str
) -> None:
    answer = await visitor.http.get(address)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "*" not in policy
    assert int(answer.headers["content-length"]) == len(answer.content) > 0


@pytest.mark.asyncio
async def test_what_the_browser_has_is_not_sent_again(visitor: Frontend) -> None:
    for address in ADDRESSES:
        tag = (await visitor.http.get(address)).headers["etag"]
        for sent in (tag, f'"x", W/{tag}'):
            again = await visitor.http.get(address, headers={"If-None-Match": sent})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        assert (await visitor.http.get(address, headers={"If-None-Match": '"x"'})).status_code == 200


@pytest.mark.asyncio
async def test_document_is_json_of_the_right_version(visitor: Frontend) -> None:
    answer = await visitor.http.get("/docs/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["openapi"] == "3.1.0"
    assert "/api/avatar/list" in answer.json()["paths"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    ["/docs/x", "/docs/docs.html", "/docs/swagger-ui/LICENSE", "/docs/README.md", "/docs/app.py"],
)
async def test_nothing_else_below_docs_is_served(visitor: Frontend, path: str) -> None:
    refused(await visitor.http.get(path), 404, "not_found")


@pytest.mark.asyncio
async def test_document_cannot_be_written_to(visitor: Frontend) -> None:
    refused(await visitor.http.post("/docs/openapi.json", content=b"{}"), 405)


def test_page_names_nothing_outside_the_gateway() -> None:
    page = (WEB / "docs.html").read_text("utf-8")
    addresses = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(addresses) > 4
    assert {address.partition("/docs/")[0] for address in addresses} <= {"", "data:,"}
    assert "validatorUrl: null" in (WEB / "docs.js").read_text("utf-8")
    assert b"unsafe-eval" not in POLICY


def test_vendored_files_say_what_they_are_and_under_which_licence() -> None:
    folder = WEB / "swagger-ui"
    assert "Apache License" in (folder / "LICENSE").read_text("utf-8")
    assert (folder / "NOTICE").exists()
    assert re.search(r"swagger-ui-dist` \d+\.\d+\.\d+", (WEB / "README.md").read_text("utf-8"))
    assert not list(folder.glob("*.map"))
