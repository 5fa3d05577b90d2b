import asyncio
import contextvars
import threading
from typing import TypeVar

import pytest

from backend import switch
from tests.support.peer import until

T = TypeVar("T")

name: contextvars.ContextVar[str] = contextvars.ContextVar("name")


async def later(value: T) -> T:
    await asyncio.sleep(0)
    return value


async def failing(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.asyncio
async def test_synchronous_work_gets_what_it_waits_for() -> None:
    assert await switch.run(lambda a, b: [switch.wait(later(a)), switch.wait(later(b))], 1, b=2) == [1, 2]


@pytest.mark.asyncio
async def test_work_that_never_waits_returns_at_once() -> None:
    assert await switch.run(lambda: "done") == "done"


@pytest.mark.asyncio
async def test_what_is_awaited_raises_where_the_work_waits() -> None:
    def work() -> str:
        try:
            switch.wait(failing(LookupError("gone")))
        except LookupError as error:
            return f"caught {error}"
        return "nothing"

    assert await switch.run(work) == "caught gone"


@pytest.mark.asyncio
async def test_what_the_work_raises_leaves_run() -> None:
    def work() -> None:
        switch.wait(later(None))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await switch.run(work)


@pytest.mark.asyncio
async def test_a_thousand_works_wait_for_one_event_together() -> None:
    event, waiting = asyncio.Event(), []

    def work(number: int) -> int:
        waiting.append(number)
        switch.wait(event.wait())
        return number

    tasks = [asyncio.create_task(switch.run(work, number)) for number in range(1000)]
    await until(lambda: len(waiting) == 1000)
    event.set()
    assert await asyncio.gather(*tasks) == list(range(1000))


@pytest.mark.asyncio
async def test_work_inside_awaited_code_inside_work_still_waits() -> None:
    async def middle(depth: int) -> int:
        return depth if depth == 0 else await switch.run(lambda: switch.wait(middle(depth - 1))) + 1

    assert await switch.run(lambda: switch.wait(middle(20))) == 20


@pytest.mark.asyncio
async def test_only_synchronous_work_on_the_loop_counts_as_inside() -> None:
    async def seen_by_a_coroutine() -> bool:
        return switch.inside()

    def work() -> list[bool]:
        in_thread: list[bool] = []
        thread = threading.Thread(target=lambda: in_thread.append(switch.inside()))
        thread.start()
        thread.join()
        return [switch.inside(), switch.wait(seen_by_a_coroutine()), *in_thread]

    assert not switch.inside()
    assert await switch.run(work) == [True, False, False]


def test_waiting_outside_is_refused_and_says_why() -> None:
    awaitable = later(None)
    with pytest.raises(RuntimeError, match="only code inside `run`"):
        switch.wait(awaitable)
    awaitable.close()


@pytest.mark.asyncio
async def test_cancellation_arrives_where_the_work_waits_and_runs_its_finally() -> None:
    waits, cleaned = asyncio.Event(), []

    async def for_ever() -> None:
        waits.set()
        await asyncio.Event().wait()

    def work() -> None:
        try:
            switch.wait(for_ever())
        finally:
            cleaned.append(switch.wait(later("also by waiting")))

    task = asyncio.create_task(switch.run(work))
    await waits.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["also by waiting"]


@pytest.mark.asyncio
async def test_a_dropped_run_unwinds_its_work() -> None:
    cleaned = []

    def work() -> None:
        try:
            switch.wait(asyncio.Event().wait())
        finally:
            cleaned.append(True)

    run = switch.run(work)
    run.send(None)
    run.close()
    assert cleaned == [True]


@pytest.mark.asyncio
async def test_context_variables_pass_both_ways() -> None:
    async def set_and_tell(value: str) -> str:
        before = name.get()
        name.set(value)
        return before

    def work() -> tuple[str, str]:
        name.set("set by work")
        return switch.wait(set_and_tell("set by coroutine")), name.get()

    name.set("set by caller")
    assert await switch.run(work) == ("set by work", "set by coroutine")
    assert name.get() == "set by coroutine"


@pytest.mark.asyncio
async def test_context_variables_of_interleaved_works_stay_apart() -> None:
    def work(number: int) -> list[str]:
        name.set(str(number))
        seen = []
        for _ in range(number % 5 + 1):
            switch.wait(later(None))
            seen.append(name.get())
        return seen

    results = await asyncio.gather(*(switch.run(work, number) for number in range(200)))
    assert results == [[str(number)] * (number % 5 + 1) for number in range(200)]


@pytest.mark.asyncio
async def test_work_may_wait_for_tasks_and_futures() -> None:
    def work() -> tuple[object, object]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        return switch.wait(loop.create_task(later("task"))), switch.wait(future)

    assert await switch.run(work) == ("task", "future")
