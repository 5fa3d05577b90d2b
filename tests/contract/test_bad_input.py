"""Every field of every operation of the document, spoilt in every way."""

import json
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any, cast

import httpx
import pytest
import pytest_asyncio

from tests.contract.fuzz import ENDLESS, UNLIMITED
from tests.contract.stage import Scene, opened_scene
from tests.support.gateway import PASSWORD

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON, URLENCODED, MULTIPART = "application/json", "application/x-www-form-urlencoded", "multipart/form-data"
ABSENT = object()
HOSTILE = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "'; DROP TABLE user; --",
    "a\r\nSet-Cookie: stolen=1",
    "\x00",
]
TEXTS = ["", "x" * 100_000, *HOSTILE]
OTHER_TYPES: list[Any] = [[], {}, ["a"], {"$ne": None}, 1e400, "half \ud800"]
PATHS = ["0", "-1", "9" * 40, "x", "%00", "..%2F..%2Fetc", "1%20OR%201=1", "%ED%A0%80", "%0D%0ASet-Cookie:x"]
# Somebody else's, or nobody's: no call may succeed so well that the caller's own sign-in ends.
WELL: dict[str, Any] = {
    "password": PASSWORD,
    "new_password": PASSWORD,
    "code": "000000",
    "role": "student",
    "status": "active",
    "purpose": "register",
    "avatar_name": "test_yongen",
    "type": "echo",
}
BY_TYPE: dict[str, Any] = {"string": "text", "integer": 1, "boolean": True}
numbers = count()


class Spoiling:
    """Calls as a tutor, and what came back that is not as it should be."""

    def __init__(self, scene: Scene, token: str, user: str) -> None:
        self.scene = scene
        self.document = scene.served.document
        self.wrong: list[str] = []
        self.calls = 0
        self._headers = {"Authorization": f"Bearer {token}"}
        self._user = user

    def bodies(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        for (method, template), operation in self.document.operations.items():
            if template == "/api/logout":
                continue  # it has no fields, and succeeds whatever is sent
            body = self.document.resolved(operation.get("requestBody", {}))
            contents = body.get("content", {})
            for kind, content in contents.items():
                if kind == MULTIPART and URLENCODED in contents:
                    continue  # the same fields, read by the same rules
                yield method, template, kind, self.document.resolved(content["schema"])

    def address(self, template: str) -> str:
        return template.replace("{user_id}", self._user).replace("{chat_id}", "1")

    def well(self, schema: dict[str, Any]) -> dict[str, Any]:
        """A body with every field, each of the right form."""
        return {name: self._value(name, part) for name, part in schema.get("properties", {}).items()}

    def _value(self, name: str, schema: dict[str, Any]) -> Any:
        if name == "email":
            return f"nobody{next(numbers)}@school.example"
        schema = self.document.resolved(schema)
        kinds = [schema, *map(self.document.resolved, schema.get("anyOf", []))]
        named = next((one["type"] for one in kinds if "type" in one), "string")
        return WELL.get(name, BY_TYPE.get(named if isinstance(named, str) else named[0], "text"))

    async def send(self, method: str, template: str, kind: str, body: dict[str, Any]) -> int:
        body = {name: value for name, value in body.items() if value is not ABSENT}
        what: dict[str, Any] = {"data": body}
        if kind == MULTIPART:
            what = {
                "files": {name: (None, _text(value)) for name, value in body.items()} or {"": (None, b"")}
            }
        elif kind == JSON:
            what = {"content": json.dumps(body), "headers": {"Content-Type": JSON}}
        headers = self._headers | what.pop("headers", {})
        told = f"{method} {template} as {kind} with {ascii(body)[:200]}"
        return await self.ask(told, method, self.address(template), headers=headers, **what)

    async def right(self) -> bool:
        """Whether nothing was wrong, and the sign-in lives that everything was tried with."""
        assert self.wrong == []
        return await self.ask("the sign-in", "GET", "/api/user/profile") == 200

    async def ask(self, told: str, method: str, path: str, **what: Any) -> int:
        what.setdefault("headers", self._headers)
        self.calls += 1
        try:
            answer = await self.scene.served.http.request(method, path, **what)
        except AssertionError as exc:  # an answer that the document does not promise
            self.wrong.append(f"{told}: {exc}")
            return 0
        for trouble in _troubles(answer):
            self.wrong.append(f"{told}: {answer.status_code}: {trouble}")
        return answer.status_code


def _text(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _troubles(answer: httpx.Response) -> Iterator[str]:
    if answer.status_code == 500:
        yield "a mistake of ours"
    if "set-cookie" in answer.headers:
        yield "a header of the caller's making"
    if answer.status_code >= 400:
        said = answer.json()
        if not (isinstance(said.get("msg"), str) and said["msg"]):
            yield "no words"
        if any(inside in answer.text for inside in ("Traceback", "sqlalchemy", "psycopg", "127.0.0.1")):
            yield "something internal"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def spoiling(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Spoiling]:
    async with opened_scene(tmp_path_factory.mktemp("spoilt"), **UNLIMITED) as scene:
        page = await scene.signed_in("tutor")
        person = {"email": "spare@school.example", "password": PASSWORD, "username": "s", "role": "student"}
        spare = await page.axios("POST", "/api/admin/users", json=person)
        started = await page.axios("POST", "/api/avatar/start", data={"avatar_name": "test_yongen"})
        assert started.status_code == 200
        yield Spoiling(scene, cast(str, page.token), str(spare.json()["user_id"]).removeprefix("U"))


async def test_field_that_is_needed_is_asked_for_in_words(spoiling: Spoiling) -> None:
    spoiling.wrong.clear()
    for method, template, kind, schema in spoiling.bodies():
        for field in schema.get("required", []):
            status = await spoiling.send(method, template, kind, spoiling.well(schema) | {field: ABSENT})
            if not 400 <= status < 500:
                spoiling.wrong.append(f"{method} {template} without {field}: {status}")
    assert await spoiling.right()
    assert spoiling.calls > 30


async def test_field_of_another_type_or_encoding_is_refused(spoiling: Spoiling) -> None:
    spoiling.wrong.clear()
    for method, template, kind, schema in spoiling.bodies():
        for field in schema.get("properties", {}) if kind == JSON else ():
            for value in OTHER_TYPES:
                body = spoiling.well(schema) | {field: value}
                status = await spoiling.send(method, template, kind, body)
                ignored = (template, field) in (("/api/login", "sessionid"), ("/api/register", "role"))
                if not ignored and not 400 <= status < 500:
                    spoiling.wrong.append(f"{method} {template} with {field}={value!a}: {status}")
    assert await spoiling.right()


async def test_text_that_is_empty_endless_or_hostile_is_refused_or_only_text(spoiling: Spoiling) -> None:
    spoiling.wrong.clear()
    for method, template, kind, schema in spoiling.bodies():
        for field in schema.get("properties", {}):
            for value in TEXTS:
                await spoiling.send(method, template, kind, spoiling.well(schema) | {field: value})
    # Nothing of it was half written: whoever asks for everything gets it, and as the document says.
    for path in ("/api/admin/users", "/api/admin/user-action-logs", "/api/chat/history"):
        assert await spoiling.ask(path, "GET", path) == 200
    assert await spoiling.right()


async def test_body_that_is_no_text_is_refused(spoiling: Spoiling) -> None:
    spoiling.wrong.clear()
    for method, template, kind, schema in spoiling.bodies():
        content_type = f"{MULTIPART}; boundary=b" if kind == MULTIPART else kind
        for content in (b"\xff\xfe\x00", b"--b\r\nContent-Disposition: form-data; name=\xff\r\n\r\n\xff\r\n"):
            headers = spoiling._headers | {"Content-Type": content_type}
            told, path = f"{method} {template} as {kind}: {content!r}", spoiling.address(template)
            status = await spoiling.ask(told, method, path, content=content, headers=headers)
            if schema.get("required") and not 400 <= status < 500:
                spoiling.wrong.append(f"{told}: {status}")
    assert await spoiling.right()


async def test_address_that_names_nothing_is_told_so_and_reaches_nothing(spoiling: Spoiling) -> None:
    spoiling.wrong.clear()
    for (method, template), operation in spoiling.document.operations.items():
        for parameter in map(spoiling.document.resolved, operation.get("parameters", [])):
            for value in PATHS if template not in ENDLESS else ():
                path, place = template, parameter["in"]
                if place == "path":
                    path = template.replace(f"{{{parameter['name']}}}", value)
                elif place == "query":
                    path = f"{template}?{parameter['name']}={value}"
                status = await spoiling.ask(f"{method} {path}", method, path)
                if place == "path" and not 400 <= status < 500:
                    spoiling.wrong.append(f"{method} {path}: {status}")
    assert await spoiling.right()
