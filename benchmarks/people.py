"""Many signed-in users at once, written into the database: signing in costs each a password hash."""

import uuid
from datetime import UTC, datetime
from pathlib import Path

from flask import Flask
from sqlalchemy.orm import Session

from backend.config import load
from backend.models import LoginSession, User
from backend.services.claims import LIFE_SECONDS, written
from backend.services.database import Database, attach, upgrade


def signed_in(folder: Path, database_url: str, key: str, count: int) -> dict[int, str]:
    """Make so many users in a database, which is made if need be; return each one's token."""
    flask = Flask("people")
    settings = load({}, None, database_url=database_url, gateway_instance_dir=folder)
    database = Database(attach(flask, settings), threads=1)
    upgrade(flask)
    with database.transaction() as session:
        return dict(_made(session, key) for _ in range(count))


def _made(session: Session, key: str) -> tuple[int, str]:
    now = int(datetime.now(UTC).timestamp())
    user = User(email=f"{uuid.uuid4().hex}@crowd.local", password_hash="", role="student")
    session.add(user)
    session.flush()
    jti, until = uuid.uuid4().hex, now + LIFE_SECONDS
    live = LoginSession(user_id=user.id, jti=jti, started_at=_moment(now), expires_at=_moment(until))
    live.changed_at = now * 1_000_000
    session.add(live)
    return user.id, written(key, user_id=user.id, role="student", jti=jti, issued_at=now, expires_at=until)


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
