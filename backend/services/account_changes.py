"""Changes of other people's accounts, each within the caller's transaction.

Whoever may make them (a tutor in the console, somebody at the command line), the rules are these:

    nobody deletes, bans or demotes themselves        the others would wonder, and who would undo it
    a tutor who may sign in always remains            two who want to remove each other take turns
    every change is in the trail, with old and new    a password never is
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.errors import BadRequest, Conflict, NotFound
from backend.models import Profile, User, profile
from backend.models.user import BANNED, ROLES, STATUSES
from backend.services import accounts, audit, profiles
from backend.services.notifications import notify

TUTOR, ACTIVE = "tutor", "active"
OF_THE_ACCOUNT = ("email", "role", "status")
TURN = 8_203_002  # key of PostgreSQL's advisory lock; the migrations have the number before it
LAST_TUTOR = "This is the last active tutor: make somebody else a tutor first."
Changes = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Operator:
    """Who makes a change; `user_id` is None for somebody at the command line."""

    user_id: int | None
    email: str
    role: str


AT_THE_COMMAND_LINE = Operator(None, "command line", "system")


@dataclass(frozen=True, slots=True)
class Departed:
    """What a deleted user leaves behind for others to clear away."""

    email: str
    picture: str | None


def create(session: Session, operator: Operator, password_hash: str, fields: Mapping[str, str]) -> int:
    """Make an account with `fields`, of which e-mail and role are needed. Raises BadRequest and Conflict."""
    email, role = accounts.usable_email(fields["email"]), fields["role"]
    try:
        made = accounts.insert(session, email, password_hash, role)
        session.flush()
    except IntegrityError as exc:
        raise accounts.known(email) from exc
    further = {name: value for name, value in fields.items() if name not in ("email", "role")}
    user, own = _found(session, made.id)
    _set(user, own, further)
    notify(session, made.id, "Please change your password", "A tutor made this account and knows it.")
    new: Changes = {name: ("", value) for name, value in (dict(fields) | {"email": email}).items() if value}
    _noted(session, "create_user", operator, (made.id, email), new)
    return made.id


def change(session: Session, operator: Operator, user_id: int, fields: Mapping[str, str]) -> Changes:
    """Set fields of an account; return those that differ, as old and new values.

    Raises BadRequest, NotFound and Conflict.
    """
    take_turn(session)
    user, own = _found(session, user_id)
    before = (user.email, user.role, user.status)
    changed = _set(user, own, fields)
    if not changed:
        return {}
    if user_id == operator.user_id and (user.role != TUTOR or user.status == BANNED):
        raise Conflict("You cannot take your own role away or ban yourself.")
    if not (user.role == TUTOR and user.status == ACTIVE):
        _keep_a_tutor(session, user_id, *before[1:])
    email = user.email
    try:
        session.flush()
    except IntegrityError as exc:  # nothing can be read of the user any more
        raise accounts.known(email) from exc
    _noted(session, "update_user", operator, (user_id, before[0]), changed)
    told = [f"{name} is now {changed[name][1]}" for name in OF_THE_ACCOUNT if name in changed]
    if told:
        notify(session, user_id, "Your account was changed", f"Your {', your '.join(told)}.", "warning")
    return changed


def delete(session: Session, operator: Operator, user_id: int, reason: str | None) -> Departed:
    """Remove an account with everything that is its own. Raises NotFound and Conflict."""
    take_turn(session)
    if user_id == operator.user_id:
        raise Conflict("You cannot delete your own account here.")
    return _removed(session, "delete_user", operator, user_id, reason)


def leave(session: Session, user_id: int, email: str, role: str) -> Departed:
    """Remove an account for its owner, who has proved to be that. Raises NotFound and Conflict."""
    take_turn(session)
    return _removed(session, "delete_account", Operator(user_id, email, role), user_id, None)


def _removed(session: Session, action: str, operator: Operator, user_id: int, reason: str | None) -> Departed:
    user, own = _found(session, user_id)
    _keep_a_tutor(session, user_id, user.role, user.status)
    departed = Departed(user.email, own.avatar_url)
    was = {"email": user.email, "role": user.role, "status": user.status, "username": own.username}
    _noted(
        session,
        action,
        operator,
        (user_id, user.email),
        {name: (value, "") for name, value in was.items() if value},
        reason,
    )
    session.flush()
    session.expunge_all()  # the rows go by statement, not one by one
    accounts.remove(session, user_id)
    return departed


def id_of(session: Session, email: str) -> int:
    """Return a user's id by e-mail. Raises NotFound."""
    found = session.scalar(select(User.id).where(User.email == accounts.normalised(email)))
    if found is None:
        raise NotFound("There is no account with that e-mail.")
    return found


def take_turn(session: Session) -> None:
    """Let nobody else change who the tutors are before this transaction ends."""
    if session.get_bind().dialect.name == "postgresql":
        # Locks of the rows would be taken in different orders by people who demote each other: a deadlock.
        session.execute(select(func.pg_advisory_xact_lock(TURN)))
    else:
        # A statement that could write locks all of SQLite, also one that finds nothing.
        session.execute(update(User).where(User.id == -1).values(role=User.role))


def _found(session: Session, user_id: int) -> tuple[User, Profile]:
    user = session.scalar(select(User).where(User.id == user_id).with_for_update())
    own = None if user is None else profile.locked(session, user_id)
    if user is None or own is None:
        raise NotFound("There is no such user.")
    return user, own


def _set(user: User, own: Profile, fields: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    if "role" in fields and fields["role"] not in ROLES:
        raise BadRequest(f"A role is one of: {', '.join(ROLES)}.")
    if "status" in fields and fields["status"] not in STATUSES:
        raise BadRequest(f"A status is one of: {', '.join(STATUSES)}.")
    changed = {}
    for name in OF_THE_ACCOUNT:
        new = fields.get(name)
        old = getattr(user, name)
        if new is not None and name == "email":
            new = accounts.usable_email(new)
        if new is not None and new != old:
            setattr(user, name, new)
            changed[name] = (old, new)
    return changed | profiles.replace(own, {n: v for n, v in fields.items() if n not in OF_THE_ACCOUNT})


def _keep_a_tutor(session: Session, user_id: int, role: str, status: str) -> None:
    """Raise Conflict when a tutor with this role and status up to now would leave nobody in their place."""
    if role != TUTOR or status == BANNED:
        return
    others = select(User.id).where(User.role == TUTOR, User.id != user_id)
    fit = User.status == ACTIVE if status == ACTIVE else User.status != BANNED
    with session.no_autoflush:
        if session.scalar(others.where(fit).limit(1)) is None:
            raise Conflict(LAST_TUTOR)


def _noted(
    session: Session,
    action: str,
    operator: Operator,
    target: tuple[int, str],
    changes: Changes,
    reason: str | None = None,
) -> None:
    who = (operator.email, operator.role)
    audit.record(session, action, operator=who, target=target, changes=changes, reason=reason or None)
