"""Accounts: who may sign in, and how one is made."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from backend.errors import BadRequest, Conflict, NotAuthenticated
from backend.models import Profile, login_session, stored_file
from backend.models.profile import NAME_CHARACTERS
from backend.models.user import BANNED, EMAIL_CHARACTERS, ROLES, User
from backend.services.database import Database
from backend.services.notifications import notify
from backend.services.passwords import Passwords

LEAST_PASSWORD_CHARACTERS = 8
# Of the stored hash in one sign-in: another sign-in may have renewed it since, and a renewed hash is not
# renewed again but by a release with other parameters.
LOOKS = 3
WRONG = "Wrong email or password."
WELCOME = "Your account is ready. Choose an avatar, connect, and ask your first question."


@dataclass(frozen=True)
class Account:
    """A person; `password_hash` is what their password was checked against, None where none was asked for."""

    id: int
    email: str
    role: str
    password_hash: str | None = field(default=None, repr=False, compare=False)


class Accounts:
    """The people of this gateway."""

    def __init__(
        self, database: Database, passwords: Passwords, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock

    async def authenticate(self, email: str, password: str) -> Account:
        """The account that these credentials open; its `last_login` becomes now.

        Raises NotAuthenticated, with one sentence for an unknown e-mail, a wrong password and a banned user.
        """
        for _ in range(LOOKS):
            account, password_hash = await self._stored(email)
            fits = await self._passwords.verify(password_hash, password)
            if account is None or password_hash is None or not fits:
                break
            touched = await self._touch(account, password_hash, password)
            if touched is not None:
                return touched
        raise NotAuthenticated(WRONG)

    async def _touch(self, account: Account, password_hash: str, password: str) -> Account | None:
        """Note a sign-in, renewing the hash if need be; None when the row has another hash by now."""
        changes: dict[str, Any] = {"last_login": datetime.fromtimestamp(self._clock(), UTC)}
        if self._passwords.needs_rehash(password_hash):
            changes["password_hash"] = await self._passwords.hash(password)
        # A password changed meanwhile wins: the row then no longer matches.
        seen = User.id == account.id, User.password_hash == password_hash, User.status != BANNED
        touch = update(User).where(*seen).values(changes).returning(User.id)
        if await self._database.run(lambda session: session.execute(touch).scalar()) is None:
            return None
        return replace(account, password_hash=changes.get("password_hash", password_hash))

    async def create(self, email: str, password: str, role: str) -> Account:
        """Make an account; raises BadRequest for what is malformed, Conflict for a known e-mail."""
        email = _checked(email, password, role)
        password_hash = await self._passwords.hash(password)
        try:
            return await self._database.run(lambda session: insert(session, email, password_hash, role))
        except Conflict as exc:
            raise known(email) from exc

    def create_now(self, email: str, password: str, role: str) -> Account:
        """`create` in the calling thread: for the command line, never for the event loop."""
        email = _checked(email, password, role)
        password_hash = self._passwords.hash_now(password)
        try:
            with self._database.transaction() as session:
                return insert(session, email, password_hash, role)
        except Conflict as exc:
            raise known(email) from exc

    async def _stored(self, email: str) -> tuple[Account, str] | tuple[None, None]:
        email = normalised(email)
        if not _plausible(email):
            return None, None
        user = await self._database.run(lambda session: session.scalar(select(User).filter_by(email=email)))
        if user is None or user.status == BANNED:
            return None, None
        return _account(user), user.password_hash


def normalised(email: str) -> str:
    """The one spelling under which an e-mail is stored and looked for."""
    return email.strip().casefold()


def usable_email(email: str) -> str:
    """Return an e-mail in its one spelling. Raises BadRequest for what cannot be one."""
    email = normalised(email)
    if not _plausible(email):
        raise BadRequest(
            f"An e-mail has the form name@place.example and at most {EMAIL_CHARACTERS} characters."
        )
    return email


def _checked(email: str, password: str, role: str) -> str:
    email = usable_email(email)
    if role not in ROLES:
        raise BadRequest(f"A role is one of: {', '.join(ROLES)}.")
    if len(password) < LEAST_PASSWORD_CHARACTERS:
        raise BadRequest(f"A password has at least {LEAST_PASSWORD_CHARACTERS} characters.")
    return email


def require_strength(password: str) -> None:
    """Raise BadRequest for a password that people who choose their own may not choose.

    The frontend has the same rule, but not everybody comes through the frontend.
    """
    kinds = str.isupper, str.islower, str.isdigit, _is_special
    every_kind = all(any(kind(character) for character in password) for kind in kinds)
    if len(password) < LEAST_PASSWORD_CHARACTERS or not every_kind:
        raise BadRequest(
            f"A password has at least {LEAST_PASSWORD_CHARACTERS} characters, among them a capital letter, "
            "a small letter, a digit and another character."
        )


def _is_special(character: str) -> bool:
    return character.isprintable() and not character.isalnum() and not character.isspace()


def _plausible(email: str) -> bool:
    form = re.fullmatch(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", email)
    return form is not None and len(email) <= EMAIL_CHARACTERS and email.isprintable()


def in_use(session: Session, email: str) -> bool:
    """Tell whether there is an account for an e-mail, spelt as it is stored."""
    return session.scalar(select(User.id).where(User.email == email)) is not None


def insert(session: Session, email: str, password_hash: str, role: str) -> Account:
    """Add an account with its profile and a welcome."""
    user = User(email=email, password_hash=password_hash, role=role)
    session.add(user)
    session.flush()
    session.add(Profile(user_id=user.id, username=email.partition("@")[0][:NAME_CHARACTERS]))
    notify(session, user.id, "Welcome", WELCOME, "success")
    return _account(user)


def remove(session: Session, user_id: int) -> bool:
    """Delete a user with everything that is theirs; tell whether there was one.

    Files on disk and in the index follow when their owner is gone. To be followed by `Tokens.user_changed`.
    """
    stored_file.abandon(session, user_id)
    gone = session.execute(delete(User).where(User.id == user_id).returning(User.id)).scalar_one_or_none()
    # Afterwards: a sign-in that has just begun holds the user's row, and is found now.
    login_session.end(session, user_id, None, int(time.time() * 1_000_000))
    return gone is not None


def _account(user: User) -> Account:
    return Account(user.id, user.email, user.role)


def known(email: str) -> Conflict:
    """Return what is said to whoever wants an e-mail that somebody has."""
    return Conflict(f"There is an account for {email} already.")
