"""Mail, handed to its server in the background: no request ever waits for that.

place ──► letter ──► queue ──► sender ──► mail server
                                 │  fails: again after a pause, while the letter is worth it
                                 ▼
                              ended(), so that whoever wrote it can take back what it says
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from backend.config import Settings
from backend.errors import GatewayError, MailUnavailable, Overloaded
from backend.services.mail_server import Server, Undeliverable, message_of

log = logging.getLogger("gateway.mail")

PLACES = (
    200  # letters that are not delivered yet; with a dead server, as many as 8 senders try in ten minutes
)
SENDERS = 8  # connections to the mail server at once
PAUSES_SECONDS = (1.0, 5.0, 20.0)  # between the attempts for one letter
ATTEMPT_SECONDS = 30.0  # one attempt as a whole: a server may answer each step just in time
FLUSH_SECONDS = 2.0  # what a stopping gateway gives to the letters left; a server gives all of it five
TELL_SECONDS = 0.5  # and to telling what became of those that stay
CANCELLED_AGAIN_SECONDS = 0.1
FULL_RETRY_SECONDS = 10

Outcome = Literal["delivered", "refused", "left"]


@dataclass(frozen=True, slots=True, eq=False)
class Letter:
    """A mail in plain text, the gist of it in the first line; worth sending for `worth_seconds`.

    `ended` hears what became of it: delivered, refused for good or in vain, or left by a gateway that stops.
    """

    to: str
    subject: str
    text: str
    worth_seconds: float
    ended: Callable[[Outcome], Awaitable[None]]


class Mail:
    """Takes letters on the loop that `start` ran on; raises MailUnavailable when they would go nowhere.

    Without a server, letters are logged for `development`, which is a gateway that nobody else can reach.
    """

    def __init__(
        self,
        server: Server | None,
        sender: str,
        *,
        development: bool = False,
        trusted: ssl.SSLContext | None = None,
        places: int = PLACES,
        pauses_seconds: Sequence[float] = PAUSES_SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._server = server
        self._sender = sender
        self._development = development
        self._tls = trusted
        self._places = places
        self._pauses_seconds = pauses_seconds
        self._attempt_seconds = attempt_seconds
        self._flush_seconds = flush_seconds
        self._taken = 0
        self._queue: asyncio.Queue[Letter] = asyncio.Queue(places)
        # What is to be told of each, once its sender is done or stopped.
        self._outcomes: dict[Letter, Outcome] = {}
        self._senders: list[asyncio.Task[None]] = []

    @classmethod
    def of(cls, settings: Settings) -> "Mail":
        url = settings.smtp_url
        server = None if url is None else Server.at(url.get_secret_value())
        return cls(server, settings.gateway_mail_from, development=settings.loopback)

    async def start(self) -> None:
        if self._server is None:
            if not self._development:
                log.warning("SMTP_URL is not set: nobody can register or change a password by a mailed code")
            return
        if self._tls is None:
            # Reads the system's certificates from disk.
            self._tls = await asyncio.to_thread(self._server.trust)
        self._senders = [asyncio.create_task(self._work(), name="mail sender") for _ in range(SENDERS)]

    async def aclose(self) -> None:
        """Deliver what is queued, for a bounded time; the rest is left."""
        senders, self._senders = self._senders, []
        if senders:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._queue.join()
        await _ended(senders)
        if undelivered := self.undelivered:
            log.warning("stopped with %d mails undelivered", undelivered)
        untold, self._outcomes = self._outcomes, {}
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_SECONDS):
                await asyncio.gather(*(_tell(letter, outcome) for letter, outcome in untold.items()))

    @contextmanager
    def place(self) -> Iterator[Callable[[Letter], None]]:
        """Hold a place for a letter and yield what takes it; a place without a letter is free again.

        So there is room before anything is written that would have to be undone. Raises Overloaded and
        MailUnavailable.
        """
        if not self.sends and not (self._server is None and self._development):
            raise MailUnavailable
        if self._taken >= self._places:
            raise Overloaded(retry_after_seconds=FULL_RETRY_SECONDS)
        self._taken += 1
        posted = False

        def post(letter: Letter) -> None:
            nonlocal posted
            posted = self._post(letter)

        try:
            yield post
        finally:
            if not posted:
                self._taken -= 1

    @property
    def waiting(self) -> int:
        """Places taken by letters that are neither done with nor given up."""
        return self._taken

    @property
    def room(self) -> int:
        """Places that are free, none where nothing is sent."""
        return self._places - self._taken if self.sends else 0

    @property
    def sends(self) -> bool:
        """Whether letters go to a mail server."""
        return bool(self._senders)

    @property
    def undelivered(self) -> int:
        """Letters that no server has taken."""
        return sum(outcome != "delivered" for outcome in self._outcomes.values())

    def __repr__(self) -> str:
        return f"<Mail to {self._server!r}, {self._taken} of {self._places} places taken>"

    def _post(self, letter: Letter) -> bool:
        """Queue a letter; False when it needs no place."""
        if self._server is None:
            gist = letter.text.partition("\n")[0]
            log.info("for development only, as SMTP_URL is not set: mail to %s: %s", letter.to, gist)
            return False
        self._outcomes[letter] = "left"
        self._queue.put_nowait(letter)
        return True

    async def _work(self) -> None:
        while True:
            letter = await self._queue.get()
            try:
                if not await self._delivered(letter):
                    self._outcomes[letter] = "refused"
                await _tell(letter, self._outcomes[letter])
                del self._outcomes[letter]
            finally:
                self._taken -= 1
                self._queue.task_done()

    async def _delivered(self, letter: Letter) -> bool:
        """Try until it is delivered, or no further attempt makes sense; tell which."""
        worth_until = time.monotonic() + letter.worth_seconds
        for pause in (*self._pauses_seconds, None):
            try:
                await self._hand_over(letter)
                return True
            except Undeliverable as exc:
                trouble, final = exc, exc.final
            except Exception:  # a mistake costs this letter, not the sender
                log.exception("mail not delivered")
                return False
            if final or pause is None or time.monotonic() + pause > worth_until:
                log.warning("mail not delivered: %s", trouble)
                return False
            log.info("mail not delivered yet: %s", trouble)
            await asyncio.sleep(pause)
        raise AssertionError  # the last attempt has no pause behind it

    async def _hand_over(self, letter: Letter) -> None:
        if self._server is None:
            raise MailUnavailable

        def taken() -> None:
            self._outcomes[letter] = "delivered"

        message = message_of(self._sender, letter.to, letter.subject, letter.text)
        await self._server.hand_over(message, self._tls, self._attempt_seconds, taken)


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are done: the library waits by `wait_for`, which may swallow one on 3.11."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCELLED_AGAIN_SECONDS)


async def _tell(letter: Letter, outcome: Outcome) -> None:
    try:
        await letter.ended(outcome)
    except GatewayError as exc:
        log.warning("nobody noted that a mail was %s: %s", outcome, exc.code)
