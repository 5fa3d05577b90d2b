"""The trail of who changed what about whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from backend.models import ActionLog
from backend.services.database import Database


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which actions to show: those whose e-mails and action contain these texts, in any case."""

    operator_email: str = ""
    target_user_email: str = ""
    action: str = ""

    def conditions(self) -> list[ColumnElement[bool]]:
        columns = {
            ActionLog.operator_email: self.operator_email,
            ActionLog.target_user_email: self.target_user_email,
            ActionLog.action: self.action,
        }
        return [column.icontains(text, autoescape=True) for column, text in columns.items() if text]


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


class Audit:
    """Shows the trail."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, wanted: Wanted, *, offset: int, limit: int) -> tuple[list[ActionLog], int]:
        """Return actions, newest first, and how many there are of the kind."""
        conditions = wanted.conditions()
        rows = select(ActionLog).where(*conditions).order_by(ActionLog.id.desc()).offset(offset).limit(limit)
        count = select(func.count()).select_from(ActionLog).where(*conditions)
        return await self._database.run(
            lambda session: (list(session.scalars(rows)), session.execute(count).scalar_one())
        )
