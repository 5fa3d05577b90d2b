import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

import pytest

from backend.errors import StoreUnavailable
from backend.services.archive import AT_ONCE, Archive
from tests.support.peer import until


class Rows:
    """Stands for the rows: takes answers while `there`, and counts who tries at once."""

    def __init__(self, *, there: bool = True, fails: Callable[[], Exception] = StoreUnavailable) -> None:
        self.there = there
        self.kept: list[tuple[int, str]] = []
        self.times: set[datetime] = set()
        self.attempts = 0
        self.trying = 0
        self.most_trying = 0
        self._fails = fails

    async def keep_answer(self, chat_id: int, answer: str, said_at: datetime) -> bool:
        self.attempts += 1
        self.times.add(said_at)
        self.trying += 1
        self.most_trying = max(self.trying, self.most_trying)
        try:
            await asyncio.sleep(0)
        finally:
            self.trying -= 1
        if not self.there:
            raise self._fails()
        self.kept.append((chat_id, answer))
        return chat_id != 404


def archive_of(rows: Rows, most_waiting: int = 100, close_seconds: float = 0.05) -> Archive:
    return Archive(
        rows,  # type: ignore[arg-type]
        most_waiting=most_waiting,
        first_pause_seconds=0.01,
        close_seconds=close_seconds,
    )


@pytest.mark.asyncio
async def test_answer_is_kept_and_the_task_tells_when() -> None:
    rows = Rows()
    archive = archive_of(rows)
    saving = archive.keep(5, "answer")
    assert saving is not None
    await saving
    assert rows.kept == [(5, "answer")]
    await until(lambda: archive.waiting == 0)
    await archive.aclose()


@pytest.mark.asyncio
async def test_answer_waits_for_a_database_that_is_away_and_keeps_its_time() -> None:
    rows = Rows(there=False)
    archive = archive_of(rows)
    archive.keep(5, "answer")
    await until(lambda: rows.attempts >= 3)
    assert rows.kept == []
    rows.there = True
    await until(lambda: archive.waiting == 0)
    assert rows.kept == [(5, "answer")]
    assert len(rows.times) == 1  # by it an attempt whose outcome was not known is found again
    await archive.aclose()


@pytest.mark.asyncio
async def test_few_try_at_once() -> None:
    rows = Rows(there=False)
    archive = archive_of(rows)
    for number in range(50):
        archive.keep(number, "answer")
    await until(lambda: rows.attempts >= 50)
    assert rows.most_trying <= AT_ONCE
    rows.there = True
    await until(lambda: archive.waiting == 0)
    assert sorted(rows.kept) == [(number, "answer") for number in range(50)]
    await archive.aclose()


@pytest.mark.asyncio
async def test_no_more_wait_than_there_is_room_for(caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_of(Rows(there=False), most_waiting=3)
    assert [archive.keep(number, "x") is None for number in range(5)] == [False] * 3 + [True] * 2
    assert archive.waiting == 3
    assert caplog.text.count("is lost") == 2
    await archive.aclose()


@pytest.mark.asyncio
async def test_closing_tries_again_at_once_and_saves_what_can_be_saved() -> None:
    rows = Rows(there=False)
    archive = Archive(rows, first_pause_seconds=0.05, close_seconds=5)  # type: ignore[arg-type]
    archive.keep(5, "answer")
    await until(lambda: rows.attempts == 1)
    rows.there = True
    await archive.aclose()
    assert rows.kept == [(5, "answer")]


@pytest.mark.asyncio
async def test_closing_gives_up_in_time_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    archive = archive_of(Rows(there=False))
    archive.keep(5, "a secret answer")
    await archive.aclose()
    await asyncio.sleep(0)
    assert archive.waiting == 0
    assert "conversation 5 is lost" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.asyncio
async def test_conversation_that_was_deleted_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    archive = archive_of(Rows())
    archive.keep(404, "answer")
    await until(lambda: archive.waiting == 0)
    assert "deleted" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await archive.aclose()


@pytest.mark.asyncio
async def test_mistake_of_the_program_is_logged_and_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows(there=False, fails=lambda: ZeroDivisionError("x"))
    archive = archive_of(rows)
    archive.keep(5, "answer")
    await until(lambda: archive.waiting == 0)
    assert rows.attempts == 1
    assert "could not be saved" in caplog.text
    await archive.aclose()
