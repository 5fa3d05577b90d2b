"""Codes that prove that somebody reads a mailbox: six digits, by mail, good for one purpose, once."""

import hmac
import math
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.errors import BadRequest, TooManyRequests
from backend.models import VerificationCode
from backend.models.user import EMAIL_CHARACTERS
from backend.models.verification_code import Purpose
from backend.services.accounts import in_use, known, normalised
from backend.services.codes import Codes
from backend.services.database import Database
from backend.services.mail import Mail
from backend.services.mail_server import mailable
from backend.services.outbox import HOLD, Outbox, Pending

LIFE_SECONDS = 300
APART_SECONDS = 10  # between two codes for the same e-mail and purpose
ATTEMPTS = 5  # a code can be tried so often: one in 200,000 is guessed
WRONG = "This code is wrong or too old. Please check it, or ask for a new one."


class Verification:
    """Sends codes, counts the attempts to enter them, and spends them.

    Only a keyed hash of a code is stored, and until it is mailed a seed, which is worth nothing without the
    key: who reads the database cannot try a million codes on it.
    """

    def __init__(
        self, key: str, database: Database, mail: Mail, clock: Callable[[], float] = time.time
    ) -> None:
        self._codes = Codes(key)
        self._database = database
        self._mail = mail
        self._clock = clock
        self.outbox = Outbox(self._codes, database, mail, clock)

    async def send(self, email: str, purpose: Purpose) -> None:
        """Mail a code, which replaces the last one; to register, the e-mail must have no account yet.

        For the other purposes nothing tells whether there is an account: without one a code is made and
        goes nowhere. Raises BadRequest, Conflict, TooManyRequests, Overloaded and MailUnavailable.
        """
        email = normalised(email)
        if not _possible(email):
            raise BadRequest("Mail cannot be sent to this e-mail. It needs the form name@place.example.")
        pending = self._new(email, purpose)
        with self._mail.place() as post:
            # From here on another process sends it should this one die.
            if await self._database.run(lambda session: self._issue(session, pending)):
                post(self.outbox.letter(pending))

    def attempt(self, session: Session, email: str, purpose: Purpose, code: str) -> bool:
        """Count an attempt and tell whether the code is right; the transaction must not fail then.

        One statement counts, so that no number of processes gets a further attempt.
        """
        good = VerificationCode.attempts < ATTEMPTS, VerificationCode.expires_at > self._now
        counting = update(VerificationCode).where(*_of(email, purpose), *good)
        counting = counting.values(attempts=VerificationCode.attempts + 1)
        stored = session.execute(counting.returning(VerificationCode.code_hash)).scalar_one_or_none()
        return stored is not None and hmac.compare_digest(stored, self._codes.hashed(email, purpose, code))

    def spend(self, session: Session, email: str, purpose: Purpose, code: str) -> bool:
        """Use up a code that an attempt found right, in the transaction of what it is good for.

        Tells whether it was still there: of several who come with the same code, one has it.
        """
        this = VerificationCode.code_hash == self._codes.hashed(email, purpose, code)
        spending = delete(VerificationCode).where(
            *_of(email, purpose), this, VerificationCode.expires_at > self._now
        )
        spent = session.execute(spending.returning(VerificationCode.email))
        return spent.scalar_one_or_none() is not None

    @property
    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _new(self, email: str, purpose: Purpose) -> Pending:
        seed, now = secrets.token_hex(16), self._now
        code_hash = self._codes.hashed(email, purpose, self._codes.made_of(seed))
        return Pending(email, purpose, seed, code_hash, now, now + timedelta(seconds=LIFE_SECONDS))

    def _issue(self, session: Session, pending: Pending) -> bool:
        """Store a new code; tell whether to send it. Raises Conflict and TooManyRequests."""
        now, email, purpose = pending.sent_at, pending.email, pending.purpose
        session.execute(delete(VerificationCode).where(VerificationCode.expires_at <= now))
        registered = in_use(session, email)
        if registered and purpose == "register":
            raise known(email)
        wanted = registered or purpose == "register"
        to_be_mailed = wanted and self._mail.sends
        values = {
            "code_hash": pending.code_hash,
            "sent_at": now,
            "expires_at": pending.expires_at,
            "attempts": 0,
            "seed": pending.seed if to_be_mailed else None,
            "held_until": now + HOLD if to_be_mailed else None,
        }
        apart = timedelta(seconds=APART_SECONDS)
        insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        statement: Any = insert(VerificationCode).values(email=email, purpose=purpose, **values)
        replacing = statement.on_conflict_do_update(
            index_elements=[VerificationCode.email, VerificationCode.purpose],
            set_=values,
            # A code from the future, by a clock that was set back since, holds nobody up.
            where=~VerificationCode.sent_at.between(now - apart, now + apart),
        )
        if session.execute(replacing.returning(VerificationCode.email)).scalar_one_or_none() is None:
            sent_at = session.scalar(select(VerificationCode.sent_at).where(*_of(email, purpose)))
            raise _too_soon((sent_at or now) + apart - now)
        return wanted


def _possible(email: str) -> bool:
    return len(email) <= EMAIL_CHARACTERS and mailable(email)


def _of(email: str, purpose: Purpose) -> tuple[Any, Any]:
    return VerificationCode.email == email, VerificationCode.purpose == purpose


def _too_soon(left: timedelta) -> TooManyRequests:
    seconds = min(APART_SECONDS, max(1, math.ceil(left.total_seconds())))
    return TooManyRequests(
        f"A code was sent a moment ago. Please wait {seconds} seconds before asking for another one.",
        retry_after_seconds=seconds,
    )
