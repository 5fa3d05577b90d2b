"""What becomes of a file when work on it ended: pure decisions.

state      work                          ended well   refused          no answer, or not now
stored     claimed by somebody: indexing
indexing   out of the index if it may    indexed      failed *         stored, tried again later *
           be in there, then into it
arriving   (whoever received it died)    no row                        later
           off the disk
deleting   out of the index, off the     no row       later            later
           disk

* A document of a knowledge base that somebody waits for, and one that is refused: deleting. Nothing of it is
  kept, for the only sign of it would be a list of what can be found.
"""

from dataclasses import dataclass
from datetime import timedelta

from backend.errors import (
    BadRequest,
    GatewayError,
    NotFound,
    TooLarge,
    UpstreamBusy,
    UpstreamError,
    UpstreamRejected,
)
from backend.services.file_records import Notice, Record

# After no answer the index may still be at work on a document, and would add it after its removal.
UNSURE = timedelta(seconds=600)
PAUSES = tuple(timedelta(seconds=seconds) for seconds in (60, 300, 900, 3600))
MOST_ATTEMPTS = 5
_REFUSALS = (BadRequest, TooLarge, NotFound)


@dataclass(frozen=True, slots=True)
class Fate:
    """The state that a file gets, and after how long there is more to do, None for never.

    `sure` says that the index does nothing more about it by itself.
    """

    state: str
    due_in: timedelta | None
    in_index: bool
    sure: bool = True


def after_failure(record: Record, error: GatewayError, *, awaited: bool) -> Fate:
    """Decide about a document that did not get into the index, at the `attempts`-th time."""
    sure = not is_unsure(error)
    in_index = record.attempts > 1 or reached(error)
    refused = isinstance(error, _REFUSALS) or record.attempts >= MOST_ATTEMPTS
    knowledge = record.session_id is None
    if knowledge and (awaited or refused):
        return Fate("deleting", timedelta() if sure else UNSURE, in_index, sure)
    if refused:
        return Fate("failed", None, in_index)
    pause = pause_after(record.attempts)
    return Fate("stored", pause if sure else max(pause, UNSURE), in_index)


def pause_after(attempts: int) -> timedelta:
    """Return how long to wait before the next attempt."""
    return PAUSES[min(max(attempts, 1), len(PAUSES)) - 1]


def reached(error: GatewayError) -> bool:
    """Tell whether the index may have got anything of the call."""
    if isinstance(error, UpstreamError):
        return error.sent
    return isinstance(error, BadRequest | TooLarge)


def is_unsure(error: GatewayError) -> bool:
    """Tell whether nobody can know what the index did, or still does."""
    return (
        isinstance(error, UpstreamError)
        and error.sent
        and not isinstance(error, UpstreamRejected | UpstreamBusy)
    )


def told(record: Record, state: str) -> Notice | None:
    """Return what the owner of a file is told who did not wait for its new state."""
    if state == "indexed":
        where = (
            "is now in the knowledge base" if record.public else "can now be used to answer your questions"
        )
        return Notice("Document indexed", f"{record.name} {where}.", "success")
    if state == "failed":
        msg = f"{record.name} is kept, but it could not be indexed, so answers cannot make use of it."
        return Notice("Document not indexed", msg, "warning")
    if state == "deleting":
        msg = f"{record.name} could not be indexed, so it was not kept. Please upload it again."
        return Notice("Document not indexed", msg, "error")
    return None
