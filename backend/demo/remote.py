"""The `fault` command: flips the switches of a world that is running."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from backend.demo.faults import EVERY_FAULT, SECOND, SERVICES

# The control port answers at once or is not there.
ANSWER_SECONDS = 5.0


def flip(arguments: Sequence[str]) -> int:
    """Run `fault NAME` or `fault off`; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        status, answer = _ask(options)
    except OSError as error:
        print(f"no demo world answers at {options.control}: {error}", file=sys.stderr)
        return 1
    if status != http.client.OK:
        print(answer.get("detail", f"the control port answered {status}"), file=sys.stderr)
        return 1
    print(_summary(answer))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backend.demo fault", description="Make a service of the running demo world fail."
    )
    parser.add_argument("name", choices=[*EVERY_FAULT, "off"], help="the fault, or off to clear them all")
    parser.add_argument(
        "--service", choices=(*SERVICES, *SECOND), default="catalogue", help="who fails (default: catalogue)"
    )
    parser.add_argument("--path", default="*", help="which path, such as /avatar/preview (default: all)")
    parser.add_argument("--times", type=int, help="how many calls (default: until cleared)")
    parser.add_argument("--control", default="http://127.0.0.1:8690", metavar="URL", help="the control port")
    return parser


def _ask(options: argparse.Namespace) -> tuple[int, dict[str, object]]:
    if options.name == "off":
        return _call(options.control, "DELETE", None)
    switch = {"service": options.service, "path": options.path, "fault": options.name, "times": options.times}
    return _call(options.control, "PUT", json.dumps(switch))


def _call(control: str, method: str, body: str | None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(urlsplit(control).netloc, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, "/faults", body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def _summary(answer: dict[str, object]) -> str:
    faults = answer["faults"]
    return "\n".join(map(json.dumps, faults)) if isinstance(faults, list) and faults else "no faults"
