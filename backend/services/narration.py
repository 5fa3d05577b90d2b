"""Narration: a user's own avatar speaks the answers, sentence by sentence, beside the text."""

import asyncio
import logging
from collections import deque

from backend.errors import GatewayError
from backend.services.forwarding import Forwarder
from backend.services.policies import Timeouts
from backend.services.seats import Seat
from backend.services.sentences import Sentences
from backend.services.sessions import Sessions

log = logging.getLogger("gateway.narration")

# An instance only queues what it is given, which takes milliseconds.
SPEAK_SECONDS = 3.0
TIMEOUTS = Timeouts(first_byte=3, idle=3, total=3)
# Sentences that wait for one voice: an answer of many minutes. Beyond, the rest stays unspoken.
MOST_WAITING = 100
# Users whose avatars speak at once; a worker of the gateway serves no more than some thousand.
MOST_SPEAKERS = 1_000
# Of them, who looks into the database at once: a full queue there would cost others more than their speech.
LOOKING_AT_ONCE = 4


class Narration:
    """Gives sentences to avatars: in order, from one task a user while there is something to say.

    A new answer for a user silences the former one. Whatever fails is dropped: text never waits for speech.
    """

    def __init__(self, forwarder: Forwarder, sessions: Sessions) -> None:
        self._forwarder = forwarder
        self._sessions = sessions
        self._voices: dict[int, Voice] = {}
        self._speakers: dict[int, asyncio.Task[None]] = {}
        self._looking = asyncio.Semaphore(LOOKING_AT_ONCE)
        self._closed = False

    def begin(self, user_id: int) -> "Voice":
        """Return the voice of a new answer."""
        former = self._voices.pop(user_id, None)
        if former is not None:
            former.silence()
        voice = Voice(self, user_id)
        if len(self._voices) < MOST_SPEAKERS and not self._closed:
            self._voices[user_id] = voice
        else:
            voice.silence()
        return voice

    def wake(self, voice: "Voice") -> None:
        """See to it that somebody speaks what waits."""
        user_id = voice.user_id
        if self._voices.get(user_id) is voice and user_id not in self._speakers:
            speaker = asyncio.get_running_loop().create_task(self._speak(user_id))
            self._speakers[user_id] = speaker
            speaker.add_done_callback(lambda ended: self._ended(user_id, ended))

    def leave(self, voice: "Voice") -> None:
        """Forget a voice that has nothing more to say."""
        if self._voices.get(voice.user_id) is voice:
            del self._voices[voice.user_id]

    async def aclose(self) -> None:
        """Fall silent."""
        self._closed = True
        for voice in list(self._voices.values()):
            voice.silence()
        speakers = list(self._speakers.values())
        for speaker in speakers:
            speaker.cancel()
        await asyncio.gather(*speakers, return_exceptions=True)

    def _ended(self, user_id: int, speaker: "asyncio.Task[None]") -> None:
        del self._speakers[user_id]
        voice = self._voices.get(user_id)
        if not speaker.cancelled() and (error := speaker.exception()) is not None:
            log.error("narration failed", exc_info=error)
            if voice is not None:
                voice.silence()
        elif voice is not None and voice.waiting and not self._closed:
            self.wake(voice)

    async def _speak(self, user_id: int) -> None:
        while (voice := self._voices.get(user_id)) is not None and voice.waiting:
            try:
                async with asyncio.timeout(SPEAK_SECONDS):
                    await self._next_sentence(voice)
            except (GatewayError, TimeoutError) as error:
                log.info("an avatar does not speak: %s", getattr(error, "code", "late"))
                voice.silence()

    async def _next_sentence(self, voice: "Voice") -> None:
        if voice.seat is None:
            async with self._looking:
                voice.seat = await self._sessions.seat_of(voice.user_id)
        seat = voice.seat
        if seat is None or seat.peer_session is None:
            voice.silence()  # nobody listens
            return
        if (sentence := voice.take()) is None:
            return
        said = {"sessionid": seat.peer_session, "text": sentence, "type": "echo"}
        answer = await self._forwarder.ask("POST", seat.upstream, "/human", TIMEOUTS, said)
        self._sessions.fleet.dialect.object(answer.status, answer.content)

    def __repr__(self) -> str:
        return f"<Narration {len(self._speakers)} speaking>"


class Voice:
    """One answer on its way to being spoken."""

    def __init__(self, narration: Narration, user_id: int) -> None:
        self.user_id = user_id
        self.seat: Seat | None = None
        self._narration = narration
        self._sentences = Sentences()
        self._waiting: deque[str] = deque()
        self._silent = False
        self._complete = False

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def say(self, text: str) -> None:
        """Take more of the text; never waits."""
        if not self._silent:
            self._add(self._sentences.feed(text))

    def finish(self) -> None:
        """Take the last sentence: no more text comes."""
        if not self._silent:
            self._complete = True
            self._add(self._sentences.flush())
        self._leave_if_done()

    def silence(self) -> None:
        """Say nothing more, also of what waits."""
        self._silent = self._complete = True
        self._waiting.clear()
        self._leave_if_done()

    def take(self) -> str | None:
        """Return the next sentence."""
        sentence = self._waiting.popleft() if self._waiting else None
        self._leave_if_done()
        return sentence

    def _add(self, sentences: list[str]) -> None:
        for sentence in sentences:
            if len(self._waiting) >= MOST_WAITING:
                self._silent = True  # what waits is still spoken; a text with gaps would be worse
                return
            self._waiting.append(sentence)
        if self._waiting:
            self._narration.wake(self)

    def _leave_if_done(self) -> None:
        if self._complete and not self._waiting:
            self._narration.leave(self)
