"""What holds in every test."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.support import thrift

thrift.begin()

BACKEND = str(Path(__file__).parents[1] / "backend")
# What tests use themselves to prepare and to look: they may hold up a loop of their own.
TOOLS = (str(Path(BACKEND) / "services" / "database.py"), str(Path(BACKEND) / "models"))


def _of_the_program_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        file = frame.f_code.co_filename
        if file.startswith(BACKEND) and not file.startswith(TOOLS):
            return True
    return False


@pytest.fixture(autouse=True)
def database_work_stays_off_the_loop() -> Iterator[None]:
    """Fail a test in which a statement ran on an event loop, where it would hold everybody up."""
    caught: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _of_the_program_on_a_loop():
            caught.append(statement)

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)
    assert not caught, f"statements on an event loop: {caught[:3]}"
