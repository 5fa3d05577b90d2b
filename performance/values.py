"""What may stand behind an option: texts from the command line, made into values or refused."""

import argparse
from urllib.parse import urlsplit

MOST_USERS = 20_000  # one client address has about 28,000 local ports towards one server
MOST_STEPS = 50
MOST_SERIAL_CALLS = 1_000
MOST_CALLS = 10_000_000
MOST_ROUNDS = 100
LONGEST_TIMEOUT_SECONDS = 3_600.0
LONGEST_RUN_SECONDS = 86_400.0
LONGEST_THINK_SECONDS = 600.0


def http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise argparse.ArgumentTypeError("expected something like http://127.0.0.1:8203")
    if parts.username is not None or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("expected scheme, host, port and perhaps a path, nothing else")
    return text.rstrip("/")


def absolute_path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise argparse.ArgumentTypeError("expected a path that begins with /")
    return text


def whole_number(text: str, most: int = MOST_SERIAL_CALLS) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {most:,}")
    return int(text)


def rounds(text: str) -> int:
    return whole_number(text, MOST_ROUNDS)


def calls(text: str) -> int:
    return whole_number(text, MOST_CALLS)


def ladder(text: str) -> tuple[int, ...]:
    steps = text.split(",")
    if len(steps) > MOST_STEPS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_STEPS} steps")
    return tuple(whole_number(step.strip(), MOST_USERS) for step in steps)


def seconds(text: str, most: float = LONGEST_TIMEOUT_SECONDS) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, at most {most:,.0f}")
    return value


def run_seconds(text: str) -> float:
    return seconds(text, LONGEST_RUN_SECONDS)


def think(text: str) -> tuple[float, float]:
    """`1-5`, `2` or `0`."""
    low, dash, high = text.partition("-")
    try:
        bounds = float(low), float(high if dash else low)
    except ValueError:
        bounds = (-1.0, -1.0)
    if not 0 <= bounds[0] <= bounds[1] <= LONGEST_THINK_SECONDS:
        most = f"{LONGEST_THINK_SECONDS:,.0f}"
        raise argparse.ArgumentTypeError(f"expected seconds as 1-5 or 2 or 0, at most {most}")
    return bounds


def seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError("expected a whole number")
    return int(text)
