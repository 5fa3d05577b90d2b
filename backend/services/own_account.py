"""What people do with their own account by a mailed code: make it, change its password, end it."""

import logging

from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.errors import BadRequest, Conflict, GatewayError, NotAuthenticated, NotFound
from backend.models import User
from backend.models.verification_code import Purpose
from backend.services import audit
from backend.services.accounts import (
    Account,
    in_use,
    insert,
    known,
    require_strength,
    usable_email,
)
from backend.services.administration import Administration
from backend.services.database import Database
from backend.services.notifications import notify
from backend.services.passwords import Passwords
from backend.services.tokens import Principal, Tokens
from backend.services.verification import WRONG, Verification

log = logging.getLogger("gateway.accounts")

GONE = "This account does not exist any more."


class OwnAccount:
    """Every change asks for a code first, in a transaction that counts the attempt whatever comes of it."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        verification: Verification,
        tokens: Tokens,
        administration: Administration,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._verification = verification
        self._tokens = tokens
        self._administration = administration

    async def register(self, email: str, password: str, code: str) -> Account:
        """Make a student's account.

        Raises BadRequest for a malformed e-mail or a weak password, Conflict for a known e-mail, and
        NotAuthenticated for a wrong code.
        """
        email = usable_email(email)
        require_strength(password)

        def attempt(session: Session) -> bool:
            right = self._verification.attempt(session, email, "register", code)
            if in_use(session, email):
                raise known(email)
            return right

        if not await self._database.run(attempt):
            raise NotAuthenticated(WRONG)
        password_hash = await self._passwords.hash(password)

        def work(session: Session) -> Account:
            if not self._verification.spend(session, email, "register", code):
                raise NotAuthenticated(WRONG)
            return insert(session, email, password_hash, "student")

        try:
            return await self._database.run(work)
        except Conflict as exc:
            raise known(email) from exc

    async def change_password(self, principal: Principal, password: str, code: str) -> None:
        """Set a new password and end every sign-in of the user. Raises BadRequest and NotAuthenticated."""
        require_strength(password)
        await self._require(principal, "update_password", code)
        password_hash = await self._passwords.hash(password)

        def work(session: Session) -> None:
            self._spend(session, principal, "update_password", code)
            change = update(User).where(User.id == principal.user_id).values(password_hash=password_hash)
            if session.execute(change.returning(User.id)).scalar_one_or_none() is None:
                raise NotAuthenticated(GONE)
            who = principal.email, principal.role
            audit.record(session, "update_password", operator=who, target=(principal.user_id, who[0]))
            message = "If this was not you, please tell a tutor at once."
            notify(session, principal.user_id, "Your password was changed", message, "success")

        # Before the change, so that no failure after it leaves a sign-in alive; after it, so that none that
        # the old password has begun meanwhile stays.
        await self._tokens.revoke_user(principal.user_id)
        await self._database.run(work)
        try:
            await self._tokens.revoke_user(principal.user_id)
        except GatewayError as exc:  # the change stands, and to say that it failed would be wrong
            log.warning("sign-ins were not ended for a second time: %s", exc.code)

    async def delete(self, principal: Principal, code: str) -> None:
        """Delete the account and all that is the user's.

        Raises BadRequest for a wrong code, NotAuthenticated, and Conflict for the last tutor.
        """
        await self._require(principal, "delete_account", code)

        def confirm(session: Session) -> None:
            self._spend(session, principal, "delete_account", code)

        try:
            await self._administration.leave(principal, confirm)
        except NotFound as exc:
            raise NotAuthenticated(GONE) from exc

    async def _require(self, principal: Principal, purpose: Purpose, code: str) -> None:
        email = principal.email
        if not await self._database.run(lambda s: self._verification.attempt(s, email, purpose, code)):
            raise BadRequest(WRONG)

    def _spend(self, session: Session, principal: Principal, purpose: Purpose, code: str) -> None:
        if not self._verification.spend(session, principal.email, purpose, code):
            raise BadRequest(WRONG)
