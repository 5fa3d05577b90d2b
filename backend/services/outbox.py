"""Mails with codes: in the hands of one process, and of another one when that died.

code stored, with its seed ──► letter in a process's hands ──► sent: the seed is gone
                                 │ says so again, every round    │ refused: so is the code
                                 ▼                               ▼ stopped: given back
                               killed: the hold lapses ──► some process's next round sends it

A process that dies between the mail server's answer and the database's has sent a mail that goes out twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from backend.errors import GatewayError, MailUnavailable, Overloaded
from backend.models import VerificationCode
from backend.models.verification_code import Purpose
from backend.services.codes import Codes
from backend.services.database import Database
from backend.services.leases import LEASE_SECONDS, RENEW_SECONDS
from backend.services.mail import Letter, Mail, Outcome

log = logging.getLogger("gateway.mail")

HOLD = timedelta(seconds=LEASE_SECONDS)
MOST_AT_ONCE = 50  # mails that one round takes over: the other processes take some, too

AIMS: dict[Purpose, str] = {
    "register": "create your account",
    "update_password": "change your password",
    "delete_account": "delete your account",
}
SUBJECT = "Your verification code"
TEXT = """\
Your code to {aim}: {code}

It is good for {minutes} minutes, once. Nobody will ever ask you for it but the page where you requested it.
If you did not request it, there is nothing to do: without the code nothing happens.
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """A code that is to be mailed; `code_hash` tells it from the next one of the same person."""

    email: str
    purpose: Purpose
    seed: str
    code_hash: str
    sent_at: datetime
    expires_at: datetime


class Outbox:
    """The codes that this process mails."""

    def __init__(self, codes: Codes, database: Database, mail: Mail, clock: Callable[[], float]) -> None:
        self._codes = codes
        self._database = database
        self._mail = mail
        self._clock = clock
        self._held: set[str] = set()
        self._sent: set[str] = set()  # of which the database does not know yet
        self._rounds: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now, and every RENEW_SECONDS, for what others left; nothing is done without a mail server."""
        if self._mail.sends:
            self._rounds = asyncio.create_task(self._go_round(), name="outbox")

    async def aclose(self) -> None:
        """Take nothing more; to be followed by the end of the mail, which gives back what is left."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.gather(self._rounds, return_exceptions=True)

    def letter(self, pending: Pending) -> Letter:
        """Write the mail of a code; it is in this process's hands until it has ended."""
        code = self._codes.made_of(pending.seed)
        minutes = round((pending.expires_at - pending.sent_at).total_seconds() / 60)
        text = TEXT.format(aim=AIMS[pending.purpose], code=code, minutes=minutes)
        worth = (pending.expires_at - self._now).total_seconds()
        if self._mail.sends:  # else it is only logged, and nothing comes of it
            self._held.add(pending.code_hash)

        async def ended(outcome: Outcome) -> None:
            self._held.discard(pending.code_hash)
            await self._note(pending, outcome)

        return Letter(pending.email, SUBJECT, text, worth, ended)

    async def round(self) -> None:
        """Hold on to what is in hand, and send what nobody holds. Raises StoreUnavailable."""
        sent, held, now = list(self._sent), list(self._held), self._now
        room = min(MOST_AT_ONCE, self._mail.room)

        def work(session: Session) -> list[Pending]:
            if sent:
                _settle(session, sent)
            if held:
                _hold(session, held, now + HOLD)
            return _take_over(session, now, room)

        taken = await self._database.run(work)
        self._sent.difference_update(sent)
        for pending in taken:
            await self._post(pending)

    @property
    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def __repr__(self) -> str:
        return f"<Outbox {len(self._held)} in hand, {len(self._sent)} sent and not noted>"

    async def _post(self, pending: Pending) -> None:
        code = self._codes.made_of(pending.seed)
        if self._codes.hashed(pending.email, pending.purpose, code) != pending.code_hash:
            log.warning("a mail of another key or release is not sent")
            # The code stays: a release that knows no seeds may have sent it.
            await self._database.run(lambda session: _settle(session, [pending.code_hash]))
            return
        # Without room it is taken over once more when the hold has lapsed.
        with contextlib.suppress(Overloaded, MailUnavailable), self._mail.place() as post:
            post(self.letter(pending))
            log.info("a mail that another process left is sent now")

    async def _note(self, pending: Pending, outcome: Outcome) -> None:
        this = (
            VerificationCode.email == pending.email,
            VerificationCode.purpose == pending.purpose,
            VerificationCode.code_hash == pending.code_hash,
        )
        if outcome == "refused":
            await self._database.run(lambda s: s.execute(delete(VerificationCode).where(*this)).close())
        elif outcome == "left":
            free = update(VerificationCode).where(*this).values(held_until=self._now)
            await self._database.run(lambda s: s.execute(free).close())
        else:
            self._sent.add(pending.code_hash)
            await self._database.run(lambda s: _settle(s, [pending.code_hash]))
            self._sent.discard(pending.code_hash)

    async def _go_round(self) -> None:
        while True:
            try:
                await self.round()
            except GatewayError as error:
                log.info("what others left is looked for later: %s", error.code)
            except Exception:
                log.exception("what others left is looked for later")
            await asyncio.sleep(RENEW_SECONDS)


def _settle(session: Session, code_hashes: list[str]) -> None:
    done = update(VerificationCode).where(VerificationCode.code_hash.in_(code_hashes))
    session.execute(done.values(seed=None, held_until=None))


def _hold(session: Session, code_hashes: list[str], until: datetime) -> None:
    mine = VerificationCode.code_hash.in_(code_hashes), VerificationCode.seed.is_not(None)
    session.execute(update(VerificationCode).where(*mine).values(held_until=until))


def _take_over(session: Session, now: datetime, most: int) -> list[Pending]:
    """Take what nobody holds; of several processes one has each."""
    free = (
        VerificationCode.held_until <= now,
        VerificationCode.seed.is_not(None),
        VerificationCode.expires_at > now,
    )
    # Asked first, for most rounds find nothing: an UPDATE would wait for other writers.
    found = list(session.scalars(select(VerificationCode.code_hash).where(*free).limit(most)))
    if not found:
        return []
    taking = update(VerificationCode).where(VerificationCode.code_hash.in_(found), *free)
    rows = session.execute(
        taking.values(held_until=now + HOLD).returning(
            VerificationCode.email,
            VerificationCode.purpose,
            VerificationCode.seed,
            VerificationCode.code_hash,
            VerificationCode.sent_at,
            VerificationCode.expires_at,
        ),
        execution_options={"synchronize_session": False},
    )
    return [
        Pending(email, purpose, seed or "", code_hash, sent_at, expires_at)
        for email, purpose, seed, code_hash, sent_at, expires_at in rows
    ]
