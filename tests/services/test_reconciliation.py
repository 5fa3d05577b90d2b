"""What rows and instances say of each other, decided without any I/O."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backend.models.avatar_session import LEAVING, READY, STARTING, UNSURE
from backend.services.reconciliation import Decisions, decide
from backend.services.seats import Place, Standing
from backend.services.session_store import Row

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADA = Place("Ada", "Ada_user_1", 8615)
LATER, BEFORE = NOW + timedelta(seconds=1), NOW - timedelta(seconds=1)


def row(number: int, state: str = READY, place: Place | None = ADA, **over: object) -> Row:
    base = Row(
        id=number,
        user_id=number,
        avatar="Ada",
        instance_id=None if place is None else place.instance_id,
        port=None if place is None else place.port,
        state=state,
        wanted=True,
        counted=True,
        holder=None,
        due_at=None,
        peer_session=None,
        started_at=NOW,
        used_at=NOW,
        kept_at=NOW,
    )
    return replace(base, **over)  # type: ignore[arg-type]


def counted(connections: int | None, place: Place = ADA) -> list[Standing]:
    return [Standing(place, connections)]


def ids(decisions: Decisions) -> dict[str, list[int]]:
    """The rows by what is to be done with them."""
    named = {
        name: [each.id for each in getattr(decisions, name)]
        for name in ("gone", "moved", "given_up", "undone", "uncounted")
    }
    pairs = {name: [each.id for each, _ in getattr(decisions, name)] for name in ("found", "owed")}
    return {name: found for name, found in (named | pairs).items() if found}


UNKNOWN = row(9, UNSURE, None, due_at=LATER)
CASES: list[tuple[str, list[Row], list[Standing], dict[str, list[int]]]] = [
    ("as it should be", [row(1), row(2)], counted(2), {}),
    ("nobody counts", [row(1)], counted(None, Place("", "Ada_user_1", 8615)), {}),
    ("no instance", [row(1), row(2, LEAVING)], [], {"gone": [1, 2]}),
    ("another port", [row(1)], counted(1, Place("Ada", "Ada_user_1", 8616)), {"moved": [1]}),
    ("another avatar", [row(1)], counted(1, Place("Eve", "Ada_user_1", 8615)), {"moved": [1]}),
    ("a dead process", [row(1, STARTING, None, holder="x", due_at=BEFORE)], [], {"given_up": [1]}),
    ("a live process", [row(1, STARTING, None, holder="x", due_at=LATER)], [], {}),
    ("a dead release", [row(1, LEAVING, holder="x", due_at=BEFORE)], counted(1), {"given_up": [1]}),
    ("a start that was done", [row(1), UNKNOWN], counted(2), {"found": [9]}),
    ("a start that is not counted yet", [row(1), UNKNOWN], counted(1), {}),
    ("a start that never was", [row(1), replace(UNKNOWN, due_at=BEFORE)], counted(1), {"undone": [9]}),
    ("called off", [row(1), replace(UNKNOWN, wanted=False)], counted(2), {"owed": [9]}),
    ("user is there already", [row(1), replace(UNKNOWN, user_id=1)], counted(2), {"owed": [9]}),
    ("the gateway's own", [row(1), replace(UNKNOWN, user_id=0)], counted(2), {"owed": [9]}),
    ("strangers without unsure rows", [row(1)], counted(5), {}),
    ("a release that may be under way", [row(1), row(2, UNSURE, due_at=LATER)], counted(2), {}),
    ("a release that was not done", [row(1), row(2, UNSURE, due_at=BEFORE)], counted(2), {"owed": [2]}),
    ("a release that was done", [row(1), row(2, UNSURE, due_at=BEFORE)], counted(1), {"undone": [2]}),
    ("release of an instance that is gone", [row(2, UNSURE, due_at=LATER)], [], {"undone": [2]}),
    ("a manager that began anew", [row(1), row(2), row(3)], counted(1), {"uncounted": [1, 2]}),
    (
        "somebody at work",
        [row(1), row(2, STARTING, None, holder="x", due_at=LATER), replace(UNKNOWN, due_at=BEFORE)],
        counted(2),
        {},
    ),
]


@pytest.mark.parametrize(
    ("rows", "standing", "wanted"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_each_difference_is_understood(
    rows: list[Row], standing: list[Standing], wanted: dict[str, list[int]]
) -> None:
    assert ids(decide(rows, standing, NOW)) == wanted
