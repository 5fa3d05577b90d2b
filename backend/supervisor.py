"""Worker processes on one listening socket: kept alive, watched, ended together."""

import asyncio
import contextlib
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from backend.config import Settings

log = logging.getLogger("gateway.server")

# A worker that lives shorter than this did not start; one that keeps dying so stops everything.
START_SECONDS = 5.0
MOST_FAILED_STARTS = 5
# Looks in which nothing was heard from a worker before it counts as hanging. Looks are counted, not time:
# a machine or a terminal that was suspended says nothing about its workers.
SILENT_LOOKS = 6
# Name of a run's folder among the temporary files, before the process that made it.
FOLDER = "avatar-gateway-"
# What comes from the keyboard or a closed terminal reaches every process of the group; workers leave it
# to their supervisor, or each Ctrl-C would be two signals, and the second one ends at once.
OF_THE_TERMINAL = {signal.SIGINT, signal.SIGHUP}
# Tells a worker that a stop comes: Granian keeps the news of SIGTERM from the application until all calls are
# over, and there are answers that end only when they are told so.
NOTICE = signal.SIGUSR1
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Work = Callable[[Settings, socket.socket, Connection], None]
"""Runs a worker process: its settings, the listening socket, and where it tells that it is alive."""


@contextlib.contextmanager
def shared_folder(settings: Settings) -> Iterator[Settings]:
    """Give the workers a private folder for their figures while the block lasts, unless they have one."""
    if settings.gateway_run_dir is not None or not settings.gateway_figures:
        yield settings
        return
    sweep(Path(tempfile.gettempdir()))
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"{FOLDER}{os.getpid()}-", ignore_cleanup_errors=True)
    except OSError as error:
        log.warning("workers cannot share their figures: %s", error.strerror)
        yield settings
        return
    with folder as path:
        yield settings.model_copy(update={"gateway_run_dir": Path(path)})


def sweep(place: Path) -> None:
    """Remove the folders of supervisors that were killed and could not do it themselves."""
    for folder in place.glob(f"{FOLDER}*"):
        number = folder.name.removeprefix(FOLDER).partition("-")[0]
        with contextlib.suppress(OSError, ValueError, OverflowError):
            if folder.lstat().st_uid == os.geteuid() and not _exists(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def leave(code: int) -> NoReturn:
    """End the process without tearing the interpreter down.

    The Rust client's thread may still hold on to the interpreter for a moment after it was closed, and
    an interpreter that finalizes under it aborts (pyreqwest 0.15).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class StopSignals:
    """Which signals ask for a stop, and how hard: the first gently, the second at once.

    A closed terminal sends SIGHUP, often twice; it only ever asks gently, and not at all under nohup.
    """

    def __init__(self) -> None:
        self._received: list[int] = []

    @staticmethod
    def heard() -> list[signal.Signals]:
        """The signals to listen to."""
        return [n for n in STOPS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]

    def receive(self, number: int) -> None:
        if number != signal.SIGHUP or not self._received:
            self._received.append(number)

    @property
    def stop(self) -> bool:
        return bool(self._received)

    @property
    def at_once(self) -> int | None:
        """The exit code of a stop that does not wait any more, else None."""
        return 128 + self._received[1] if len(self._received) > 1 else None


@dataclass
class Worker:
    """A worker process; `silent` counts the looks since it was heard, None before the first time."""

    process: BaseProcess
    pulse: Connection
    started: float
    silent: int | None = None

    def listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self.pulse.poll():
                self.pulse.recv_bytes()
                self.silent = 0

    def stop(self) -> None:
        """Ask it to end; the notice before would kill one that does not listen yet."""
        self.listen()
        if self.silent is not None and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, NOTICE)
        self.process.terminate()

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()


class Supervisor:
    """Keeps `settings.workers` worker processes alive on one socket; a dead one is replaced at once.

    Those whose loop stands still are killed, and so are those still there `closing_seconds` after the grace.
    """

    def __init__(
        self, settings: Settings, sock: socket.socket, work: Work, *, closing_seconds: float
    ) -> None:
        self._settings = settings
        self._sock = sock
        self._work = work
        self._most_seconds = settings.gateway_drain_seconds + closing_seconds
        self._look_seconds = settings.gateway_hang_seconds / SILENT_LOOKS
        # Imports are a worker's start, seconds on a busy machine: they are done once, beforehand, in the
        # process from which all workers are forked. Importing the gateway opens nothing and starts no thread.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([work.__module__])
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self._signals = StopSignals()
        self._deadline: float | None = None

    def run(self) -> int:
        """Return the exit code once every worker has ended."""
        wake = self._heed_signals()
        resource_tracker.ensure_running()  # it would unblock signals amid the first start
        for _ in range(self._settings.workers):
            self._spawn()
        look_at = time.monotonic() + self._look_seconds
        while self._workers:
            until = look_at if self._deadline is None else min(look_at, self._deadline)
            ready = wait(
                [wake, *(worker.process.sentinel for worker in self._workers)],
                max(0.0, until - time.monotonic()),
            )
            if wake in ready:
                os.read(wake, 64)
            if self._signals.stop:
                self._stop()
            for worker in [w for w in self._workers if not w.process.is_alive()]:
                self._bury(worker)
            if time.monotonic() >= look_at:
                self._look()
                look_at = time.monotonic() + self._look_seconds
        return self._signals.at_once or (1 if self._failed_starts >= MOST_FAILED_STARTS else 0)

    def _heed_signals(self) -> int:
        """Return what becomes readable with a signal.

        Handlers only take notes: one that acted could come while a worker is started and not yet known.
        """
        wake, alarm = os.pipe()
        os.set_blocking(alarm, False)
        signal.set_wakeup_fd(alarm)
        for number in self._signals.heard():
            signal.signal(number, lambda number, _frame: self._signals.receive(number))
        return wake

    def _spawn(self) -> None:
        pulse, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=self._work, args=(self._settings, self._sock, sender), name="gateway-worker"
        )
        # What is blocked now stays blocked in the child; what arrives meanwhile is delivered afterwards.
        signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_TERMINAL)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_TERMINAL)
        sender.close()
        self._workers.append(Worker(process, pulse, time.monotonic()))

    def _bury(self, worker: Worker) -> None:
        """Replace a worker that ended, unless everything ends."""
        lived = time.monotonic() - worker.started
        pid, code = worker.process.pid, worker.process.exitcode
        self._workers.remove(worker)
        worker.pulse.close()
        worker.process.close()
        if self._deadline is not None:
            return
        log.warning("worker %s ended with %s after %.1f s", pid, code, lived)
        self._failed_starts = self._failed_starts + 1 if lived < START_SECONDS and code == 1 else 0
        if self._failed_starts >= MOST_FAILED_STARTS:
            log.error("workers do not start: giving up")
            self._stop()
        else:
            self._spawn()

    def _look(self) -> None:
        """Kill the workers that were silent for too long: their clients wait for nothing."""
        for worker in self._workers:
            if worker.silent is not None:
                worker.silent += 1
            worker.listen()
            if worker.silent is not None and worker.silent >= SILENT_LOOKS:
                log.error("worker %s hangs and is replaced", worker.process.pid)
                worker.kill()

    def _stop(self) -> None:
        """Pass the stop on; from now on nobody listens any more and nobody is replaced."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._most_seconds
            self._sock.close()
            for worker in self._workers:
                if worker.process.is_alive():
                    worker.stop()
        late = time.monotonic() >= self._deadline
        if late:
            self._deadline = math.inf
            log.warning("calls still open after the grace were cut")
        if late or self._signals.at_once:
            for worker in self._workers:
                worker.kill()


def follow(
    pulse: Connection, settings: Settings, closing_seconds: float, stopping: Callable[[], None]
) -> None:
    """Tie this worker, on its loop, to its supervisor: tell it that the loop turns, and end after it.

    `stopping` is called when the supervisor gives notice, or dies. A worker whose supervisor died finishes
    its calls as after SIGTERM; the kernel's timer, which needs no loop, ends it `closing_seconds` after the
    grace.
    """
    loop = asyncio.get_event_loop()
    parent = multiprocessing.parent_process()
    beat_seconds = settings.gateway_hang_seconds / SILENT_LOOKS / 2
    os.set_blocking(pulse.fileno(), False)

    def beat() -> None:
        with contextlib.suppress(OSError):  # full, because the supervisor is suspended; or it is gone
            pulse.send_bytes(b".")
        loop.call_later(beat_seconds, beat)

    def orphaned() -> None:
        if parent is not None:
            loop.remove_reader(parent.sentinel)
        log.warning("the supervisor has gone: finishing the calls in flight")
        stopping()
        signal.setitimer(signal.ITIMER_REAL, settings.gateway_drain_seconds + closing_seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.add_signal_handler(NOTICE, stopping)
    beat()
    if parent is not None:
        loop.add_reader(parent.sentinel, orphaned)
