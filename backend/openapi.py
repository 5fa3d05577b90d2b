"""The API document (OpenAPI 3.1), made once from the routes and what is said beside their views."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from werkzeug.routing import Rule

from backend import VERSION
from backend.errors import GatewayError
from backend.operations import Choices, Content, Operation, Raw, operation_of
from backend.schemas.base import Problem

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]

BEARER = "bearer"
# `<int:number>` of a rule, `{number}` of the document.
VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
SECURITY: Mapping[str, list[Json]] = {
    "anyone": [],
    "caller": [{BEARER: []}],
    "tutor": [{BEARER: []}],
    "either": [{BEARER: []}, {}],
}
TAGS = {
    "auth": "Accounts, signing in and out.",
    "user": "The caller's own profile and notifications.",
    "chat": "Conversations and answers.",
    "avatar": "Avatars, and the caller's own one.",
    "webrtc": "Signalling with the caller's own avatar instance.",
    "knowledge": "Files and what the answers may draw on.",
    "admin": "What tutors look after.",
    "health": "Whether the gateway lives and can work.",
    "static": "Pictures.",
}
DESCRIPTION = """\
Addresses are relative to the gateway. Every error is JSON: `msg`, a sentence for the person who reads it,
`code` for programs, `request_id`, and `retryable`. Every answer carries `X-Request-ID`.

Sign in with `login` and send the token as `Authorization: Bearer <token>`. Pages of the same host may call
from any port; `CORS_ORIGINS` names others. Query parameters that an operation does not know are let be.
"""


def document(rules: Iterable[Rule], views: Mapping[str, Callable[..., Any]]) -> bytes:
    """Return the document as it is served."""
    operations = list(operations_of(rules, views))
    schemas = _Schemas(operations)
    paths: dict[str, Json] = {}
    for path, method, name, said in operations:
        paths.setdefault(path, {})[method.lower()] = _operation(path, name, said, schemas)
    statuses = sorted({status for _, _, _, said in operations for status in statuses_of(said)})
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "Avatar gateway", "version": VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [
            {"name": tag, "description": TAGS.get(tag, "")}
            for tag in sorted({said.tag for _, _, _, said in operations}, key=_place)
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                BEARER: {"type": "http", "scheme": "bearer", "description": "The token that login answered."}
            },
            "headers": {
                "RequestId": {"description": "Names this request in the log.", "schema": {"type": "string"}},
                "RetryAfter": {
                    "description": "Seconds after which asking again may help.",
                    "schema": {"type": "integer"},
                },
            },
            "responses": {f"Problem{status}": _problem(status) for status in statuses},
            "schemas": schemas.definitions,
        },
    }
    _forget_unnamed(whole)
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode()


def _forget_unnamed(whole: Json) -> None:
    """Drop schemas that nothing refers to: those of queries are told parameter by parameter."""
    schemas = whole["components"]["schemas"]
    text = json.dumps(whole)
    for name in list(schemas):
        if f'"#/components/schemas/{name}"' not in text:
            del schemas[name]


def operations_of(
    rules: Iterable[Rule], views: Mapping[str, Callable[..., Any]]
) -> Iterator[tuple[str, str, str, Operation]]:
    """Yield path, method, name and description of every operation that is said of a view."""
    for rule in rules:
        said = operation_of(views[rule.endpoint])
        path = VARIABLE.sub(r"{\1}", rule.rule)
        name = rule.endpoint.replace(".", "_")
        if isinstance(said, Choices):
            for value, (method, one) in said.operations.items():
                yield path.replace(f"{{{said.variable}}}", value), method, f"{name}_{value}", one
        elif said is not None:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield path, method, name, said


def statuses_of(said: Operation) -> set[int]:
    """Return the error statuses of an operation: those it names, and those that follow from the rest."""
    # Any request can have a target or framing that is refused.
    statuses = {400, *said.errors}
    if said.access in ("caller", "tutor"):
        statuses.add(401)
    if said.access == "tutor":
        statuses.add(403)
    if said.body is not None or said.form is not None:
        statuses |= {408, 413}
    if said.form is not None:
        statuses.add(415)
    if said.access != "anyone" or said.body is not None or said.form is not None:
        statuses.add(503)  # the store is asked
    return statuses - set(said.answers)


@lru_cache(maxsize=4)
def _schemas_of(types: tuple[tuple[Any, Mode], ...]) -> tuple[dict[Any, Json], Json]:
    """Return the schema of each type, by number and mode, and the definitions that they share.

    The same for every application of a process, and most of the work of making one.
    """
    inputs: list[tuple[int, Mode, TypeAdapter[Any]]] = [
        (number, mode, TypeAdapter(kind)) for number, (kind, mode) in enumerate(types)
    ]
    found, shared = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    return dict(found), dict(sorted(shared.get("$defs", {}).items()))


class _Schemas:
    """The schemas of everything that operations take and answer, with one set of definitions."""

    def __init__(self, operations: Iterable[tuple[str, str, str, Operation]]) -> None:
        self._types: list[tuple[Any, Mode]] = [(Problem, "serialization")]
        for _, _, _, said in operations:
            for content in said.answers.values():
                for one in _each(content):
                    self._add(one, "serialization")
            for content in (said.body, said.form, said.query):
                self._add(content, "validation")
        self._found, shared = _schemas_of(tuple(self._types))
        self.definitions = dict(shared)  # some are left out in the end

    def of(self, content: Content, mode: Mode) -> Json:
        if isinstance(content, Mapping):
            return dict(content)
        if isinstance(content, Raw):
            return dict(content.schema)
        return dict(self._found[self._types.index((content, mode)), mode])

    def properties(self, model: type[BaseModel], mode: Mode) -> tuple[Json, set[str]]:
        """Return a model's properties and which of them must be there."""
        schema = self.of(model, mode)
        if "$ref" in schema:
            schema = self.definitions[schema["$ref"].rpartition("/")[2]]
        return schema.get("properties", {}), set(schema.get("required", ()))

    def _add(self, content: Content, mode: Mode) -> None:
        known = content is None or isinstance(content, Mapping | Raw) or (content, mode) in self._types
        if not known:
            self._types.append((content, mode))


def _operation(path: str, name: str, said: Operation, schemas: _Schemas) -> Json:
    made: Json = {
        "operationId": name,
        "tags": [said.tag],
        "summary": said.summary,
        "security": SECURITY[said.access],
    }
    text = said.description + (" Tutors only." if said.access == "tutor" else "")
    if text:
        made["description"] = text.strip()
    if parameters := [*_in_path(path), *_in_query(said, schemas), *_in_headers(said)]:
        made["parameters"] = parameters
    if said.body is not None:
        made["requestBody"] = _json_body(said, schemas)
    elif said.form is not None:
        made["requestBody"] = _form_body(said.form, schemas)
    made["responses"] = {
        **{str(status): _answer(status, content, schemas) for status, content in said.answers.items()},
        **{
            str(status): {"$ref": f"#/components/responses/Problem{status}"}
            for status in sorted(statuses_of(said))
        },
    }
    return made


def _in_path(path: str) -> Iterator[Json]:
    for part in path.split("{")[1:]:
        yield {
            "name": part.partition("}")[0],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }


def _in_query(said: Operation, schemas: _Schemas) -> Iterator[Json]:
    if said.query is None:
        return
    properties, required = schemas.properties(said.query, "validation")
    for name, schema in properties.items():
        schema = dict(schema)
        text = {"description": schema.pop("description")} if "description" in schema else {}
        yield {"name": name, "in": "query", "required": name in required, **text, "schema": schema}
    if "page" in properties:
        yield {
            "name": "params",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "The same, as some pages send it: `params[page]=1`. It wins over the plain ones.",
            "schema": {"type": "object", "properties": properties},
        }


def _in_headers(said: Operation) -> Iterator[Json]:
    for name, meaning in said.headers.items():
        yield {"name": name, "in": "header", "description": meaning, "schema": {"type": "string"}}


def _json_body(said: Operation, schemas: _Schemas) -> Json:
    schema = schemas.of(said.body, "validation")
    kinds = said.body.content_types if isinstance(said.body, Raw) else ("application/json",)
    return {"required": said.body_required, "content": {kind: {"schema": schema} for kind in kinds}}


def _form_body(form: type[BaseModel], schemas: _Schemas) -> Json:
    schema = schemas.of(form, "validation")
    # A file travels in multipart only.
    has_file = '"format": "binary"' in json.dumps(schemas.properties(form, "validation")[0])
    kinds = ["multipart/form-data", *([] if has_file else ["application/x-www-form-urlencoded"])]
    return {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}


def _answer(status: int, content: Content | tuple[Content, ...], schemas: _Schemas) -> Json:
    made: Json = {"description": HTTPStatus(status).phrase + ".", "headers": _headers()}
    contents: Json = {}
    for one in _each(content):
        kinds = one.content_types if isinstance(one, Raw) else ("application/json",)
        schema = schemas.of(one, "serialization")
        contents |= {kind: {"schema": schema} if schema else {} for kind in kinds}
    if contents:
        made["content"] = contents
    return made


def _each(content: Content | tuple[Content, ...]) -> tuple[Content, ...]:
    if content is None:
        return ()
    return content if isinstance(content, tuple) else (content,)


def _problem(status: int) -> Json:
    codes = sorted({kind.code for kind in _kinds(GatewayError) if kind.status == status})
    headers = _headers()
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {
        "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{code}`" for code in codes) + ".",
        "headers": headers,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def _headers() -> Json:
    return {"X-Request-ID": {"$ref": "#/components/headers/RequestId"}}


def _kinds(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def _place(tag: str) -> tuple[int, str]:
    return (list(TAGS).index(tag) if tag in TAGS else len(TAGS), tag)
