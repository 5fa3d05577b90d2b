"""Mail, handed to its server in the background: no request ever waits for that.

place ──► letter ──► queue ──► sender ──► mail server
                                 │  fails: again after a pause, while the letter is worth it
                                 ▼
                             undelivered(), so that whoever wrote it can take back what it says
"""

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from urllib.parse import unquote, urlsplit

from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPNotSupported,
    SMTPRecipientsRefused,
    SMTPResponseException,
)

from backend.config import Settings
from backend.errors import GatewayError, MailUnavailable, Overloaded

log = logging.getLogger("gateway.mail")

PLACES = (
    200  # letters that are not delivered yet; with a dead server, as many as 8 senders try in ten minutes
)
SENDERS = 8  # connections to the mail server at once
PAUSES_SECONDS = (1.0, 5.0, 20.0)  # between the attempts for one letter
STEP_SECONDS = 10.0  # connecting, or one answer of the server
ATTEMPT_SECONDS = 30.0  # one attempt as a whole: a server may answer each step just in time
FAREWELL_SECONDS = 2.0
FLUSH_SECONDS = 2.0  # what a stopping gateway gives to the letters left; a server gives all of it five
TAKE_BACK_SECONDS = 0.5  # and to taking back those that stay
CANCELLED_AGAIN_SECONDS = 0.1
FULL_RETRY_SECONDS = 10

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
MAILABLE = re.compile(rf"{ATOM}(?:\.{ATOM})*@{LABEL}(?:\.{LABEL})+")


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail goes; `tls` from the first byte, else STARTTLS where it is offered."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None

    @classmethod
    def at(cls, url: str) -> "Server":
        """Read a URL that the settings have checked."""
        parts = urlsplit(url)
        tls = parts.scheme == "smtps"
        port = parts.port or (465 if tls else 587)
        user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
        return cls(parts.hostname or "", port, tls, user, password)

    @property
    def here(self) -> bool:
        """Whether nobody can listen on the way."""
        return self.host in ("localhost", "127.0.0.1", "::1")

    def __repr__(self) -> str:
        return f"<Server {self.host}:{self.port}>"


@dataclass(frozen=True, slots=True, eq=False)
class Letter:
    """A mail in plain text, the gist of it in the first line; worth sending for `worth_seconds`."""

    to: str
    subject: str
    text: str
    worth_seconds: float
    undelivered: Callable[[], Awaitable[None]]


def mailable(address: str) -> bool:
    """Tell whether mail can be sent to an address, and to nobody else by it (RFC 5321, without quoting)."""
    return MAILABLE.fullmatch(address) is not None


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
        self._undelivered: set[Letter] = set()
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
            self._tls = await asyncio.to_thread(_context, self._server)
        self._senders = [asyncio.create_task(self._work(), name="mail sender") for _ in range(SENDERS)]

    async def aclose(self) -> None:
        """Deliver what is queued, for a bounded time; the rest is undelivered."""
        senders, self._senders = self._senders, []
        if senders:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._flush_seconds):
                    await self._queue.join()
        await _ended(senders)
        left, self._undelivered = self._undelivered, set()
        if left:
            log.warning("stopped with %d mails undelivered", len(left))
            with suppress(TimeoutError):
                async with asyncio.timeout(TAKE_BACK_SECONDS):
                    await asyncio.gather(*(_take_back(letter) for letter in left))

    @contextmanager
    def place(self) -> Iterator[Callable[[Letter], None]]:
        """Hold a place for a letter and yield what takes it; a place without a letter is free again.

        So there is room before anything is written that would have to be undone. Raises Overloaded and
        MailUnavailable.
        """
        if not self._senders and not (self._server is None and self._development):
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
    def undelivered(self) -> int:
        """Letters that no server has taken."""
        return len(self._undelivered)

    def __repr__(self) -> str:
        return f"<Mail to {self._server!r}, {self._taken} of {self._places} places taken>"

    def _post(self, letter: Letter) -> bool:
        """Queue a letter; False when it needs no place."""
        if self._server is None:
            gist = letter.text.partition("\n")[0]
            log.info("for development only, as SMTP_URL is not set: mail to %s: %s", letter.to, gist)
            return False
        self._undelivered.add(letter)
        self._queue.put_nowait(letter)
        return True

    async def _work(self) -> None:
        while True:
            letter = await self._queue.get()
            try:
                if not await self._delivered(letter):
                    await _take_back(letter)
                self._undelivered.discard(letter)
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
            except (SMTPException, OSError) as exc:  # TimeoutError is an OSError
                trouble, final = _spoken(exc), _final(exc)
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
        message = _message(letter, self._sender)
        smtp = self._connection()
        try:
            async with asyncio.timeout(self._attempt_seconds):
                await smtp.connect()
                await smtp.send_message(message, sender=self._sender, recipients=[letter.to])
            # It was taken, whatever the server says to the farewell.
            self._undelivered.discard(letter)
            with suppress(SMTPException, OSError):
                await smtp.quit(timeout=FAREWELL_SECONDS)
        finally:
            smtp.close()

    def _connection(self) -> SMTP:
        server = self._server
        if server is None:
            raise MailUnavailable
        # Whoever is on the way can hide the offer of STARTTLS: a password needs it.
        required = server.user is not None and not server.here
        return SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            # Asking the system for a name of this machine may ask a name server, and would tell it to others.
            local_hostname=self._sender.partition("@")[2],
            timeout=STEP_SECONDS,
            use_tls=server.tls,
            start_tls=False if server.tls else (True if required else None),
            tls_context=self._tls,
        )


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they are done: the library waits by `wait_for`, which may swallow one on 3.11."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCELLED_AGAIN_SECONDS)


def _context(server: Server) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if server.here:  # mail servers on the same machine come with certificates that nobody signed
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _message(letter: Letter, sender: str) -> EmailMessage:
    """Write a letter out; what would be another header or another address raises."""
    message = EmailMessage()
    message["From"] = Address(addr_spec=sender)
    message["To"] = Address(addr_spec=letter.to)
    message["Subject"] = letter.subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.partition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(letter.text)
    return message


async def _take_back(letter: Letter) -> None:
    try:
        await letter.undelivered()
    except GatewayError as exc:
        log.warning("what an undelivered mail says stays: %s", exc.code)


def _spoken(exc: Exception) -> str:
    """What went wrong, without the server's words: they may repeat the address."""
    if type(exc) is SMTPException:  # the library's own words, as for a server without STARTTLS
        return exc.message
    refused = exc.recipients[0] if isinstance(exc, SMTPRecipientsRefused) else exc
    code = f" {refused.code}" if isinstance(refused, SMTPResponseException) else ""
    cause = f" ({type(exc.__cause__).__name__})" if exc.__cause__ is not None else ""
    return f"{type(exc).__name__}{code}{cause}"


def _final(exc: Exception) -> bool:
    """Whether another attempt would fail in the same way (RFC 5321 section 4.2.1)."""
    refused = exc.recipients[0] if isinstance(exc, SMTPRecipientsRefused) else exc
    if isinstance(refused, SMTPResponseException):
        return refused.code >= 500
    if isinstance(exc.__cause__, ssl.SSLCertVerificationError):
        return True
    return type(exc) is SMTPException or isinstance(exc, SMTPNotSupported)
