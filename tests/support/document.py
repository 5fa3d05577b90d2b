"""The API document as tests use it: every answer is held against what it promises."""

import json
import re
from functools import cached_property
from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker

# What the document leaves out: any path may be refused so before an operation is found.
OUTSIDE = {400, 401, 403, 404, 405, 408, 413, 431, 499, 503}


class Document:
    """Knows for each method and path which statuses, content types and fields an answer may have."""

    def __init__(self, content: bytes) -> None:
        self.content: dict[str, Any] = json.loads(content)
        self._validators: dict[str, Draft202012Validator] = {}

    @cached_property
    def operations(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Method and path template -> operation."""
        return {
            (method.upper(), path): operation
            for path, methods in self.content["paths"].items()
            for method, operation in methods.items()
        }

    @cached_property
    def _templates(self) -> list[tuple[re.Pattern[str], str]]:
        # The one with most letters of its own comes first: /chat/stream before /chat/{id}.
        paths = sorted(self.content["paths"], key=lambda path: -len(re.sub(r"\{\w+\}", "", path)))
        return [(re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(path))), path) for path in paths]

    def template_of(self, method: str, path: str) -> str | None:
        for pattern, template in self._templates:
            if pattern.fullmatch(path) and (method, template) in self.operations:
                return template
        return None

    def resolved(self, thing: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in thing:
            found: Any = self.content
            for name in thing["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            thing = found
        return thing

    def responses(self, method: str, template: str) -> dict[int, dict[str, Any]]:
        listed = self.operations[method, template]["responses"]
        return {int(status): self.resolved(response) for status, response in listed.items()}

    def errors_in(self, schema: dict[str, Any], value: object) -> list[str]:
        """Return what is wrong with a value, in words."""
        key = json.dumps(schema, sort_keys=True)
        validator = self._validators.get(key)
        if validator is None:
            whole = {**schema, "components": self.content["components"]}
            validator = Draft202012Validator(whole, format_checker=FormatChecker())
            self._validators[key] = validator
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    def undocumented(self, method: str, path: str, response: httpx.Response) -> list[str]:
        """Return in what an answer, whose body was read, differs from the document."""
        method = "GET" if method == "HEAD" else method
        status = response.status_code
        template = self.template_of(method, path)
        if template is None:
            # A mount, which answers as it likes. That no route is left out, test_openapi checks.
            return [] if status not in OUTSIDE or self._of_a_mount(response) else self._wrong(response)
        promised = self.responses(method, template)
        if status == 304:
            return []
        if status not in promised:
            return [f"status {status} is not documented for {method} {template}"]
        return self._wrong_content(promised[status], response)

    def _of_a_mount(self, response: httpx.Response) -> bool:
        return response.headers.get("content-type") != "application/json"

    def _wrong(self, response: httpx.Response) -> list[str]:
        problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        return self._wrong_content({"content": problem}, response)

    def _wrong_content(self, promised: dict[str, Any], response: httpx.Response) -> list[str]:
        if response.request.method == "HEAD":
            return []
        kind = response.headers.get("content-type", "").partition(";")[0].strip()
        contents = promised.get("content", {})
        if not contents:
            return [] if not response.is_stream_consumed or not response.content else ["a body where none is"]
        if kind not in contents and "*/*" not in contents:
            return [f"content type {kind or 'none'}, documented are {', '.join(contents)}"]
        if kind != "application/json":
            return []
        schema = contents[kind].get("schema")
        return [] if schema is None else self.errors_in(schema, response.json())

    async def check(self, response: httpx.Response) -> None:
        """Hook of an httpx client: fails the test at the first answer that the document does not promise."""
        request = response.request
        path = request.url.path
        if request.method == "OPTIONS" or not path.startswith(("/api/", "/static/")):
            return
        if "target" in request.extensions:
            return  # a target of the test's own making
        if response.headers.get("content-type") == "application/json":
            await response.aread()
        wrong = self.undocumented(request.method, path, response)
        assert not wrong, f"{request.method} {path} answered {response.status_code}: {'; '.join(wrong)}"
