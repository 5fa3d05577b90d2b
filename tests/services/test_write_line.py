import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from backend.errors import Conflict, NotFound, Overloaded, StoreUnavailable
from backend.services.write_line import MOST_TOGETHER, WriteLine
from tests.support.peer import until


class Store:
    """Stands for the database: runs works in a thread of its own, each transaction when `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.transactions = 0
        self.written: list[str] = []
        self.away = False

    async def run(self, work: Callable[[Any], Any]) -> Any:
        self.transactions += 1
        await self.go.wait()
        if self.away:
            raise StoreUnavailable
        draft: list[str] = []
        result = await asyncio.to_thread(work, draft)
        self.written += draft
        return result


def writes(name: str) -> Callable[[Any], str]:
    def work(session: Any) -> str:
        assert threading.current_thread() is not threading.main_thread()
        session.append(name)
        return name.upper()

    return work


def fails(error: Exception) -> Callable[[Any], str]:
    def work(session: Any) -> str:
        raise error

    return work


def line_of(store: Store, waiting: int = 1000) -> WriteLine:
    return WriteLine(store, waiting=waiting)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_what_waits_together_is_written_together_in_order() -> None:
    store = Store()
    line = line_of(store)
    names = [f"w{number}" for number in range(MOST_TOGETHER + 10)]
    assert await asyncio.gather(*(line.run(writes(name)) for name in names)) == [n.upper() for n in names]
    assert store.written == names
    assert store.transactions == 2
    assert await line.run(writes("later")) == "LATER"
    assert store.transactions == 3


@pytest.mark.asyncio
async def test_refusal_of_one_is_nobody_elses() -> None:
    store = Store()
    line = line_of(store)
    works = [writes("a"), fails(NotFound("x")), writes("b")]
    a, refused, b = await asyncio.gather(*map(line.run, works), return_exceptions=True)
    assert (a, b) == ("A", "B")
    assert isinstance(refused, NotFound)
    assert store.written == ["a", "b"]
    assert store.transactions == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError])
async def test_transaction_that_one_breaks_is_repeated_one_by_one(error: type[Exception]) -> None:
    store = Store()
    line = line_of(store)
    works = [writes("a"), fails(error("x")), writes("b")]
    a, broken, b = await asyncio.gather(*map(line.run, works), return_exceptions=True)
    assert (a, b) == ("A", "B")
    assert isinstance(broken, error)
    assert store.written == ["a", "b"]
    with pytest.raises(Conflict):
        await line.run(fails(Conflict()))


@pytest.mark.asyncio
async def test_database_that_is_away_is_asked_once_for_all_that_wait() -> None:
    store = Store()
    store.away = True
    line = line_of(store)
    outcomes = await asyncio.gather(*(line.run(writes(f"{n}")) for n in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5
    assert store.transactions == 1
    store.away = False
    assert await line.run(writes("a")) == "A"


@pytest.mark.asyncio
async def test_caller_who_left_the_line_writes_nothing() -> None:
    store = Store()
    store.go.clear()
    line = line_of(store)
    first = asyncio.ensure_future(line.run(writes("first")))
    await until(lambda: store.transactions == 1)
    left, stays = (asyncio.ensure_future(line.run(writes(name))) for name in ("left", "stays"))
    await asyncio.sleep(0)
    left.cancel()
    store.go.set()
    assert await asyncio.gather(first, stays) == ["FIRST", "STAYS"]
    assert store.written == ["first", "stays"]


@pytest.mark.asyncio
async def test_full_line_refuses() -> None:
    store = Store()
    store.go.clear()
    line = line_of(store, waiting=2)
    first = asyncio.ensure_future(line.run(writes("0")))
    await until(lambda: store.transactions == 1)
    others = [asyncio.ensure_future(line.run(writes(f"{n}"))) for n in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await line.run(writes("3"))
    store.go.set()
    await asyncio.gather(first, *others)
    await line.aclose()


@pytest.mark.asyncio
async def test_closing_finishes_what_waits() -> None:
    store = Store()
    line = line_of(store)
    await line.aclose()
    calls = [asyncio.ensure_future(line.run(writes(f"{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    await line.aclose()
    assert await asyncio.gather(*calls) == ["0", "1", "2"]
