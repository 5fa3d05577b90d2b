"""Loaded by every Python of a gateway that is measured: a signal stops, another resumes the notes.

The same process is compared with itself, because two that are alike differ by more than what is looked for.
Only what is noted of each call is switched; what is done once a second goes on.
"""

import gc
import signal
from types import FrameType
from typing import Any

STOP, RESUME = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
# Class of the gateway -> attribute -> its value while nothing is noted.
SWITCHES: dict[str, dict[str, Any]] = {
    "backend.observer.Observer": {"_figures": None},
    "backend.asgi.Bridge": {"_timed": False, "_tracer": None},
}
Found = list[tuple[Any, dict[str, Any]]]
_found: Found | None = None


def _switch(number: int, _: FrameType | None) -> None:
    global _found
    if _found is None:  # once, also in a process that serves nobody and has nothing to switch
        _found = _all()
    for one, values in _found:
        off = SWITCHES[f"{type(one).__module__}.{type(one).__qualname__}"]
        for name, value in (off if number == STOP else values).items():
            setattr(one, name, value)


def _all() -> Found:
    gc.unfreeze()  # what the gateway froze at its start is not listed
    found: Found = []
    for one in gc.get_objects():
        attributes = SWITCHES.get(f"{type(one).__module__}.{type(one).__qualname__}")
        if attributes is not None:
            found.append((one, {name: getattr(one, name) for name in attributes}))
    gc.freeze()
    return found


signal.signal(STOP, _switch)
signal.signal(RESUME, _switch)
