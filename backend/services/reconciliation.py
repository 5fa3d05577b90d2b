"""What the table of sessions and the instances that stand say of each other: decided first, then done.

A row counts when it is ready or leaving. Where the manager counts more than we do, calls that ended without
an answer were done after all; where it counts less, it began anew and has forgotten some of ours.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.orm import Session

from backend.models import AvatarSession
from backend.models.avatar_session import LEAVING, READY, STARTING, UNSURE
from backend.services import session_store as store
from backend.services.seats import Place, Standing
from backend.services.session_store import NOBODY, SETTLED_AFTER, Row


@dataclass(slots=True)
class Decisions:
    """What to do with which rows.

    `gone` have no instance any more; `moved` have another one than they had; `given_up` were in the hands of
    a process that has died. The others follow from the counts: `found` are counted at a place and may be
    used, `owed` are counted and nobody wants them, `undone` are not counted, `uncounted` were forgotten by
    the manager.
    """

    gone: list[Row] = field(default_factory=list)
    moved: list[Row] = field(default_factory=list)
    given_up: list[Row] = field(default_factory=list)
    undone: list[Row] = field(default_factory=list)
    found: list[tuple[Row, Place]] = field(default_factory=list)
    owed: list[tuple[Row, Place]] = field(default_factory=list)
    uncounted: list[Row] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)


def decide(rows: Sequence[Row], standing: Iterable[Standing], now: datetime) -> Decisions:
    """Compare rows, read before the manager was asked, with what it then said."""
    by_id = {each.place.instance_id: each for each in standing}
    decisions = Decisions(given_up=[row for row in rows if _is_given_up(row, now)])
    for row in rows:
        if row.state in (READY, LEAVING) and row.holder is None:
            there = by_id.get(row.instance_id or "")
            if there is None:
                decisions.gone.append(row)
            elif not _is_at(row, there.place):
                decisions.moved.append(row)
    for avatar in sorted({row.avatar for row in rows}):
        own = [row for row in rows if row.avatar == avatar]
        if not any(row.holder is not None for row in own):  # else a call under way may be counted or not
            _count(own, [each for each in by_id.values() if each.place.avatar == avatar], decisions, now)
    return decisions


def _is_at(row: Row, place: Place) -> bool:
    """Tell whether a row's avatar is there; instances that play whatever is asked for have no name."""
    return row.port == place.port and place.avatar in ("", row.avatar)


def _is_given_up(row: Row, now: datetime) -> bool:
    at_work = row.state == STARTING or (row.state == LEAVING and row.holder is not None)
    return at_work and (row.due_at is None or row.due_at <= now)


def _count(own: list[Row], standing: list[Standing], decisions: Decisions, now: datetime) -> None:
    unsure = [row for row in own if row.state == UNSURE]
    for each in standing:
        held = [
            row for row in own if row.state in (READY, LEAVING) and row.counted and row.place == each.place
        ]
        surplus = (each.connections if each.connections is not None else len(held)) - len(held)
        if surplus < 0:
            # Those who came last are counted: the manager began anew before they came.
            decisions.uncounted += sorted(held, key=lambda row: row.id)[:-surplus]
        for row in [row for row in unsure if row.instance_id in (None, each.place.instance_id)][
            : max(0, surplus)
        ]:
            if _may_turn_out(row, now):
                unsure.remove(row)
                _turned_out(row, each.place, own, decisions)
    names = {each.place.instance_id for each in standing}
    for row in unsure:
        over = row.due_at is None or row.due_at <= now
        if over or (row.instance_id is not None and row.instance_id not in names):
            decisions.undone.append(row)


def _may_turn_out(row: Row, now: datetime) -> bool:
    """A start that is counted was done; an end that is still counted may be under way, until it is due."""
    return row.instance_id is None or row.due_at is None or row.due_at <= now


def _turned_out(row: Row, place: Place, own: list[Row], decisions: Decisions) -> None:
    elsewhere = any(other.user_id == row.user_id and other.state in (STARTING, READY) for other in own)
    found_already = any(found.user_id == row.user_id for found, _ in decisions.found)
    wanted = row.wanted and row.instance_id is None and row.user_id != NOBODY
    if wanted and not elsewhere and not found_already:
        decisions.found.append((row, place))
    else:
        decisions.owed.append((row, place))


def carry_out(read: Sequence[Row], decisions: Decisions, now: datetime) -> Callable[[Session], None]:
    """Do what was decided about rows, as far as they have not changed since they were read.

    What follows from counts is only done where no row of the avatar has changed.
    """

    def work(session: Session) -> None:
        store.lock(session)
        Carrying(session, {row.id: row for row in read}, now).out(decisions)

    return work


class Carrying:
    """Decisions being carried out, in one transaction."""

    def __init__(self, session: Session, read: dict[int, Row], now: datetime) -> None:
        self._session = session
        self._now = now
        present = {row.id: row for row in store.rows()(session)}
        self._changed = {row for row in read if row not in present or not present[row].same_as(read[row])}
        either = present | read
        self._moving = {either[row].avatar for row in self._changed | (present.keys() - read.keys())}

    def out(self, decisions: Decisions) -> None:
        for row in decisions.gone:
            self._forget(self._same(row))
        for row in decisions.moved:
            if self._same(row) is not None:
                store.lose(row.id, self._now, row.state)(self._session)
        for row in decisions.given_up:
            if self._same(row) is not None:
                store.lose(row.id, self._now + SETTLED_AFTER, row.state)(self._session)
        for row in decisions.undone:
            self._forget(self._quiet(row))
        for row in decisions.uncounted:
            if (found := self._quiet(row)) is not None:
                found.counted = False
        self._session.flush()
        for row, place in decisions.found + decisions.owed:
            self._take(row, place, use=(row, place) in decisions.found)

    def _same(self, row: Row) -> AvatarSession | None:
        return None if row.id in self._changed else self._session.get(AvatarSession, row.id)

    def _quiet(self, row: Row) -> AvatarSession | None:
        return None if row.avatar in self._moving else self._session.get(AvatarSession, row.id)

    def _forget(self, found: AvatarSession | None) -> None:
        if found is not None:
            self._session.delete(found)

    def _take(self, row: Row, place: Place, *, use: bool) -> None:
        found = self._quiet(row)
        if found is None:
            return
        free = not store.is_elsewhere(self._session, row.user_id)
        found.state = READY if use and free else LEAVING
        found.instance_id, found.port, found.due_at = place.instance_id, place.port, None
        found.used_at = self._now
        self._session.flush()
