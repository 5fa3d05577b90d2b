import asyncio
import io
import json
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from backend.services.logs import QueuedHandler
from backend.services.redaction import Redaction
from backend.services.trail import TRAIL, Trail


class Terminal(io.StringIO):
    """Takes what is written, or does not: it can hang and fail as a disk does."""

    def __init__(self) -> None:
        super().__init__()
        self.goes = threading.Event()
        self.goes.set()
        self.failure: Exception | None = None
        self.threads: set[int] = set()

    def write(self, text: str) -> int:
        self.threads.add(threading.get_ident())
        self.goes.wait(20)
        if self.failure is not None:
            raise self.failure
        return super().write(text)

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.goes.set()


def logger_to(handler: logging.Handler) -> logging.Logger:
    logger = logging.Logger("gateway.test", logging.DEBUG)
    logger.addHandler(handler)
    return logger


def written(terminal: Terminal, form: Any, tell: Any, redaction: Redaction | None = None) -> list[str]:
    handler = QueuedHandler(form, redaction, stream=terminal)
    tell(logger_to(handler))
    handler.close()
    return terminal.lines


def test_a_line_says_when_who_and_what(terminal: Terminal) -> None:
    [line] = written(terminal, "text", lambda log: log.warning("%d of %s", 3, "them"))
    moment, pid, rest = line.split(" ", 2)
    assert moment.endswith("+00:00")
    assert pid == str(os.getpid())
    assert rest == "WARNING gateway.test: 3 of them"


def test_every_line_of_a_request_bears_its_id(terminal: Terminal) -> None:
    async def serve(log: logging.Logger, request_id: str) -> None:
        TRAIL.set(Trail(request_id))
        for _ in range(3):
            await asyncio.sleep(0)
            log.info("of %s", request_id)

    async def both(log: logging.Logger) -> None:
        await asyncio.gather(*(asyncio.create_task(serve(log, f"request-{n}")) for n in range(5)))

    lines = written(terminal, "text", lambda log: asyncio.run(both(log)))
    assert len(lines) == 15
    for line in lines:
        told = line.partition(": of ")[2]
        request_id, _, named = told.partition(", request ")
        assert request_id == named


def test_json_lines_hold_the_fields_of_a_request(terminal: Terminal) -> None:
    def tell(log: logging.Logger) -> None:
        TRAIL.set(Trail("abcd-1234"))
        log.warning("慢", extra={"fields": {"status": 502, "route": "/api/x", "level": "no"}})

    lines = written(terminal, "json", tell)
    TRAIL.set(Trail())
    line = json.loads(lines[0])
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "WARNING",
        "logger": "gateway.test",
        "pid": os.getpid(),
        "msg": "慢",
        "request_id": "abcd-1234",
        "status": 502,
        "route": "/api/x",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_was_sent_begins_a_line_of_its_own(terminal: Terminal, form: str) -> None:
    hostile = "x\n2026-01-01 1 ERROR gateway: forged\r\x1b[2J\u2028\x00"
    lines = written(terminal, form, lambda log: log.info("got %s", hostile))
    assert len(lines) == 1
    assert "\x1b" not in lines[0]
    assert "\x00" not in lines[0]


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_do_not_show_in_texts_tracebacks_and_fields(terminal: Terminal, form: str) -> None:
    def tell(log: logging.Logger) -> None:
        try:
            raise ValueError('body was {"password": "Right-horse1!"}')
        except ValueError:
            log.exception(
                "bob@example.com sent %s", "k3y-of-the-house", extra={"fields": {"by": "a@b.example"}}
            )

    text = "\n".join(written(terminal, form, tell, Redaction(["k3y-of-the-house"])))
    for secret in ("Right-horse1!", "bob@example.com", "k3y-of-the-house", "a@b.example"):
        assert secret not in text
    assert "ValueError" in text


def test_what_an_error_tells_begins_no_line_either(terminal: Terminal) -> None:
    def tell(log: logging.Logger) -> None:
        try:
            raise ValueError("x\n2026-01-01 1 ERROR gateway: forged")
        except ValueError:
            log.exception("failed")

    lines = written(terminal, "text", tell)
    assert len(lines) > 3
    assert all(line.startswith("  ") for line in lines[1:])


def test_lines_are_written_by_a_thread_of_their_own(terminal: Terminal) -> None:
    written(terminal, "text", lambda log: log.info("x"))
    assert threading.get_ident() not in terminal.threads


def test_a_terminal_that_takes_nothing_holds_up_nobody_and_losses_are_counted_and_told(
    terminal: Terminal,
) -> None:
    terminal.goes.clear()
    handler = QueuedHandler(stream=terminal, most_waiting=100)
    log = logger_to(handler)
    for number in range(1000):
        log.info("line %d", number)
    assert 898 <= handler.lost <= 900
    terminal.goes.set()
    handler.close()
    kept = [line for line in terminal.lines if ": line " in line]
    assert len(kept) == 1000 - handler.lost
    [told] = [line for line in terminal.lines if "lost" in line]
    assert told.endswith(f"WARNING gateway.log: {handler.lost} log lines were lost")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("closed file")])
def test_a_full_disk_and_a_closed_terminal_raise_nothing(terminal: Terminal, failure: Exception) -> None:
    terminal.failure = failure
    handler = QueuedHandler(stream=terminal)
    log = logger_to(handler)
    for _ in range(50):
        log.error("x")
    handler.flush()
    handler.close()
    assert handler.lost == 50


def test_it_writes_again_when_there_is_room_again(terminal: Terminal) -> None:
    terminal.failure = OSError(28, "No space left on device")
    handler = QueuedHandler(stream=terminal)
    log = logger_to(handler)
    log.error("lost")
    handler.close()
    terminal.failure = None
    log.error("kept")
    handler.close()
    assert [line.rpartition(" ")[2] for line in terminal.lines] == ["kept"]


def test_a_line_with_arguments_that_do_not_fit_is_lost_and_raises_nothing(terminal: Terminal) -> None:
    handler = QueuedHandler(stream=terminal)
    logger_to(handler).error("%d", "no number")
    handler.close()
    assert (handler.lost, terminal.lines) == (1, [])


def test_whoever_closes_all_handlers_and_goes_on_loses_no_line(terminal: Terminal) -> None:
    """`logging.config.dictConfig` does so, and Granian calls it."""
    handler = QueuedHandler(stream=terminal)
    log = logger_to(handler)
    for number in range(5):
        log.info("line %d", number)
        handler.close()
    assert len(terminal.lines) == 5


def test_other_handlers_see_the_record_as_it_was(terminal: Terminal) -> None:
    seen: list[logging.LogRecord] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = QueuedHandler(stream=terminal)
    log = logger_to(handler)
    log.addHandler(Keeper())
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("%s", "told")
    handler.close()
    assert seen[0].args == ("told",)
    assert seen[0].exc_info is not None


def test_closing_does_not_wait_for_ever(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.services.logs.CLOSING_SECONDS", 0.05)
    terminal.goes.clear()
    handler = QueuedHandler(stream=terminal)
    logger_to(handler).info("x")
    handler.flush()
    handler.close()
