from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from backend.models import Base, User


def stored_and_read(engine: Engine, moment: datetime) -> datetime | None:
    with Session(engine) as session:
        session.add(User(email="a@b.co", password_hash="x", last_login=moment))
        session.commit()
    with Session(engine) as session:
        return session.query(User).one().last_login


def test_time_of_another_zone_comes_back_as_the_same_moment_in_utc(engine: Engine) -> None:
    moment = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=8)))
    read = stored_and_read(engine, moment)
    assert read == moment
    assert read is not None
    assert read.tzinfo is UTC


def test_database_holds_naive_utc(engine: Engine) -> None:
    stored_and_read(engine, datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=8))))
    with engine.connect() as connection:
        raw = connection.execute(text('SELECT last_login FROM "user"')).scalar_one()
    assert str(raw).startswith("2026-02-28 17:30:00")


def test_time_without_zone_is_refused(engine: Engine) -> None:
    with pytest.raises(StatementError, match="without zone"):
        stored_and_read(engine, datetime(2026, 3, 1))


def test_every_constraint_has_a_name() -> None:
    assert all(c.name for table in Base.metadata.tables.values() for c in table.constraints)
