"""All sessions of one avatar, and the commands that reach them line by line."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

from backend.demo.live.session import CONNECT_SECONDS, Session, SessionError
from backend.demo.live.voice import Voice

Fields = dict[str, Any]


class Stage:
    """Answers commands; `tell` gets what happens without being asked for."""

    def __init__(
        self, name: str, tell: Callable[[Fields], None], *, connect_seconds: float = CONNECT_SECONDS
    ) -> None:
        self._name = name
        self._connect_seconds = connect_seconds
        self._tell = tell
        self._voice = Voice()
        self._sessions: dict[int, Session] = {}

    def __repr__(self) -> str:
        return f"<Stage {self._name} {len(self._sessions)} sessions>"

    async def obey(self, command: Fields) -> Fields:
        """Do what a command says and return what to answer; `error` says what was wrong."""
        number = command["session"]
        try:
            if command["do"] == "offer":
                return {"sdp": await self._open(number, command["sdp"])}
            session = self._sessions.get(number)
            if session is None:
                return {"gone": True}
            return _act(session, command)
        except SessionError as error:
            return {"error": str(error)}

    async def close(self) -> None:
        await asyncio.gather(*(session.close() for session in list(self._sessions.values())))

    async def _open(self, number: int, sdp: str) -> str:
        session = Session(
            self._name, self._voice, lambda: self._end(number), connect_seconds=self._connect_seconds
        )
        self._sessions[number] = session
        try:
            return await session.answer(sdp)
        except BaseException:
            await session.close()
            raise

    def _end(self, number: int) -> None:
        if self._sessions.pop(number, None) is not None:
            self._tell({"ended": number})


def _act(session: Session, command: Fields) -> Fields:
    match command["do"]:
        case "say":
            if command.get("interrupt"):
                session.interrupt()
            session.say(command["text"])
        case "play":
            session.say(base64.b64decode(command["sound"]))
        case "interrupt":
            session.interrupt()
    return {"speaking": session.speaking}
