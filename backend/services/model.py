"""The chat model: one question out, its answer in as it is thought up."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass

from backend.errors import (
    BadRequest,
    GatewayError,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamError,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRejected,
)
from backend.services.dialects import json_object
from backend.services.forwarding import Forwarder, Upstream
from backend.services.headers import PSEUDONYM, first
from backend.services.http_client import UpstreamResponse
from backend.services.model_events import End, ModelEvents
from backend.services.policies import Timeouts
from backend.services.transports import UpstreamCall

# Some models load when they are asked to, behind a short door.
ACTIVATE_TIMEOUTS = Timeouts(first_byte=15, idle=5, total=15)

# A status of the model -> what the caller is told: whatever it is, it is not the student's mistake.
BY_STATUS: Mapping[int, type[UpstreamError]] = {
    429: UpstreamBusy,
    503: UpstreamBusy,
    504: UpstreamFirstByteTimeout,
}
ACTIVATE_BY_STATUS: Mapping[int, type[GatewayError]] = {**BY_STATUS, 400: BadRequest}

# HTTP status -> the sentence about the model; the 504's says timeout, which the frontend looks for.
SENTENCES: Mapping[int, str] = {
    502: "The chat model is not able to answer at present. Please try again later.",
    503: "The chat model is busy. Please try again shortly.",
    504: "Answer timeout: the chat model took too long. Please try again later.",
}


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds until the first of the text, between pieces of it, and for the whole answer."""

    first: float = 30.0
    idle: float = 60.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked, by whom, and the name of the conversation that it remembers."""

    text: str
    memory_key: str
    user_id: int


class Model:
    """Asks the chat model."""

    def __init__(self, forwarder: Forwarder, upstream: Upstream, patience: Patience | None = None) -> None:
        self._forwarder = forwarder
        self._upstream = upstream
        self.patience = patience or Patience()

    async def ask(self, prompt: Prompt) -> "ModelAnswer":
        """Return the answer once the first of its text is there.

        Raises UpstreamError when the model is down, late, or begins with an error.
        """
        try:
            return await self._begun(prompt)
        except UpstreamError as error:
            raise spoken(error) from error

    async def activate(self, name: str) -> str:
        """Have another model loaded, at every address, and return what the service says.

        Raises BadRequest and UpstreamError, also when one address of several does not do it.
        """
        try:
            several = [self._activated(one, name) for one in self._upstream.apart()]
            answers = await asyncio.gather(*several, return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            if failed:
                raise failed[0]
        except BadRequest as exc:
            raise BadRequest("The chat service knows no model of that name.") from exc
        except UpstreamError as error:
            raise spoken(error) from error
        return str(answers[0]) or "The model was activated."

    async def _activated(self, upstream: Upstream, name: str) -> str:
        asked = {"model": name}
        answer = await self._forwarder.ask("POST", upstream, "/activate_model", ACTIVATE_TIMEOUTS, asked)
        told = json_object(answer.status, answer.content, ACTIVATE_BY_STATUS).get("message")
        return told if isinstance(told, str) else ""

    async def _begun(self, prompt: Prompt) -> "ModelAnswer":
        clock = asyncio.get_running_loop().time
        began = clock()
        # The model remembers what was said before, and each address of it for itself.
        upstream = self._upstream.sticky(prompt.memory_key)
        forwarded = await self._forwarder.send(self._call(prompt), upstream)
        body = forwarded.body
        try:
            async with asyncio.timeout(max(0.0, self.patience.first - (clock() - began))):
                await _check_head(forwarded.status, body)
                answer = ModelAnswer(body)
                await answer.begin()
        except TimeoutError:
            await body.aclose()
            raise UpstreamFirstByteTimeout from None
        except BaseException:
            await body.aclose()
            raise
        return answer

    def _call(self, prompt: Prompt) -> UpstreamCall:
        question = {"input": prompt.text, "session_id": prompt.memory_key, "user_id": str(prompt.user_id)}
        patience = self.patience
        return UpstreamCall(
            method="POST",
            origin=self._upstream.origins[0],
            target=self._upstream.base_path + b"/chat/stream",
            headers=(
                (b"content-type", b"application/json"),
                (b"accept", b"text/event-stream"),
                (b"accept-encoding", b"identity"),
                (b"user-agent", PSEUDONYM),
            ),
            body=json.dumps(question, ensure_ascii=False).encode("utf-8"),
            timeouts=Timeouts(first_byte=patience.first, idle=patience.idle, total=patience.total),
        )

    def __repr__(self) -> str:
        return f"<Model {self._upstream.name}>"


class ModelAnswer:
    """The text of one answer, piece by piece; owns the call to the model."""

    def __init__(self, body: UpstreamResponse) -> None:
        self._body = body
        self._events = ModelEvents()
        self._begun = ""

    async def begin(self) -> None:
        """Wait for the first of the text. Raises UpstreamError when there will be none."""
        self._begun = await self.read()
        if not self._begun:
            raise UpstreamGarbage("The chat model had nothing to say.")

    async def read(self) -> str:
        """Return more of the text, "" when the model said that it has finished.

        Raises UpstreamError when it breaks off, and UpstreamRejected when it says that it failed.
        """
        text, self._begun = self._begun, ""
        events = self._events
        while not text and events.end is None:
            content = await self._body.read()
            text = events.feed(content) if content else events.finish()
            if not content and not text and events.end is None:
                raise UpstreamBroken
        if not text and events.end is End.ERROR:
            raise UpstreamRejected
        return text

    def hold(self) -> bool:
        """Let more of the text come together; False where that is not possible."""
        return self._events.end is None and self._body.hold()

    async def aclose(self) -> None:
        """End the call: some models keep their stream open behind the last word."""
        await self._body.aclose()


def spoken(error: UpstreamError) -> UpstreamError:
    """Return the same error, told of the chat model."""
    told = type(error)(SENTENCES[error.status])
    told.retry_after_seconds = error.retry_after_seconds
    return told


async def _check_head(status: int, body: UpstreamResponse) -> None:
    """Raise what an answer that is no event stream means; some failures come as JSON with status 200."""
    kind = (first(body.headers, b"content-type") or b"").strip().lower()
    if status >= 400:
        raise BY_STATUS.get(status, UpstreamRejected)()
    packing = first(body.headers, b"content-encoding") or b"identity"
    if status == 200 and kind.startswith(b"text/event-stream") and packing == b"identity":
        return
    raise UpstreamRejected if kind.startswith(b"application/json") else UpstreamGarbage
