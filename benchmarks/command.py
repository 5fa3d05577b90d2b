"""What the three commands share: options for reports, signals, exit codes."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from benchmarks.machine import Missing
from benchmarks.processes import Failure

FINE, SHORT, CANNOT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = """\
exit codes: 0 everything holds; 1 something falls short; 2 wrong usage, or something is not installed;
            3 a process or a call failed; 130 stopped with Ctrl-C
"""


def parser(module: str, description: str) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures there")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    return options


def between(lowest: float, highest: float) -> Callable[[str], float]:
    """Return an argument type: a number within these bounds, so that every load is bounded."""

    def number(text: str) -> float:
        value = float(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not within {lowest:g} to {highest:g}")
        return value

    return number


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not within {lowest} to {highest}")
        return value

    return number


def run(body: Callable[[Path], int]) -> NoReturn:
    """Run a command in a temporary folder; every way out passes through the blocks that stop processes."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
            sys.exit(body(Path(folder)))
    except Missing as error:
        print(f"Not installed: {error}", file=sys.stderr)
        sys.exit(CANNOT)
    except Failure as error:
        print(f"The measurement failed: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _terminated(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
