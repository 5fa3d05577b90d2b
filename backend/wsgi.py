"""Serving the Flask application by a plain WSGI server: correct, slower, and said so once.

Under WSGI each call of an async view would get an event loop of its own, and the one upstream client
cannot live on several. One background loop therefore carries every async view of the process.
"""

import asyncio
import atexit
import concurrent.futures
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import copy_context
from typing import Any, TypeVar
from urllib.parse import quote

from werkzeug.wsgi import get_input_stream

from backend.services.streams import ByteStream

T = TypeVar("T")
Life = Callable[[], AbstractAsyncContextManager[None]]

log = logging.getLogger("gateway")

READ_BYTES = 64 * 1024
START_SECONDS = 30.0


class BackgroundLoop:
    """An event loop in a thread of its own, with the services open on it; started by the first call."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._process = 0

    @property
    def running(self) -> bool:
        return self._loop is not None and self._process == os.getpid()

    def call(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Run a coroutine function on the loop, with the caller's context variables, and wait for it."""
        loop = self._started()
        context = copy_context()
        result: concurrent.futures.Future[T] = concurrent.futures.Future()
        held: list[asyncio.Task[T]] = []  # a loop holds its tasks weakly, and this call waits for one

        def begin() -> None:
            task = loop.create_task(work(*args, **kwargs), context=context)
            task.add_done_callback(lambda done: _hand_over(done, result))
            held.append(task)

        loop.call_soon_threadsafe(begin)
        return result.result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            # A forked worker inherits the object but not the thread.
            if self._loop is None or self._process != os.getpid():
                log.warning(
                    "served by a plain WSGI server: answers are right but slow; "
                    "start run.py, or serve run:app with an ASGI server"
                )
                ready: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
                self._thread = threading.Thread(
                    target=asyncio.run, args=(self._run(ready),), name="gateway-loop", daemon=True
                )
                self._thread.start()
                self._loop = ready.result(START_SECONDS)
                self._process = os.getpid()
                _at_exit(self.close)
            return self._loop

    async def _run(self, ready: "concurrent.futures.Future[asyncio.AbstractEventLoop]") -> None:
        self._stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._life())
            except BaseException as exc:
                ready.set_exception(exc)
                return
            ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()

    def close(self) -> None:
        """Close the services and end the thread; harmless when it never started."""
        loop, self._loop = self._loop, None
        if loop is None or self._process != os.getpid() or self._stop is None or self._thread is None:
            return
        loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_SECONDS)


def _at_exit(close: Callable[[], None]) -> None:
    """Close while threads still take work: Python ends its executors before `atexit` runs anything."""
    getattr(threading, "_register_atexit", atexit.register)(close)


def _hand_over(done: "asyncio.Task[T]", result: "concurrent.futures.Future[T]") -> None:
    if done.cancelled():
        result.set_exception(concurrent.futures.CancelledError())
    elif (error := done.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(done.result())


class PulledBody:
    """Lets a WSGI server iterate over a body that lives on the background loop."""

    def __init__(self, body: ByteStream, loop: BackgroundLoop) -> None:
        self._body = body
        self._loop = loop

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self._loop.call(self._body.read):
            yield chunk

    def close(self) -> None:
        if self._loop.running:  # with the loop ended everything on it
            self._loop.call(self._body.aclose)


class WsgiBody:
    """A request body that a WSGI server holds, read in threads."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._input = get_input_stream(environ)

    async def read(self) -> bytes:
        return await asyncio.to_thread(self._input.read, READ_BYTES)

    async def aclose(self) -> None:
        return None


def raw_target(environ: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return raw path and query; servers that do not tell the raw path get a faithful re-encoding."""
    query: bytes = environ.get("QUERY_STRING", "").encode("latin-1")
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw:
        return raw.encode("latin-1").partition(b"?")[0], query
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return quote(path.encode("latin-1"), safe="/!$&'()*+,;=:@~-._").encode("ascii"), query


def raw_headers(environ: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Return the request's header lines as far as WSGI kept them apart."""
    headers = [
        (key[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
    for key, name in (("CONTENT_TYPE", b"content-type"), ("CONTENT_LENGTH", b"content-length")):
        headers += [(name, environ[key].encode("latin-1"))] if environ.get(key) else []
    return headers
