"""Writes the pages of settings in both languages: `python -m scripts.document_settings [--check]`.

What the Chinese page says stands in settings.zh-CN.json beside the English sentence that it translates, so
that a sentence which changed has none, and is asked for.
"""

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from backend import forms
from backend.config import Mount, Settings

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "configuration.md"
TWIN = DOCS / "configuration.zh-CN.md"
CHINESE = Path(__file__).with_name("settings.zh-CN.json")

HEAD = """\
# Settings

[中文](configuration.zh-CN.md)

This page is generated from [backend/config.py](../backend/config.py); change it there and run
`python -m scripts.document_settings`.

Settings come from the environment, or from a file `.env` in the folder where the gateway starts. The
environment wins over the file, and options of `run.py` win over both. An empty value counts as unset.
All of them are checked together before anything is opened: every bad value, and every unknown name that
begins with `GATEWAY_`, is reported in one go with its name and the allowed form. Values marked *secret*
are never printed.
"""
CHINESE_HEAD = """\
# 设置

[English](configuration.md)

本页由 [backend/config.py](../backend/config.py) 生成；请在那里和 `scripts/settings.zh-CN.json` 中修改，再运行
`python -m scripts.document_settings`。

设置来自环境变量，或网关启动目录中的 `.env` 文件。环境变量优先于文件，`run.py` 的选项又优先于两者。空值视为
未设置。打开任何东西之前，全部设置会一起检查：每个错误的值，以及每个以 `GATEWAY_` 开头的未知名称，都会连同名称
和允许的写法一次报告。标为 *机密* 的值绝不打印。
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
    return "\n".join(_lines(HEAD, str))


def chinese_page() -> str:
    """Raises KeyError for a sentence that nobody translated."""
    return "\n".join(_lines(CHINESE_HEAD, translations().__getitem__))


def translations() -> dict[str, str]:
    """English -> Chinese."""
    known: dict[str, str] = json.loads(CHINESE.read_text(encoding="utf-8"))
    return known


def _lines(head: str, say: Callable[[str], str]) -> Iterator[str]:
    yield head
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            if name != next(iter(SECTIONS)):
                yield ""
            yield f"## {say(SECTIONS[name])}\n"
            yield from _table_head("name", say)
        yield _row(name.upper(), field, field.description or "", say)
        if name == "gateway_mounts":
            yield f"\n{say(MOUNT_HEAD)}\n"
            yield from _table_head("field", say)
            for key, item in Mount.model_fields.items():
                yield _row(key, item, MOUNT_MEANINGS[key], say)
    yield ""


def _table_head(first: str, say: Callable[[str], str]) -> Iterator[str]:
    yield f"| {' | '.join(map(say, (first, 'default', 'form', 'meaning')))} |"
    yield "|---|---|---|---|"


def _row(name: str, field: FieldInfo, meaning: str, say: Callable[[str], str]) -> str:
    cells = (f"`{name}`", _default(field, say), _form(field, say), say(meaning))
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _default(field: FieldInfo, say: Callable[[str], str]) -> str:
    value = field.default
    if field.is_required():
        return say("none, needed")
    if value is None or value == ():
        return say("unset")
    return f"`{_spelled(value)}`"


def _spelled(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ("-" if all(isinstance(item, int) for item in value) else ",").join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _form(field: FieldInfo, say: Callable[[str], str]) -> str:
    kind = _without_none(field.annotation)
    if field.metadata:
        kind = Annotated[kind, *field.metadata] if Annotated[kind, *field.metadata] in FORMS else kind
    return _ranged(_spoken(kind, say), field.metadata, say)


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [item for item in get_args(kind) if item is not type(None)]
    return kind


def _spoken(kind: Any, say: Callable[[str], str]) -> str:
    if kind in FORMS:
        return say(FORMS[kind])
    if get_origin(kind) is Literal:
        return say(" or ").join(f"`{item}`" for item in get_args(kind))
    if get_origin(kind) is tuple:
        return say("list of {}").format(_spoken(get_args(kind)[0], say))
    raise TypeError(f"say in FORMS how {kind} is written")


def _ranged(form: str, rules: list[Any], say: Callable[[str], str]) -> str:
    least = next((f"{rule.ge:g}" for rule in rules if isinstance(rule, Ge)), None)
    above = next((f"{rule.gt:g}" for rule in rules if isinstance(rule, Gt)), None)
    most = next((f"{rule.le:g}" for rule in rules if isinstance(rule, Le)), None)
    if most is None:
        return form
    if above is None:
        return say("{}, {} to {}").format(form, least, most)
    return say("{}, above {}, at most {}").format(form, above, most)


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        pages = {PAGE: page(), TWIN: chinese_page()}
    except KeyError as untranslated:
        print(f"{CHINESE.name} does not say in Chinese: {untranslated}", file=sys.stderr)
        return 1
    if not arguments:
        for file, text in pages.items():
            file.write_text(text, encoding="utf-8")
        return 0
    old = [
        file.name
        for file, text in pages.items()
        if not file.exists() or file.read_text(encoding="utf-8") != text
    ]
    for name in old:
        print(f"docs/{name} is old: run python -m scripts.document_settings", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
