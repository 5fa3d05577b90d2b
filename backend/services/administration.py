"""What tutors see and do in their console: people, what changed, and what is public."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from backend.errors import BadRequest, GatewayError
from backend.models import Profile, StoredFile, User
from backend.services import account_changes, accounts
from backend.services.account_changes import OF_THE_ACCOUNT, Changes, Departed, Operator
from backend.services.database import Database
from backend.services.errands import Errands
from backend.services.passwords import Passwords
from backend.services.pictures import Pictures
from backend.services.sessions import Sessions
from backend.services.tokens import Principal, Tokens

T = TypeVar("T")

log = logging.getLogger("gateway.administration")

# The form of the frontend proposes one of six; whoever gets it is asked to change it.
LEAST_GIVEN_PASSWORD_CHARACTERS = 6
MOST_ERRANDS = 200


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which users to show; `search` is looked for in e-mail, user name and full name."""

    search: str = ""
    role: str | None = None
    status: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        found = []
        if self.search:
            columns = (User.email, Profile.username, Profile.full_name)
            found.append(or_(*(column.icontains(self.search, autoescape=True) for column in columns)))
        if self.role is not None:
            found.append(User.role == self.role)
        if self.status is not None:
            found.append(User.status == self.status)
        return found


@dataclass(frozen=True, slots=True)
class Member:
    """A user as a tutor sees them."""

    id: int
    email: str
    username: str
    full_name: str
    phone: str
    bio: str
    avatar: str
    role: str
    status: str
    created_at: datetime
    last_login: datetime | None


class Administration:
    """The tutors' console. A change that has begun goes on when its caller leaves, with all that follows."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        tokens: Tokens,
        sessions: Sessions,
        pictures: Pictures,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._tokens = tokens
        self._sessions = sessions
        self._pictures = pictures
        self._errands = Errands(MOST_ERRANDS)

    async def aclose(self) -> None:
        await self._errands.aclose()

    async def members(self, wanted: Wanted, *, offset: int, limit: int) -> tuple[list[Member], int]:
        """Return users, the newest first, and how many there are of the kind."""
        joined = select(User, Profile).outerjoin(Profile, Profile.user_id == User.id)
        rows = joined.where(*wanted.conditions()).order_by(User.id.desc()).offset(offset).limit(limit)
        count = select(func.count(User.id)).outerjoin(Profile, Profile.user_id == User.id)
        counting = count.where(*wanted.conditions())

        def work(session: Session) -> tuple[list[Member], int]:
            found = [_member(user, own) for user, own in session.execute(rows)]
            return found, session.execute(counting).scalar_one()

        return await self._database.run(work)

    async def public_files(self, *, offset: int, limit: int) -> tuple[list[StoredFile], int]:
        """Return what tutors added for everybody, the newest first, and how many files that are."""
        public = StoredFile.public.is_(True)
        rows = select(StoredFile).where(public).order_by(StoredFile.id.desc()).offset(offset).limit(limit)
        count = select(func.count()).select_from(StoredFile).where(public)
        return await self._database.run(
            lambda session: (list(session.scalars(rows)), session.execute(count).scalar_one())
        )

    async def create(self, operator: Operator, password: str, fields: Mapping[str, str]) -> int:
        """Make an account; return its id. Raises BadRequest and Conflict."""
        if len(password) < LEAST_GIVEN_PASSWORD_CHARACTERS:
            raise BadRequest(f"A password has at least {LEAST_GIVEN_PASSWORD_CHARACTERS} characters.")
        accounts.usable_email(fields["email"])  # before the costly part
        password_hash = await self._passwords.hash(password)
        return await self._database.run(
            lambda session: account_changes.create(session, operator, password_hash, fields)
        )

    async def change(self, operator: Operator, user_id: int, fields: Mapping[str, str]) -> Changes:
        """Set fields of an account; the user's sign-in ends with a new e-mail, role or status.

        Returns what really changed. Raises BadRequest, NotFound and Conflict.
        """
        return await self._errands.run(self._changed(operator, user_id, fields))

    async def delete(self, operator: Operator, user_id: int, reason: str | None) -> None:
        """Remove an account with everything that is its own. Raises NotFound and Conflict."""

        def work(session: Session) -> Departed:
            return account_changes.delete(session, operator, user_id, reason)

        await self._errands.run(self._deleted(user_id, work))

    async def leave(self, principal: Principal, confirm: Callable[[Session], None]) -> None:
        """Remove the caller's own account, in one transaction with what `confirm` does.

        Raises what that raises, NotFound and, for the last tutor, Conflict.
        """

        def work(session: Session) -> Departed:
            confirm(session)
            return account_changes.leave(session, principal.user_id, principal.email, principal.role)

        await self._errands.run(self._deleted(principal.user_id, work))

    async def _changed(self, operator: Operator, user_id: int, fields: Mapping[str, str]) -> Changes:
        def work(session: Session) -> Changes:
            return account_changes.change(session, operator, user_id, fields)

        changed = await self._database.run(work)
        if any(name in changed for name in OF_THE_ACCOUNT):
            try:
                await self._tokens.revoke_user(user_id)
            except GatewayError as error:
                # The change stands, and every worker learns of role and status with its next poll.
                log.warning("the sign-in of a changed user could not be ended: %s", error.code)
            self._errands.start(self._sessions.release(user_id))
        return changed

    async def _deleted(self, user_id: int, work: Callable[[Session], Departed]) -> None:
        departed = await self._database.run(work)
        try:
            await self._tokens.user_changed(user_id)
        except GatewayError as error:
            log.warning("the sign-in of a deleted user is looked at again later: %s", error.code)
        self._pictures.discard(departed.picture)
        self._errands.start(self._sessions.release(user_id))


def _member(user: User, own: Profile | None) -> Member:
    own = own or Profile()
    return Member(
        id=user.id,
        email=user.email,
        username=own.shown_name(user.email),
        full_name=own.full_name or "",
        phone=own.phone or "",
        bio=own.bio or "",
        avatar=own.avatar_url or "",
        role=user.role,
        status=user.status,
        created_at=user.created_at,
        last_login=user.last_login,
    )
