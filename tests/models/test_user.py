from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.models import LoginSession, User, login_session
from backend.services.accounts import remove


def test_new_user_is_an_active_student_who_never_signed_in(engine: Engine) -> None:
    with Session(engine) as session:
        user = User(email="a@b.co", password_hash="x")
        session.add(user)
        session.commit()
        assert (user.role, user.status, user.last_login) == ("student", "active", None)
        assert datetime.now(UTC) - user.created_at < timedelta(minutes=1)
        assert repr(user) == f"<User {user.id} a@b.co student active>"


def test_email_belongs_to_one_user(engine: Engine) -> None:
    with Session(engine) as session:
        session.add_all(User(email="a@b.co", password_hash="x") for _ in range(2))
        with pytest.raises(IntegrityError):
            session.commit()


def test_edit_moves_changed_at_but_not_last_login(engine: Engine) -> None:
    with Session(engine) as session:
        user = User(email="a@b.co", password_hash="x", changed_at=datetime(2020, 1, 1, tzinfo=UTC))
        session.add(user)
        session.commit()
        user.role = "tutor"
        session.commit()
        assert user.changed_at > datetime(2020, 1, 2, tzinfo=UTC)
        assert user.last_login is None


def test_deleting_a_user_ends_the_session_and_leaves_word_of_it(engine: Engine) -> None:
    with Session(engine) as session:
        user = User(email="a@b.co", password_hash="x")
        session.add(user)
        session.flush()
        login_session.begin(session, user.id, "j", datetime.now(UTC), 1)
        session.commit()
        remove(session, user.id)
        session.commit()
        ended = session.scalars(select(LoginSession)).one()
        assert ended.jti is None
        assert ended.changed_at > 1


def test_id_of_a_deleted_user_is_not_given_again(engine: Engine) -> None:
    with Session(engine) as session:
        first = User(email="a@b.co", password_hash="x")
        session.add(first)
        session.commit()
        gone = first.id
        session.delete(first)
        session.commit()
        second = User(email="c@d.co", password_hash="x")
        session.add(second)
        session.commit()
        assert second.id > gone


def test_session_cannot_begin_for_nobody_or_for_a_banned_user(engine: Engine) -> None:
    with Session(engine) as session:
        banned = User(email="a@b.co", password_hash="x", status="banned")
        session.add(banned)
        session.flush()
        for user_id in (404, banned.id):
            assert login_session.begin(session, user_id, "j", datetime.now(UTC), 1) is None
        assert session.scalars(select(LoginSession)).all() == []
