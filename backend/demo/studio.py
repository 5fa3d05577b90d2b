"""The world's end of the media engine: starts it in a process of its own, and asks it line by line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

LIBRARIES = ("aiortc", "av", "espeakng_loader", "numpy", "PIL")
ROOT = Path(__file__).parents[2]
# The engine imports its libraries, draws a face and gathers addresses: a second, more on a busy machine.
ANSWER_SECONDS = 20.0
END_SECONDS = 5.0
LINE_BYTES = 1024 * 1024

Fields = dict[str, Any]


class StudioError(Exception):
    """The engine does not do what it was asked; the text says why."""


class SessionGone(StudioError):
    """The engine no longer knows the session."""


def engine_installed() -> bool:
    return all(importlib.util.find_spec(library) for library in LIBRARIES)


def of_a_browser(sdp: object) -> bool:
    """Tell a real offer from one that a script made up: no media can flow without these two lines."""
    return isinstance(sdp, str) and "a=fingerprint:" in sdp and "a=ice-ufrag:" in sdp


class Studio:
    """The engine of one instance, started by its first offer; `ended` hears of sessions that ended."""

    def __init__(self, name: str, ended: Callable[[int], None]) -> None:
        self._name = name
        self._ended = ended
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Fields]] = {}
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._sessions: set[int] = set()

    def __repr__(self) -> str:
        pid = self._process.pid if self._process else None
        return f"<Studio {self._name} pid={pid} {len(self._sessions)} sessions>"

    async def answer(self, session: int, sdp: str) -> str:
        """Open a session for an offer and return the answer. Raises StudioError."""
        self._sessions.add(session)
        try:
            answer = await self._ask({"do": "offer", "session": session, "sdp": sdp})
        except BaseException:
            self._sessions.discard(session)
            raise
        return str(answer["sdp"])

    async def say(self, session: int, text: str, *, interrupt: bool) -> None:
        await self._ask({"do": "say", "session": session, "text": text, "interrupt": interrupt})

    async def play(self, session: int, sound: bytes) -> None:
        await self._ask({"do": "play", "session": session, "sound": base64.b64encode(sound).decode()})

    async def interrupt(self, session: int) -> None:
        await self._ask({"do": "interrupt", "session": session})

    async def speaking(self, session: int) -> bool:
        return bool((await self._ask({"do": "look", "session": session}))["speaking"])

    async def close(self) -> None:
        """End the engine: by the end of its input, at last by force."""
        async with self._starting:
            process, self._process = self._process, None
            if process is None or process.stdin is None:
                return
            process.stdin.close()
            try:
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            if self._reader is not None:
                await self._reader

    async def _ask(self, command: Fields) -> Fields:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                process = await self._running(may_start=command["do"] == "offer")
                assert process.stdin is not None  # noqa: S101 - it was opened with a pipe
                process.stdin.write(json.dumps({"id": number, **command}).encode() + b"\n")
                await process.stdin.drain()
                answer = await self._waiting[number]
        except TimeoutError:
            raise StudioError("the engine does not answer") from None
        except OSError as error:
            raise StudioError("the engine has ended") from error
        finally:
            del self._waiting[number]
        if answer.get("gone"):
            raise SessionGone("session not found")
        if "error" in answer:
            raise StudioError(answer["error"])
        return answer

    async def _running(self, *, may_start: bool) -> Process:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                if not may_start:
                    raise SessionGone("session not found")
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "backend.demo.live", self._name),
                    stdin=PIPE,
                    stdout=PIPE,
                    limit=LINE_BYTES,
                    cwd=ROOT,
                    start_new_session=True,  # Ctrl-C reaches the world only, which ends this one in order
                )
                self._reader = asyncio.create_task(self._read(self._process))
            return self._process

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101 - it was opened with a pipe
        while line := await process.stdout.readline():
            said = json.loads(line)
            if "ended" in said:
                self._end(said["ended"])
            elif (waiting := self._waiting.get(said.get("id"))) and not waiting.done():
                waiting.set_result(said)
        # Whatever it was: nobody waits for a dead engine, and its sessions are gone with it.
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(StudioError("the engine has ended"))
                with contextlib.suppress(StudioError):
                    waiting.exception()
        for session in list(self._sessions):
            self._end(session)

    def _end(self, session: int) -> None:
        self._sessions.discard(session)
        self._ended(session)
