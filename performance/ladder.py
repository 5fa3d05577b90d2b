"""The ladder: N users press the same button at the same moment, for more and more users."""

import asyncio
import time
from collections.abc import Callable, Sequence

from pyreqwest.request import StreamRequest

from performance.answers import Answer
from performance.effort import Watch
from performance.gateway import Gateway
from performance.record import Record
from performance.screen import Notice, Watched
from performance.settings import Settings
from performance.steps import Rung, Step

WARM_UP_USERS = 10

Prepare = Callable[[], StreamRequest]


async def climb(gateway: Gateway, settings: Settings, avatar: str, record: Record, watched: Watched) -> None:
    """Measure one after another, then every step in turn, and all of that again in every round."""
    load = settings.load

    def prepare() -> StreamRequest:
        return gateway.prepare(settings.call, avatar)

    requests = [prepare() for _ in range(load.serial_calls)]
    await call_in_a_row(gateway, requests, watched("one by one", len(requests)), record)
    if not record.serial:
        return
    record.rungs = [Rung(users) for users in load.users]
    for number in range(load.rounds):
        for rung in record.rungs:
            await warm_up(gateway, prepare, min(rung.users, WARM_UP_USERS), load.warm_up)
            requests = [prepare() for _ in range(rung.users)]
            if not load.cold:
                await gateway.connect(rung.users)
            title = f"{rung.users:,} at once" + (f", {number + 1}" if load.rounds > 1 else "")
            async with Watch() as watch:
                answers = await release_together(gateway, requests, watched(title, rung.users))
                effort = watch.effort()
            rung.rounds.append(Step.of(answers, record.serial, effort))


async def warm_up(gateway: Gateway, prepare: Prepare, users: int, seconds: float) -> None:
    """Let some users call over and over; what they see is not counted."""
    ends = time.perf_counter() + seconds

    async def user() -> None:
        while time.perf_counter() < ends:
            await gateway.send(prepare(), time.perf_counter())

    async with asyncio.TaskGroup() as group:
        for _ in range(users if seconds else 0):
            group.create_task(user())


async def call_in_a_row(
    gateway: Gateway, requests: Sequence[StreamRequest], notice: Notice, record: Record
) -> None:
    for request in requests:
        answer = await gateway.send(request, time.perf_counter())
        if answer.failure:
            record.serial_failures.append(answer.failure)
        else:
            record.serial.append(answer.seconds)
        notice(answer)


async def release_together(
    gateway: Gateway, requests: Sequence[StreamRequest], notice: Notice
) -> list[Answer]:
    """Let every request wait at one gate, open it, and count each one's time from that moment."""
    gate: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def user(request: StreamRequest) -> Answer:
        answer = await gateway.send(request, await gate)
        notice(answer)
        return answer

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(user(request)) for request in requests]
        await asyncio.sleep(0)  # every task runs once, up to the gate
        gate.set_result(time.perf_counter())
    return [task.result() for task in tasks]
