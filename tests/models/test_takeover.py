"""A database of the former shape becomes one of this gateway, with everything that was in it."""

import pytest
from flask import Flask
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session
from werkzeug.security import generate_password_hash

from backend.errors import StoreUnavailable
from backend.models import ActionLog, Chat, Message, Notification, Profile, User
from backend.services.database import upgrade
from tests.models.former import fill
from tests.support.stores import bound

OLD_HASH = generate_password_hash("Old-horse1!")


def taken_over(app: Flask) -> Engine:
    engine = bound(app)
    with engine.begin() as connection:
        fill(connection, OLD_HASH)
    upgrade(app)
    return engine


def test_people_of_a_former_database_keep_id_password_and_role(empty_app: Flask) -> None:
    with Session(taken_over(empty_app)) as session:
        people = {user.id: user for user in session.scalars(select(User))}
        assert set(people) == {3, 7, 12}
        assert people[3].email == "ann@school.example"
        assert people[3].password_hash == OLD_HASH
        assert (people[12].role, people[12].status) == ("tutor", "banned")
        # A role that is no more becomes the least one; of one mailbox's accounts the used one keeps it.
        assert (people[7].email, people[7].role, people[7].status) == (
            "ann+7@school.example",
            "student",
            "active",
        )


def test_what_people_wrote_and_did_is_still_there(empty_app: Flask) -> None:
    with Session(taken_over(empty_app)) as session:
        chat = session.scalars(select(Chat)).one()
        assert (chat.id, chat.user_id, chat.title, chat.is_favorite, chat.message_count) == (
            21,
            3,
            "Physics",
            True,
            2,
        )
        assert len(chat.memory_key) == 32
        assert chat.updated_at == chat.created_at
        said = session.scalars(select(Message).order_by(Message.id)).all()
        assert [(one.role, one.content) for one in said] == [("user", "why?"), ("assistant", "因为")]
        profile = session.scalars(select(Profile)).one()
        assert (profile.username, profile.avatar_url, profile.phone) == ("ann", None, "123")
        assert session.scalars(select(Notification)).one().type == "info"
        assert session.scalars(select(ActionLog)).one().details == {"status": ["active", "banned"]}


def test_new_rows_do_not_meet_the_numbers_of_taken_over_ones(empty_app: Flask) -> None:
    with Session(taken_over(empty_app)) as session:
        user = User(email="new@school.example", password_hash="x")
        session.add(user)
        session.flush()
        session.add_all([Chat(user_id=user.id), Notification(user_id=user.id, title="t", message="m")])
        session.commit()
        assert user.id > 12


def test_nothing_of_the_former_shape_stays_but_what_another_program_wrote(empty_app: Flask) -> None:
    tables = inspect(taken_over(empty_app)).get_table_names()
    assert [table for table in tables if table.startswith("former_")] == []
    with Session(bound(empty_app)) as session:
        assert session.execute(text("SELECT guardrail FROM safeguard")).scalar_one() == "kept"


def test_takeover_that_fails_midway_leaves_the_former_database_as_it_was(empty_app: Flask) -> None:
    engine = bound(empty_app)
    with engine.begin() as connection:
        fill(connection, OLD_HASH)
        # Nobody can have had this name, so the copy stops there.
        connection.execute(text("CREATE TABLE stored_file (id INTEGER)"))
    with pytest.raises((DatabaseError, StoreUnavailable)):
        upgrade(empty_app)
    with engine.connect() as connection:
        assert connection.execute(text('SELECT count(*) FROM "user"')).scalar_one() == 3
    assert "former_user" not in inspect(engine).get_table_names()
