"""Where log lines go: into a queue at once, and from there to the terminal by a thread of its own.

Whoever logs never waits for a disk or a terminal, and never fails for one. The queue has a size; what finds
it full is counted, and told of when there is room again.
"""

import json
import logging
import signal
import sys
import threading
import time
from copy import copy
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal, TextIO

from backend.services.redaction import Redaction
from backend.services.trail import TRAIL

MOST_WAITING = 10_000
# At the end of the process: what a terminal does not take by then is lost.
CLOSING_SECONDS = 2.0
# Libraries that would tell of every call or start only tell of trouble.
CHATTY = ("httpx", "alembic", "hypercorn.error")
_END = None

Form = Literal["text", "json"]


class QueuedHandler(logging.Handler):
    """Hands each record to a thread that writes it; `lost` counts those that could not be kept or written."""

    def __init__(
        self,
        form: Form = "text",
        redaction: Redaction | None = None,
        stream: TextIO | None = None,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        super().__init__()
        self._format = json_line if form == "json" else text_line
        self._redaction = redaction or Redaction()
        self._stream = stream
        self._most_waiting = most_waiting
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self.lost = 0
        self._untold = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """Keep a record without taking the lock that other handlers need: the queue has its own."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= self._most_waiting:
            self._lose()
            return
        try:
            self._queue.put(_finished(record))
            if self._thread is None:
                self._start()
        except Exception:  # arguments that do not fit their text: the line is lost, the request goes on
            self._lose()

    def _start(self) -> None:
        """Start the thread with the first line; also anew, as whoever configures logging closes all handlers
        (Granian does) and goes on to use them."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
                self._thread.start()

    def _lose(self) -> None:
        self.lost += 1
        self._untold += 1

    def flush(self) -> None:
        """Wait until what is in the queue now is written, but not for ever."""
        until = time.monotonic() + CLOSING_SECONDS
        while self._thread is not None and not self._queue.empty() and time.monotonic() < until:
            time.sleep(0.005)

    def close(self) -> None:
        """Let the thread write what is left, and end it."""
        with self._starting:  # a new thread must not take the end that is meant for this one
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(_END)
                thread.join(CLOSING_SECONDS)
        super().close()

    def _write_all(self) -> None:
        # Signals are the main thread's, which may be holding some back.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (record := self._queue.get()) is not _END:
            self._write(record)
            if self._untold and self._queue.qsize() < self._most_waiting // 2:
                untold, self._untold = self._untold, 0
                self._write(_of_losses(untold))

    def _write(self, record: logging.LogRecord) -> None:
        """Write a line; a full disk and a closed terminal are nobody's error, but counted."""
        try:
            stream = self._stream or sys.stderr
            self._redact(record)
            stream.write(self._format(record) + "\n")
            stream.flush()
        except Exception:
            self.lost += 1

    def _redact(self, record: logging.LogRecord) -> None:
        """Look through the parts and not the finished line: JSON would hide a secret's form."""
        record.msg = self._redaction(str(record.msg))
        record.exc_text = self._redaction(record.exc_text) if record.exc_text else None
        record.fields = {
            key: self._redaction(value) if isinstance(value, str) else value
            for key, value in getattr(record, "fields", {}).items()
        }

    def __repr__(self) -> str:
        return f"<QueuedHandler {self._queue.qsize()} waiting, {self.lost} lost>"


def install(level: str, form: Form, secrets: tuple[str, ...]) -> None:
    """Send what is logged to standard error, unless whoever serves has his own idea of where it goes."""
    root = logging.getLogger()
    if root.handlers:
        return
    root.addHandler(QueuedHandler(form, Redaction(secrets)))
    root.setLevel(level)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def lost_lines() -> int:
    """Return how many lines were lost in this process."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, QueuedHandler))


def _finished(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy with all that must be known now: text, traceback, whose request it is."""
    record = copy(record)
    record.msg, record.args = record.getMessage(), None
    if record.exc_info and not record.exc_text:
        record.exc_text = logging.Formatter().formatException(record.exc_info)
    record.exc_info = None  # it holds on to frames, and to all that lives in them
    record.request_id = TRAIL.get().request_id
    return record


def _of_losses(count: int) -> logging.LogRecord:
    text = f"{count} log lines were lost"
    return logging.LogRecord("gateway.log", logging.WARNING, "", 0, text, None, None)


def text_line(record: logging.LogRecord) -> str:
    """Return a line for people; what somebody sent cannot begin a line of its own."""
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    request_id = getattr(record, "request_id", "-")
    text = f"{moment} {record.process} {record.levelname} {record.name}: {_on_one_line(str(record.msg))}"
    if request_id != "-":
        text += f", request {request_id}"
    # Indented: an error may tell what somebody sent.
    traceback = record.exc_text.split("\n") if record.exc_text else []
    return "\n  ".join([text, *map(_on_one_line, traceback)])


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_line(record: logging.LogRecord) -> str:
    """Return a JSON object for programs: the fields of a request beside the text."""
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "pid": record.process,
        "msg": str(record.msg),
    }
    request_id = getattr(record, "request_id", "-")
    if request_id != "-":
        line["request_id"] = request_id
    if record.exc_text:
        line["traceback"] = record.exc_text
    line |= {key: value for key, value in getattr(record, "fields", {}).items() if key not in line}
    text = json.dumps(line, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(line, default=str)
