"""Writes docs/configuration.md from the settings: `python -m scripts.document_settings [--check]`."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from backend import forms
from backend.config import Mount, Settings

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"

HEAD = """\
# Settings

This page is generated from [backend/config.py](../backend/config.py); change it there and run
`python -m scripts.document_settings`.

Settings come from the environment, or from a file `.env` in the folder where the gateway starts. The
environment wins over the file, and options of `run.py` win over both. An empty value counts as unset.
All of them are checked together before anything is opened: every bad value, and every unknown name that
begins with `GATEWAY_`, is reported in one go with its name and the allowed form. Values marked *secret*
are never printed.
"""

# Field that begins a section -> its heading. A field that nobody sorted ends up in the section above it.
SECTIONS = {
    "host": "Listening",
    "avatar_service_url": "Services behind the gateway",
    "upstream_transport": "The upstream client",
    "gateway_mounts": "Pass-through mounts",
    "database_url": "State, sign-in, logs",
    "gateway_view_threads": "Limits, TLS, files",
}

FORMS: dict[object, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    Path: "path",
    SecretStr: "text, *secret*",
    forms.BaseUrls: "`http://host:port`, several with commas",
    forms.PortRange: "`8615-8714`",
    forms.Origins: "list with commas",
    forms.HttpVersions: "`http://host:port=2`, several with commas",
    forms.RateLimit: "`20/minute`",
    forms.Seconds: "seconds",
    forms.SigningKey: "text, *secret*",
    forms.TraceOutlet: "`off`, `console`, `file:PATH` or `http://host:port/path`",
    tuple[Mount, ...]: "JSON list",
}

MOUNT_HEAD = "Each object of the list has these fields:"
MOUNT_MEANINGS = {
    "prefix": "Path prefix that belongs to the upstream; the rest of the path travels on byte for byte.",
    "upstream": "Where it leads, several addresses with commas; a path of their own is put in front.",
    "auth": "Whether a sign-in is needed, checked only when sent, or not looked at. Checked tokens end here.",
    "methods": "Methods that pass.",
    "max_body_mb": "Largest request body.",
    "timeout": "Seconds to the first byte of the answer, and between bytes.",
    "total": "Seconds that a whole call may take, its body included; unset: a stream may go on for ever.",
    "cookies": "Whether cookies pass, both ways.",
    "max_calls": "Calls that the upstream gets at once, all its addresses together, from first byte to last; "
    "half as many more wait for a place. Unset: what `UPSTREAM_MAX_CONNECTIONS` says.",
    "http_version": "HTTP version of the upstream, where it differs from UPSTREAM_HTTP_VERSION.",
    "websocket": "Whether WebSockets pass, over HTTP/1.1 on both sides; GET has to be among the methods.",
    "max_sockets": "WebSockets open at once in a worker; others get 503.",
    "max_message_mb": "Largest message of a WebSocket in MiB, either way; a larger one closes it with 1009.",
    "socket_idle": "Seconds without any frame, pings included, after which a WebSocket is closed with 1001.",
    "socket_total": "Seconds that a WebSocket may be open; unset: for as long as both sides like.",
}


def page() -> str:
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield HEAD
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            if name != next(iter(SECTIONS)):
                yield ""
            yield f"## {SECTIONS[name]}\n"
            yield from _table_head("name")
        yield _row(name.upper(), field, field.description or "")
        if name == "gateway_mounts":
            yield f"\n{MOUNT_HEAD}\n"
            yield from _table_head("field")
            yield from (_row(key, item, MOUNT_MEANINGS[key]) for key, item in Mount.model_fields.items())
    yield ""


def _table_head(first: str) -> Iterator[str]:
    yield f"| {first} | default | form | meaning |"
    yield "|---|---|---|---|"


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    cells = (f"`{name}`", _default(field), _form(field), meaning)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "none, needed"
    if value is None or value == ():
        return "unset"
    return f"`{_spelled(value)}`"


def _spelled(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ("-" if all(isinstance(item, int) for item in value) else ",").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _form(field: FieldInfo) -> str:
    kind = _without_none(field.annotation)
    if field.metadata:
        kind = Annotated[kind, *field.metadata] if Annotated[kind, *field.metadata] in FORMS else kind
    return _spoken(kind) + _range(field.metadata)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [item for item in get_args(kind) if item is not type(None)]
    return kind


def _spoken(kind: Any) -> str:
    if kind in FORMS:
        return FORMS[kind]
    if get_origin(kind) is Literal:
        return " or ".join(f"`{item}`" for item in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {_spoken(get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "JSON object"
    raise TypeError(f"say in FORMS how {kind} is written")


def _range(rules: list[Any]) -> str:
    least = next((f"{rule.ge:g}" for rule in rules if isinstance(rule, Ge)), None)
    above = next((f"{rule.gt:g}" for rule in rules if isinstance(rule, Gt)), None)
    most = next((f"{rule.le:g}" for rule in rules if isinstance(rule, Le)), None)
    if most is None:
        return ""
    return f", {least} to {most}" if above is None else f", above {above}, at most {most}"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    if not arguments:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        print("docs/configuration.md is old: run python -m scripts.document_settings", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
