"""What users are told in the bell of the frontend, by what really happened to them."""

from typing import Literal

from sqlalchemy.orm import Session

from backend.models import Notification

Kind = Literal["info", "success", "warning", "error"]


def notify(session: Session, user_id: int, title: str, message: str, kind: Kind = "info") -> None:
    """Tell a user something, in the transaction that makes it true."""
    session.add(Notification(user_id=user_id, title=title, message=message, type=kind))
