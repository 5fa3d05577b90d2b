"""The mail server, and how a message is handed to it; the only file that knows `aiosmtplib`."""

import asyncio
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
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

STEP_SECONDS = 10.0  # connecting, or one answer of the server
FAREWELL_SECONDS = 2.0

ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
MAILABLE = re.compile(rf"{ATOM}(?:\.{ATOM})*@{LABEL}(?:\.{LABEL})+")


class Undeliverable(Exception):
    """A message was not taken; `final` where another attempt would fail in the same way."""

    def __init__(self, trouble: str, *, final: bool) -> None:
        super().__init__(trouble)
        self.final = final


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

    def trust(self) -> ssl.SSLContext:
        """Read the certificates that this machine trusts, from disk."""
        context = ssl.create_default_context()
        if self.here:  # mail servers on the same machine come with certificates that nobody signed
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    @property
    def here(self) -> bool:
        """Whether nobody can listen on the way."""
        return self.host in ("localhost", "127.0.0.1", "::1")

    def __repr__(self) -> str:
        return f"<Server {self.host}:{self.port}>"

    async def hand_over(
        self,
        message: EmailMessage,
        trusted: ssl.SSLContext | None,
        seconds: float,
        on_taken: Callable[[], None],
    ) -> None:
        """Give a message to the server, within so many seconds. Raises Undeliverable."""
        sender, to = (message[name].addresses[0].addr_spec for name in ("From", "To"))
        smtp = self._connection(sender.partition("@")[2], trusted)
        try:
            async with asyncio.timeout(seconds):
                await smtp.connect()
                await smtp.send_message(message, sender=sender, recipients=[to])
            # It was taken, whatever the server says to the farewell.
            on_taken()
            with suppress(SMTPException, OSError):
                await smtp.quit(timeout=FAREWELL_SECONDS)
        except (SMTPException, OSError) as exc:  # TimeoutError is an OSError
            raise Undeliverable(_spoken(exc), final=_final(exc)) from exc
        finally:
            smtp.close()

    def _connection(self, name: str, trusted: ssl.SSLContext | None) -> SMTP:
        # Whoever is on the way can hide the offer of STARTTLS: a password needs it.
        required = self.user is not None and not self.here
        return SMTP(
            hostname=self.host,
            port=self.port,
            username=self.user,
            password=self.password,
            # Asking the system for a name of this machine may ask a name server, and would tell it to others.
            local_hostname=name,
            timeout=STEP_SECONDS,
            use_tls=self.tls,
            start_tls=False if self.tls else (True if required else None),
            tls_context=trusted,
        )


def mailable(address: str) -> bool:
    """Tell whether mail can be sent to an address, and to nobody else by it (RFC 5321, without quoting)."""
    return MAILABLE.fullmatch(address) is not None


def message_of(sender: str, to: str, subject: str, text: str) -> EmailMessage:
    """Write a mail out; what would be another header or another address raises."""
    message = EmailMessage()
    message["From"] = Address(addr_spec=sender)
    message["To"] = Address(addr_spec=to)
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=sender.partition("@")[2])
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message.set_content(text)
    return message


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
