from datetime import UTC, datetime, timedelta

import pytest

from backend.errors import (
    BadRequest,
    GatewayError,
    InternalError,
    NotFound,
    Overloaded,
    StorageFull,
    TooLarge,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamConnectTimeout,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamRejected,
)
from backend.services.file_records import Record
from backend.services.file_states import (
    MOST_ATTEMPTS,
    PAUSES,
    UNSURE,
    Fate,
    after_failure,
    is_unsure,
    pause_after,
    reached,
    told,
)

NOW = timedelta()
FIRST, LAST = PAUSES[0], PAUSES[-1]


def record(*, attempts: int = 1, chat: bool = True, public: bool = False) -> Record:
    return Record(
        id=1,
        owner_id=7,
        public=public,
        name="a.pdf",
        path="aa/bb/cc",
        kind="pdf",
        size=9,
        state="indexing",
        due_at=None,
        attempts=attempts,
        in_index=True,
        session_id=3 if chat else None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


ATTACHED: list[tuple[GatewayError, int, Fate]] = [
    (UpstreamRefused(), 1, Fate("stored", FIRST, in_index=False)),
    (UpstreamConnectTimeout(), 1, Fate("stored", FIRST, in_index=False)),
    (Overloaded(), 1, Fate("stored", FIRST, in_index=False)),
    (UpstreamRefused(), 2, Fate("stored", PAUSES[1], in_index=True)),
    (UpstreamBusy(), 1, Fate("stored", FIRST, in_index=True)),
    (UpstreamRejected(), 1, Fate("stored", FIRST, in_index=True)),
    (UpstreamFirstByteTimeout(), 1, Fate("stored", UNSURE, in_index=True)),
    (UpstreamBroken(), 2, Fate("stored", UNSURE, in_index=True)),
    (UpstreamGarbage(), 4, Fate("stored", LAST, in_index=True)),
    (BadRequest(), 1, Fate("failed", None, in_index=True)),
    (TooLarge(), 1, Fate("failed", None, in_index=True)),
    (NotFound(), 1, Fate("failed", None, in_index=False)),
    (UpstreamRefused(), MOST_ATTEMPTS, Fate("failed", None, in_index=True)),
    (UpstreamFirstByteTimeout(), MOST_ATTEMPTS, Fate("failed", None, in_index=True)),
]


@pytest.mark.parametrize(("error", "attempts", "fate"), ATTACHED)
@pytest.mark.parametrize("awaited", [True, False])
def test_attached_document_is_kept_and_tried_again_while_that_may_help(
    error: GatewayError, attempts: int, fate: Fate, awaited: bool
) -> None:
    assert after_failure(record(attempts=attempts), error, awaited=awaited) == fate


OF_A_KNOWLEDGE_BASE: list[tuple[GatewayError, Fate]] = [
    (UpstreamRefused(), Fate("deleting", NOW, in_index=False)),
    (Overloaded(), Fate("deleting", NOW, in_index=False)),
    (BadRequest(), Fate("deleting", NOW, in_index=True)),
    (UpstreamRejected(), Fate("deleting", NOW, in_index=True)),
    (UpstreamFirstByteTimeout(), Fate("deleting", UNSURE, in_index=True, sure=False)),
    (UpstreamBroken(), Fate("deleting", UNSURE, in_index=True, sure=False)),
]


@pytest.mark.parametrize(("error", "fate"), OF_A_KNOWLEDGE_BASE)
def test_document_of_a_knowledge_base_that_somebody_waits_for_is_not_kept(
    error: GatewayError, fate: Fate
) -> None:
    assert after_failure(record(chat=False), error, awaited=True) == fate


def test_document_of_a_knowledge_base_that_was_left_behind_is_tried_again_until_refused() -> None:
    left = record(chat=False, attempts=2)
    assert after_failure(left, UpstreamRefused(), awaited=False).state == "stored"
    assert after_failure(left, BadRequest(), awaited=False).state == "deleting"
    last = record(chat=False, attempts=MOST_ATTEMPTS)
    assert after_failure(last, UpstreamRefused(), awaited=False).state == "deleting"


def test_pauses_grow_and_end_at_an_hour() -> None:
    pauses = [pause_after(attempts) for attempts in range(100)]
    assert pauses == sorted(pauses)
    assert pauses[0] == timedelta(minutes=1)
    assert pauses[-1] == timedelta(hours=1)


@pytest.mark.parametrize(
    ("error", "unsure", "got"),
    [
        (UpstreamRefused(), False, False),
        (UpstreamRejected(), False, True),
        (UpstreamBusy(), False, True),
        (UpstreamFirstByteTimeout(), True, True),
        (UpstreamBroken(), True, True),
        (BadRequest(), False, True),
        (StorageFull(), False, False),
        (InternalError(), False, False),
    ],
)
def test_what_is_known_of_the_index_after_an_error(error: GatewayError, unsure: bool, got: bool) -> None:
    assert (is_unsure(error), reached(error)) == (unsure, got)


@pytest.mark.parametrize("state", ["indexed", "failed", "deleting"])
def test_owner_is_told_of_every_end_in_plain_words(state: str) -> None:
    for public in (True, False):
        notice = told(record(public=public), state)
        assert notice is not None
        assert "a.pdf" in notice.message
        assert len(notice.title) <= 120


@pytest.mark.parametrize("state", ["stored", "kept", "indexing"])
def test_owner_is_not_told_of_steps_on_the_way(state: str) -> None:
    assert told(record(), state) is None
