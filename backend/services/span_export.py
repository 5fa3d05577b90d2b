"""Brings spans out in OpenTelemetry's forms: to a collector, into a file, or onto the terminal.

Loaded only where GATEWAY_TRACES asks for it; requirements-trace.txt has what it needs.
"""

import contextlib
import fcntl
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from backend import VERSION
from backend.config import Settings
from backend.services.traces import Outlet, Span

# A collector that takes longer is as good as away: spans wait behind it.
DELIVERY_SECONDS = 5.0
# What a file may take on disk, twice: the former one is kept beside it.
MOST_FILE_BYTES = 64 << 20
SECOND = 1_000_000_000


def outlet_of(settings: Settings) -> Outlet:
    """Return what GATEWAY_TRACES names."""
    kind, _, rest = settings.gateway_traces.partition(":")
    if kind == "console":
        return Lines(_to_terminal)
    if kind == "file":
        return Lines(TraceFile(Path(rest)).write)
    # It tells of each failure, several times a second; the tracer tells once (traces.py).
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return Collector(OTLPSpanExporter(endpoint=settings.gateway_traces, timeout=DELIVERY_SECONDS))


class Collector:
    """An OTLP collector; one exporter, whose own limits hold."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._form = Form()

    def deliver(self, spans: Sequence[Span]) -> bool:
        return bool(self._exporter.export(self._form.readable(spans)) is SpanExportResult.SUCCESS)

    def close(self) -> None:
        self._exporter.shutdown()


class Lines:
    """Spans as lines of JSON."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._form = Form()

    def deliver(self, spans: Sequence[Span]) -> bool:
        lines = [span.to_json(indent=None) + "\n" for span in self._form.readable(spans)]
        self._write("".join(lines).encode("utf-8"))
        return True

    def close(self) -> None:
        """Nothing is held."""


class TraceFile:
    """A file that all workers write to; a full one makes room for a new one."""

    def __init__(self, path: Path, most_bytes: int = MOST_FILE_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes

    def write(self, content: bytes) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            with FileIO(os.open(self._path, how, 0o600), "wb") as out:
                fcntl.flock(out, fcntl.LOCK_EX)
                size = os.fstat(out.fileno()).st_size
                if size < self._most_bytes:
                    _append(out, content, size)
                    return
                # Unless another worker has just done it.
                if self._path.exists() and os.path.samestat(os.fstat(out.fileno()), self._path.stat()):
                    os.replace(self._path, self._path.with_name(self._path.name + ".1"))


def _append(out: FileIO, content: bytes, size: int) -> None:
    """Write all or nothing: a nearly full disk takes a part, which would spoil the next line."""
    left = memoryview(content)
    try:
        while left:
            left = left[out.write(left) :]
    except OSError:
        with contextlib.suppress(OSError):  # of a device, which has no size
            os.ftruncate(out.fileno(), size)
        raise


def _to_terminal(content: bytes) -> None:
    sys.stdout.write(content.decode("utf-8"))
    sys.stdout.flush()


class Form:
    """Makes OpenTelemetry's spans of ours."""

    def __init__(self) -> None:
        self._resource = Resource.create(
            {"service.name": "avatar-gateway", "service.version": VERSION, "process.pid": os.getpid()}
        )
        self._scope = InstrumentationScope("avatar-gateway", VERSION)

    def readable(self, spans: Sequence[Span]) -> list[Any]:
        # Their times are of a clock that nobody outside knows.
        offset = int(time.time() * SECOND) - time.perf_counter_ns()
        return [self._one(span, offset) for span in spans]

    def _one(self, span: Span, offset: int) -> Any:
        trace_id = int(span.trace_id, 16)
        parent = None
        if span.parent_id is not None:
            parent = _context(trace_id, span.parent_id, is_remote=span.inbound)
        values = dict(span.values) if span.wrong is None else {**span.values, "error.type": span.wrong}
        return ReadableSpan(
            name=span.name,
            context=_context(trace_id, span.span_id, is_remote=False),
            parent=parent,
            resource=self._resource,
            attributes=values,
            kind=SpanKind.SERVER if span.inbound else SpanKind.CLIENT,
            status=Status(StatusCode.UNSET if span.wrong is None else StatusCode.ERROR),
            start_time=int(span.began * SECOND) + offset,
            end_time=int(span.ended * SECOND) + offset,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: int, span_id: str, *, is_remote: bool) -> Any:
    return SpanContext(
        trace_id, int(span_id, 16), is_remote=is_remote, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
