"""One viewer of the avatar: a peer connection, what it says, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from backend.demo.live.face import Face
from backend.demo.live.speaker import Speaker
from backend.demo.live.tracks import Picture, Sound
from backend.demo.live.voice import Speech, Timbre, Voice, VoiceError, recorded
from backend.demo.portrait import seed_of
from backend.demo.words import sentences

log = logging.getLogger(__name__)

# Who has an answer connects within a second; who never does must not keep the place.
CONNECT_SECONDS = 20.0
# A browser reports every second which pictures it receives, and far more rarely which sound. One that was
# killed says no goodbye, and the peer connection itself gives it half a minute (RFC 7675).
LOOK_SECONDS = 1.0
MISSING_REPORTS = 6
# Texts and recordings that wait for the engine, which takes milliseconds for each.
WAITING = 200
TEXT_CHARACTERS = 5_000

Line = str | bytes


def without_hidden(sdp: str) -> str:
    """Leave out the addresses that a browser hides behind names that only multicast could resolve.

    Looking for them takes seconds; the browser calls from them anyway, and is recognised.
    """
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not (line.startswith("a=candidate:") and ".local " in line))


class SessionError(Exception):
    """A session cannot do what it was asked; the text says why."""


class Session:
    """Speaks what it is given, in order, to one peer; `ended` is called once, when the peer has gone."""

    def __init__(
        self,
        name: str,
        voice: Voice,
        ended: Callable[[], None],
        *,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._connect_seconds = connect_seconds
        self._name = name
        self._voice = voice
        self._ended = ended
        self._timbre = Timbre.of(seed_of(name))
        self._speaker = Speaker()
        self._lines: asyncio.Queue[Line] = asyncio.Queue(WAITING)
        self._at_work = False
        # No servers: host candidates reach whoever may use a demo.
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Session {self._name} {self._peer.connectionState} {self._speaker!r}>"

    @property
    def speaking(self) -> bool:
        return self._at_work or not self._lines.empty() or self._speaker.speaking

    async def answer(self, sdp: str) -> str:
        """Take an offer and return the answer. Raises SessionError."""
        peer = self._peer
        peer.add_listener("connectionstatechange", self._look)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(without_hidden(sdp), "offer"))
            wanted = {transceiver.kind for transceiver in peer.getTransceivers()}
            if not wanted:
                raise SessionError("the offer has neither sound nor video")
            if "audio" in wanted:
                peer.addTrack(Sound(self._speaker))
            if "video" in wanted:
                face = await asyncio.to_thread(Face, self._name)
                peer.addTrack(Picture(self._speaker, face, alone="audio" not in wanted))
            await peer.setLocalDescription(await peer.createAnswer())
        except SessionError:
            raise
        except Exception as error:  # aiortc's parser raises whatever an odd line leads to
            raise SessionError(f"the offer cannot be answered: {error}") from error
        self._own(self._narrate())
        self._own(self._give_up_unless_connected())
        if "video" in wanted:
            self._own(self._give_up_without_reports())
        return str(peer.localDescription.sdp)

    def say(self, line: Line) -> None:
        """Queue a text or a recording. Raises SessionError."""
        if isinstance(line, str) and len(line) > TEXT_CHARACTERS:
            raise SessionError(f"a text has at most {TEXT_CHARACTERS} characters")
        try:
            self._lines.put_nowait(line)
        except asyncio.QueueFull:
            raise SessionError("too much waits to be said") from None

    def interrupt(self) -> None:
        """Forget what is being said and what waits."""
        while not self._lines.empty():
            self._lines.get_nowait()
        # What the engine has in hand belongs to the old speaker's words, too.
        self._at_work = False
        self._speaker.interrupt()

    async def close(self) -> None:
        """Say goodbye to the peer and end everything; may be called again."""
        if self._closed:
            return
        self._closed = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._peer.close()
        self._ended()

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _narrate(self) -> None:
        while True:
            line = await self._lines.get()
            self._at_work = True
            try:
                pieces: list[Line] = [*sentences(line)] if isinstance(line, str) else [line]
                for piece in pieces:
                    speech = await asyncio.to_thread(self._spoken, piece)
                    if not self._at_work:  # interrupted meanwhile
                        break
                    if not self._speaker.add(speech):
                        log.warning("%r has too much to say; a part is left out", self)
            except VoiceError as error:
                log.warning("%r stays silent: %s", self, error)
            finally:
                self._at_work = False

    def _spoken(self, line: Line) -> Speech:
        return self._voice.speak(line, self._timbre) if isinstance(line, str) else recorded(line)

    def _look(self) -> None:
        if self._peer.connectionState in ("failed", "closed") and not self._closed:
            self._own(self.close())

    async def _give_up_unless_connected(self) -> None:
        await asyncio.sleep(self._connect_seconds)
        if self._peer.connectionState in ("new", "connecting"):
            await self.close()

    async def _give_up_without_reports(self) -> None:
        # Looks are counted, not seconds: while this process stands still, nobody else is to blame.
        reported_at: datetime | None = None
        missing = -MISSING_REPORTS  # the first one may take twice as long
        while missing < MISSING_REPORTS:
            await asyncio.sleep(LOOK_SECONDS)
            if self._peer.connectionState != "connected":
                continue
            before, reported_at = reported_at, await self._reported_at()
            missing = missing + 1 if reported_at == before else 0
        await self.close()

    async def _reported_at(self) -> datetime | None:
        """When the peer last said which pictures it receives, None before it first did."""
        told = (await self._peer.getStats()).values()
        reports = [one for one in told if one.type == "remote-inbound-rtp" and one.kind == "video"]
        return max((one.timestamp for one in reports), default=None)
