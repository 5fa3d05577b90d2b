"""What a request says in its body, its query and its path, read and checked for a view."""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError

from backend.context import body, inbound
from backend.errors import BadRequest, NotFound
from backend.schemas.base import nested
from backend.services.forwarding import MEGABYTE
from backend.services.headers import first
from backend.services.multipart import small_form
from backend.services.small_json import json_object, small_json
from backend.services.streams import small_body

M = TypeVar("M", bound=BaseModel)

# What every database can hold as a number of a row.
MOST_ID_DIGITS = 9


async def json_body(model: type[M]) -> M:
    """Read and check a JSON object. Raises BadRequest that names the field, and TooLarge."""
    return checked(model, await small_json(body(MEGABYTE), MEGABYTE))


async def json_body_or_none(model: type[M]) -> M | None:
    """Read and check a JSON object that may be left out. Raises BadRequest and TooLarge."""
    content = await small_body(body(MEGABYTE), MEGABYTE)
    return checked(model, json_object(content)) if content else None


def query(model: type[M]) -> M:
    """Read and check the query string. Raises BadRequest that names the parameter."""
    try:
        pairs = parse_qsl(
            inbound().query.decode("ascii"), keep_blank_values=False, errors="strict", max_num_fields=100
        )
    except ValueError as exc:  # also what is no UTF-8
        raise BadRequest("The query string is malformed.") from exc
    return checked(model, nested(dict(pairs)))


def checked(model: type[M], fields: Mapping[str, Any]) -> M:
    """Return what the fields say. Raises BadRequest that names the first one that is wrong."""
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        error = exc.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in error["loc"])
        raise BadRequest(_spoken(name, error["type"], error["msg"])) from exc


_KINDS = {
    "missing": "is missing.",
    "string_too_short": "is too short.",
    "string_type": "needs to be text.",
    "int_type": "needs to be a whole number.",
    "int_parsing": "needs to be a whole number.",
    "bool_type": "needs to be true or false.",
    "bool_parsing": "needs to be true or false.",
    "string_pattern_mismatch": "has characters or a form that are not allowed.",
    "string_unicode": "has characters that do not exist.",
}


def _spoken(name: str, kind: str, text: str) -> str:
    if kind in _KINDS:
        return f"{name} {_KINDS[kind]}"
    return f"{name}: {text[:1].lower()}{text[1:]}." if name else f"{text}."


def row_id(text: str) -> int:
    """Return the number of a row as a path spells it, leading zeros or not. Raises NotFound."""
    digits = text.lstrip("0") if text.isascii() and text.isdigit() else ""
    if not 0 < len(digits) <= MOST_ID_DIGITS:
        raise NotFound
    return int(digits)


async def form_fields() -> dict[str, str]:
    """Read the text fields of a small form, urlencoded or multipart."""
    content_type = first(inbound().headers, b"content-type") or b""
    return await small_form(body(MEGABYTE), content_type)


async def form_field(name: str) -> str | None:
    """Read one field of a small form."""
    return (await form_fields()).get(name)


async def form(model: type[M]) -> M:
    """Read and check a small form. Raises BadRequest that names the field, UnsupportedMedia and TooLarge."""
    return checked(model, await form_fields())
