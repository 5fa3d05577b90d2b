"""A question to the chat model and its answer on the way: to the browser, to the avatar, into the archive."""

import asyncio
import logging
from dataclasses import dataclass

from backend.errors import GatewayError
from backend.services.answer_stream import AnswerStream
from backend.services.archive import Archive
from backend.services.chats import Chats, Conversation
from backend.services.model import Model, ModelAnswer, Prompt
from backend.services.narration import Narration, Voice
from backend.services.retrieval import Retrieval, with_material, worth_looking_up

log = logging.getLogger("gateway.answering")

# Beyond any answer that somebody reads.
ANSWER_CHARACTERS = 1_000_000
# So long the end of an answer waits for its place in the database: the next list of messages then has it.
SAVE_SECONDS = 1.0

# The model is listened to so often: to be woken for each of its words costs several times what reading them
# costs, and text that grows sixteen times a second still seems to flow.
PACE_SECONDS = 0.06

BROKE_OFF = "\n\n[The answer ends here: the chat model stopped. Please ask again.]"
TOO_LONG = "\n\n[The answer is cut here: it is too long.]"


@dataclass(frozen=True, slots=True)
class Helpers:
    """Whom an answer goes by."""

    chats: Chats
    model: Model
    retrieval: Retrieval
    narration: Narration
    archive: Archive


class Answering:
    """Answers questions; every answer is a task that this object owns."""

    def __init__(self, helpers: Helpers) -> None:
        self._helpers = helpers
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def model(self) -> Model:
        return self._helpers.model

    @property
    def archive(self) -> Archive:
        return self._helpers.archive

    async def ask(self, user_id: int, chat_id: int | None, question: str) -> AnswerStream:
        """Keep a question and return its answer once the first of it is there.

        Raises NotFound for a conversation that is not the user's, Overloaded when too many ask, and
        UpstreamError when the model is down, late or begins with an error.
        """
        conversation = await self._helpers.chats.ask(user_id, chat_id, question)
        telling = _Telling(self._helpers, conversation, user_id, question)
        task = asyncio.get_running_loop().create_task(telling.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        stream = telling.stream
        stream.owned_by(task)
        try:
            await stream.begun
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def aclose(self) -> None:
        """End the answers on their way; what was said of them is kept."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._helpers.narration.aclose()
        await self._helpers.archive.aclose()
        await self._helpers.chats.aclose()

    def __repr__(self) -> str:
        return f"<Answering {len(self._tasks)} on their way, {self.archive!r}>"


class _Telling:
    """One answer, from the question to the archive."""

    def __init__(self, helpers: Helpers, conversation: Conversation, user_id: int, question: str) -> None:
        self._helpers = helpers
        self._conversation = conversation
        self._user_id = user_id
        self._question = question
        self._said: list[str] = []
        self._characters = 0
        self.stream = AnswerStream(conversation.chat_id if conversation.is_new else None)

    async def run(self) -> None:
        voice = self._helpers.narration.begin(self._user_id)
        try:
            await self._tell(voice)
            voice.finish()
        except asyncio.CancelledError:
            voice.silence()  # whoever left does not listen
            self._keep()
            raise
        except Exception as error:
            self._failed(error)
            voice.finish()
        saving = self._keep()
        if saving is not None:
            await asyncio.wait({saving}, timeout=SAVE_SECONDS)

    async def _tell(self, voice: Voice) -> None:
        answer = await self._helpers.model.ask(await self._prompt())
        try:
            await self._relay(answer, voice)
        except GatewayError as error:
            log.warning("the chat model broke off: %s", error.code)
            self._say(BROKE_OFF)
        finally:
            await answer.aclose()

    async def _relay(self, answer: ModelAnswer, voice: Voice) -> None:
        while text := await answer.read():
            self._characters += len(text)
            if self._characters > ANSWER_CHARACTERS:
                self._say(text[: ANSWER_CHARACTERS - self._characters] + TOO_LONG)
                return
            self._say(text)
            voice.say(text)
            if answer.hold():
                self.stream.gathers = False
                await asyncio.sleep(PACE_SECONDS)

    async def _prompt(self) -> Prompt:
        text = self._question
        if worth_looking_up(text):
            text = with_material(text, await self._helpers.retrieval.hits(self._user_id, text))
        return Prompt(text, self._conversation.memory_key, self._user_id)

    def _say(self, text: str) -> None:
        self._said.append(text)
        self.stream.say(text)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, GatewayError):
            log.error("an answer failed", exc_info=error)
        if self._said:
            self._say(BROKE_OFF)
        else:
            self.stream.fail(error)

    def _keep(self) -> "asyncio.Task[None] | None":
        """Hand what was said to the archive."""
        if not self._said:
            return None
        return self._helpers.archive.keep(self._conversation.chat_id, "".join(self._said))
