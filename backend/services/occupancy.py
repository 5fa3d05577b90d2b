"""How many users are on each avatar instance."""

from dataclasses import dataclass

from sqlalchemy import func, select

from backend.models import AvatarSession
from backend.services.database import Database


@dataclass(frozen=True, slots=True)
class Crowd:
    """The users of one instance."""

    avatar: str
    instance: str
    users: int


async def crowds(database: Database, most: int) -> list[Crowd]:
    """Return the fullest instances, at most so many. Raises StoreUnavailable."""
    users = func.count().label("users")
    place = AvatarSession.avatar, AvatarSession.instance_id
    query = select(*place, users).group_by(*place).order_by(users.desc(), *place).limit(most)
    rows = await database.run(lambda session: session.execute(query).all())
    return [Crowd(*row) for row in rows]
