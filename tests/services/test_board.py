import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.services import board as boards
from backend.services.board import Board, Told
from backend.services.figures import Figures
from backend.services.trail import Trail
from tests.support.peer import until


@asynccontextmanager
async def seated(folder: Path | None, requests: int = 0, **gauges: Any) -> AsyncIterator[Board]:
    """A worker's board, with so many requests counted, until it ends."""
    figures = Figures()
    board = Board(folder, figures, lambda: gauges)
    await board.start()
    for _ in range(requests):
        figures.count(Trail(), "GET", "2xx", None, 0, 0)
    yield board
    await board.aclose()


async def killed(folder: Path, requests: int) -> None:
    """Let a worker publish and end as by SIGKILL: nothing is tidied up, and the kernel lets its lock go."""
    async with seated(folder, requests) as board:
        await board.everyone()
        written = (folder / "0.json").read_bytes()
    (folder / "0.json").write_bytes(written)


def total(told: list[Told]) -> int:
    return sum(one.counts.whole.requests for one in told)


@pytest.mark.asyncio
async def test_workers_tell_each_other(tmp_path: Path) -> None:
    async with seated(tmp_path, 3, in_flight=1) as one, seated(tmp_path, 4, in_flight=2) as other:
        await one.everyone()
        told = await other.everyone()
        assert total(told) == 7
        assert [(item.seat, item.gauges) for item in told] == [(1, {"in_flight": 2}), (0, {"in_flight": 1})]


@pytest.mark.asyncio
async def test_counts_of_a_dead_worker_stay_and_its_gauges_go(tmp_path: Path) -> None:
    async with seated(tmp_path, 1, in_flight=1) as survivor:
        async with seated(tmp_path, 5, in_flight=9) as dying:
            await dying.everyone()
        told = await survivor.everyone()
        assert total(told) == 6
        assert [item.gauges for item in told] == [{"in_flight": 1}, None]


@pytest.mark.asyncio
async def test_a_new_worker_counts_on_from_the_dead_one(tmp_path: Path) -> None:
    for lives in range(1, 6):
        await killed(tmp_path, 10)
        async with seated(tmp_path) as board:
            assert total(await board.everyone()) == 10 * lives
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.asyncio
async def test_totals_never_go_down_whoever_answers_and_dies(tmp_path: Path) -> None:
    seen = []
    async with seated(tmp_path, 1) as survivor:
        for _ in range(3):
            async with seated(tmp_path, 7) as dying:
                seen.append(total(await dying.everyone()))
            seen.append(total(await survivor.everyone()))
    assert seen == sorted(seen)
    assert seen[-1] == 1 + 3 * 7


@pytest.mark.asyncio
async def test_without_a_folder_a_worker_tells_of_itself() -> None:
    async with seated(None, 2, in_flight=1) as board:
        [told] = await board.everyone()
        assert (told.counts.whole.requests, told.gauges) == (2, {"in_flight": 1})


@pytest.mark.asyncio
async def test_what_is_written_is_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    async with seated(folder) as board:
        await board.everyone()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"counts": {}, "gauges": {}}', b"\xff\xfe", b"null", b'{"counts": 1}']
)
async def test_files_that_say_nothing_are_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "7.json").write_bytes(content)
    (tmp_path / "0.json").write_bytes(content)
    async with seated(tmp_path, 2) as board:
        assert total(await board.everyone()) == 2


@pytest.mark.asyncio
async def test_a_folder_that_cannot_be_made_leaves_the_worker_alone_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    async with seated(tmp_path / "file" / "run", 2) as board:
        assert total(await board.everyone()) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "workers cannot share their figures: Not a directory"
    ]


@pytest.mark.asyncio
async def test_a_folder_that_takes_nothing_any_more_is_told_of_once_and_counting_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with seated(tmp_path, 2) as board:
        os.symlink("/dev/full", tmp_path / "0.new")  # what somebody else put there is not followed
        for _ in range(3):
            assert total(await board.everyone()) == 2
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        os.unlink(tmp_path / "0.new")
        await board.everyone()
        assert json.loads((tmp_path / "0.json").read_text())["gauges"] == {}


@pytest.mark.asyncio
async def test_it_is_published_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "PUBLISH_SECONDS", 0.01)

    def published() -> bool:
        told = boards._read(tmp_path / "0.json")
        return told is not None and told.counts.whole.requests == 4

    async with seated(tmp_path, 4):
        await until(published, 10)


@pytest.mark.asyncio
async def test_seats_are_given_up_with_nothing_left_running(tmp_path: Path) -> None:
    for _ in range(5):
        async with seated(tmp_path, 1) as board:
            assert repr(board) == "<Board seat 0>"
    assert asyncio.all_tasks() == {asyncio.current_task()}
