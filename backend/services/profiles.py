"""Profiles: what people say of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.errors import NotAuthenticated
from backend.models import Profile, User, profile
from backend.services import audit
from backend.services.database import Database
from backend.services.tokens import ENDED, Principal

# What people may change of themselves; the picture has a way of its own.
FIELDS = ("username", "full_name", "bio", "phone")


@dataclass(frozen=True, slots=True)
class Person:
    """A user as the frontend shows them; `avatar_url` is None without a picture."""

    email: str
    role: str
    username: str
    full_name: str
    bio: str
    phone: str
    avatar_url: str | None


class Profiles:
    """The profiles of signed-in users. Raises NotAuthenticated for a user who was deleted meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, user_id: int) -> Person:
        """Return a user's profile."""
        return await self._database.run(lambda session: _person(session, user_id))

    async def change(self, principal: Principal, changes: Mapping[str, str]) -> Mapping[str, tuple[str, str]]:
        """Set some of FIELDS; return what really changed, as old and new values."""

        def work(session: Session) -> Mapping[str, tuple[str, str]]:
            own, user = _own(session, principal.user_id)
            changed = replace(own, changes)
            if changed:
                _noted(session, "update_profile", user, changed)
            return changed

        return await self._database.run(work)

    async def set_picture(self, user_id: int, url: str) -> str | None:
        """Set the address of a user's picture; return the former one."""

        def work(session: Session) -> str | None:
            own, user = _own(session, user_id)
            former, own.avatar_url = own.avatar_url, url
            _noted(session, "update_picture", user, {"avatar_url": (former or "", url)})
            return former

        return await self._database.run(work)


def replace(own: Profile, changes: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Set fields of a profile that is locked; return those that differ, as old and new values."""
    changed = {}
    for field, new in changes.items():
        old = getattr(own, field) or ""
        if old != new:
            setattr(own, field, new)
            changed[field] = (old, new)
    return changed


def _own(session: Session, user_id: int) -> tuple[Profile, User]:
    own = profile.locked(session, user_id)
    user = session.get(User, user_id)
    if own is None or user is None:
        raise NotAuthenticated(ENDED)
    return own, user


def _noted(session: Session, action: str, user: User, changed: Mapping[str, tuple[str, str]]) -> None:
    own = (user.id, user.email)
    audit.record(session, action, operator=(user.email, user.role), target=own, changes=changed)


def _person(session: Session, user_id: int) -> Person:
    row = session.execute(
        select(User, Profile).outerjoin(Profile, Profile.user_id == User.id).where(User.id == user_id)
    ).one_or_none()
    if row is None:
        raise NotAuthenticated(ENDED)
    user, own = row[0], row[1] or Profile()
    return Person(
        email=user.email,
        role=user.role,
        username=own.shown_name(user.email),
        full_name=own.full_name or "",
        bio=own.bio or "",
        phone=own.phone or "",
        avatar_url=own.avatar_url,
    )
