"""A mail server on the test's own loop: it keeps what it is given, and fails as it is told to."""

import asyncio
import contextlib
import email
import email.policy
import re
import ssl
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


@dataclass
class Mailbox:
    """What arrived. `refusals` are answered first, one a mail; `go` and `bye` hold answers back."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    users: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    connections: int = 0
    tried: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    bye: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        self.tried += 1
        await self.go.wait()
        if self.refusals:
            return self.refusals.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None)
        async with self.arrived:
            self.arrived.notify_all()
        return "250 taken"

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        await self.bye.wait()
        return "221 bye"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        user = data.login.decode(), data.password.decode()
        self.users.append(user)
        return AuthResult(success=user == ("gateway", "p@ss/word"), handled=False)

    async def mail(self, number: int = 1) -> EmailMessage:
        """Wait for so many mails, and return the last of them."""
        async with asyncio.timeout(60), self.arrived:
            await self.arrived.wait_for(lambda: len(self.mails) >= number)
        return self.mails[number - 1]

    async def code(self, number: int = 1) -> str:
        """Wait for so many mails, and return the code in the last of them."""
        match = re.search(r"\b\d{6}\b", (await self.mail(number)).get_content())
        assert match is not None
        return match[0]


@contextlib.asynccontextmanager
async def receiving(
    tls: ssl.SSLContext | None = None,
    *,
    starttls: ssl.SSLContext | None = None,
    login: bool = False,
    host: str = "127.0.0.1",
) -> AsyncIterator[Mailbox]:
    """Receive mail on a free loopback port."""
    mailbox = Mailbox()
    mailbox.go.set()
    mailbox.bye.set()
    sessions: list[SMTP] = []

    def session() -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it would take a password in the clear: as a test
            made = SMTP(
                mailbox,
                hostname="mail.test",
                tls_context=starttls,
                require_starttls=starttls is not None,
                authenticator=mailbox.authenticate if login else None,
                auth_required=login,
                auth_require_tls=starttls is not None,
            )
        sessions.append(made)
        mailbox.connections += 1
        return made

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, host, 0, ssl=tls)
    mailbox.port = server.sockets[0].getsockname()[1]
    try:
        yield mailbox
    finally:
        server.close()
        for made in sessions:
            if isinstance(made.transport, asyncio.WriteTransport):
                made.transport.abort()
        await asyncio.sleep(0)
