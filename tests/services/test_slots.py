import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import Overloaded
from backend.services.slots import Share, Slots

from ..support.peer import until


def slots(size: int = 1, waiting: int = 10, wait_seconds: float = 30) -> Slots:
    return Slots(size, waiting=waiting, wait_seconds=wait_seconds)


async def queued(places: Slots, count: int) -> list["asyncio.Task[None]"]:
    """Let tasks stand in line, one after the other."""
    tasks = []
    for _ in range(count):
        before = places.waiting
        tasks.append(asyncio.create_task(places.acquire()))
        await until(lambda before=before: places.waiting == before + 1)
    return tasks


@pytest.mark.asyncio
async def test_places_are_taken_and_given_back() -> None:
    places = slots(2)
    await places.acquire()
    await places.acquire()
    assert (places.free, places.in_use) == (0, 2)
    places.release()
    assert (places.free, places.in_use) == (1, 1)


@pytest.mark.asyncio
async def test_who_waits_longest_gets_the_place() -> None:
    places = slots()
    await places.acquire()
    first, second = await queued(places, 2)
    places.release()
    await first
    assert not second.done()
    places.release()
    await second
    assert (places.free, places.waiting) == (0, 0)


@pytest.mark.asyncio
async def test_nobody_passes_the_line() -> None:
    places = slots()
    await places.acquire()
    (waiting,) = await queued(places, 1)
    places.release()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(places.acquire(), 0.05)
    assert waiting.done()


@pytest.mark.asyncio
async def test_full_line_is_refused_at_once() -> None:
    places = slots(waiting=1)
    await places.acquire()
    (waiting,) = await queued(places, 1)
    with pytest.raises(Overloaded) as refused:
        await places.acquire()
    assert refused.value.retry_after_seconds == 1
    places.release()
    await waiting


@pytest.mark.asyncio
async def test_vain_wait_ends_and_leaves_the_line() -> None:
    places = slots(wait_seconds=0.02)
    await places.acquire()
    with pytest.raises(Overloaded):
        await places.acquire()
    assert places.waiting == 0
    places.release()
    assert places.free == 1


@pytest.mark.asyncio
async def test_cancelled_caller_leaves_the_line() -> None:
    places = slots()
    await places.acquire()
    first, second = await queued(places, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    places.release()
    await second


@pytest.mark.asyncio
async def test_place_given_to_a_caller_who_is_just_cancelled_goes_to_the_next() -> None:
    places = slots()
    await places.acquire()
    first, second = await queued(places, 2)
    places.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    places.release()
    assert places.free == 1


@pytest.mark.asyncio
async def test_release_right_after_a_cancellation_does_not_disturb_it() -> None:
    places = slots()
    await places.acquire()
    first, second = await queued(places, 2)
    first.cancel()
    places.release()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    places.release()
    assert (places.free, places.waiting) == (1, 0)


@pytest.mark.asyncio
async def test_state_can_be_read() -> None:
    places = slots(2)
    await places.acquire()
    assert repr(places) == "<Slots 1/2 in use, 0 waiting>"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acquire", "acquire", "acquire", "release", "cancel", "turn"]), st.integers(0, 5)
        ),
        max_size=60,
    )
)
def test_places_are_never_lost_nor_made(steps: list[tuple[str, int]]) -> None:
    async def story() -> None:
        places = slots(2, waiting=4)
        tasks: list[asyncio.Task[None]] = []

        def holding() -> list["asyncio.Task[None]"]:
            return [t for t in tasks if t.done() and not t.cancelled() and t.exception() is None]

        for step, which in steps:
            if step == "acquire":
                tasks.append(asyncio.create_task(places.acquire()))
            elif step == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            elif step == "release" and (held := holding()):
                tasks.remove(held[which % len(held)])
                places.release()
            else:
                await asyncio.sleep(0)
            assert 0 <= places.free <= 2
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, asyncio.CancelledError | Overloaded)
        for _ in [outcome for outcome in outcomes if outcome is None]:
            places.release()
        assert (places.free, places.waiting) == (2, 0)

    asyncio.run(story())


def house(places: int = 20) -> Slots:
    return Slots(places, waiting=0, wait_seconds=0)


def share_of(house: Slots, size: int = 2, *, to_the_end: bool = False, wait_seconds: float = 30) -> Share:
    return Share(house, size, waiting=500, wait_seconds=wait_seconds, to_the_end=to_the_end)


@pytest.mark.asyncio
async def test_full_share_leaves_the_others_alone() -> None:
    everyone = house()
    slow, other = share_of(everyone, wait_seconds=0.02), share_of(everyone)
    for _ in range(2):
        await slow.acquire()
    with pytest.raises(Overloaded):
        await slow.acquire()
    await other.acquire()
    assert (slow.in_flight, other.in_flight, everyone.in_use) == (2, 1, 3)


@pytest.mark.asyncio
async def test_half_as_many_wait_as_are_worked_on_and_others_are_refused_at_once() -> None:
    share = share_of(house(), 4)
    for _ in range(4):
        await share.acquire()
    waiting = [asyncio.create_task(share.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await asyncio.wait_for(share.acquire(), 0.001)
    for _ in range(2):
        share.release(answered=False)
    await asyncio.gather(*waiting)


@pytest.mark.asyncio
async def test_answered_call_makes_room_unless_it_counts_to_the_end() -> None:
    streams, whole = share_of(house(), 1), share_of(house(), 1, to_the_end=True, wait_seconds=0.02)
    for share in (streams, whole):
        await share.acquire()
        share.answered()
    await streams.acquire()
    with pytest.raises(Overloaded):
        await whole.acquire()
    whole.release(answered=True)
    await whole.acquire()


@pytest.mark.asyncio
async def test_open_streams_of_one_upstream_take_half_of_all_places_at_most() -> None:
    everyone = house(10)
    streams, other = share_of(everyone), share_of(everyone)
    for _ in range(5):
        await streams.acquire()
        streams.answered()
    with pytest.raises(Overloaded):
        await streams.acquire()
    await other.acquire()
    assert repr(streams) == "<Share 5 in flight, unanswered <Slots 0/2 in use, 0 waiting>>"


@given(st.lists(st.sampled_from(["call", "answer", "end", "fail"]), max_size=80), st.booleans())
def test_share_gives_back_what_it_took(steps: list[str], to_the_end: bool) -> None:
    async def story() -> None:
        everyone = house(6)
        share = Share(everyone, 2, waiting=0, wait_seconds=0, to_the_end=to_the_end)
        asked, begun = 0, 0
        for step in steps:
            if step == "call":
                try:
                    await share.acquire()
                    asked += 1
                except Overloaded:
                    full = asked + begun if to_the_end else asked
                    assert full == 2 or asked + begun == 3
            elif step == "answer" and asked:
                share.answered()
                asked, begun = asked - 1, begun + 1
            elif step == "end" and begun:
                share.release(answered=True)
                begun -= 1
            elif step == "fail" and asked:
                share.release(answered=False)
                asked -= 1
            assert share.in_flight == everyone.in_use == asked + begun <= 3
        for _ in range(asked):
            share.release(answered=False)
        for _ in range(begun):
            share.release(answered=True)
        await share.acquire()
        assert (share.in_flight, everyone.in_use) == (1, 1)

    asyncio.run(story())
