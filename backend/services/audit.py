"""The trail of who changed what about whom."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from backend.models import ActionLog


def record(
    session: Session,
    action: str,
    *,
    operator: tuple[str, str],
    target: tuple[int, str],
    changes: Mapping[str, tuple[Any, Any]] | None = None,
    reason: str | None = None,
) -> None:
    """Note an action, in the transaction that makes it true.

    `operator` is e-mail and role, `target` id and e-mail; `changes` maps a field to its old and new value
    and never holds a secret.
    """
    session.add(
        ActionLog(
            operator_email=operator[0],
            role=operator[1],
            action=action,
            target_user_id=target[0],
            target_user_email=target[1],
            reason=reason,
            details={field: list(pair) for field, pair in changes.items()} if changes else None,
        )
    )
