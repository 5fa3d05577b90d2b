"""Runs the cases against a server, several at a time, each on a connection of its own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tests.conformance import (
    control_cases,
    field_cases,
    frame_cases,
    message_cases,
    packing_cases,
    stream_cases,
)
from tests.conformance.client import Client, Target
from tests.conformance.expectations import Outcome
from tests.conformance.pieces import Case, Head

AT_A_TIME = 32


@dataclass(frozen=True)
class Result:
    case: Case
    outcome: Outcome


def cases_for(target: Target) -> list[Case]:
    head = Head(target)
    chapters = (frame_cases, stream_cases, control_cases, message_cases, field_cases, packing_cases)
    return [case for chapter in chapters for case in chapter.cases(head)]


async def run_case(case: Case, target: Target) -> Result:
    try:
        async with Client(target) as client:
            if case.handshake:
                await client.shake_hands()
            for step in case.steps:
                await (client.send(step) if isinstance(step, bytes) else step(client))
            return Result(case, await case.expects.look(client))
    except (AssertionError, OSError) as error:
        return Result(case, Outcome(False, str(error) or type(error).__name__, exact=False))


async def run_all(target: Target, cases: Sequence[Case] | None = None) -> list[Result]:
    places = asyncio.Semaphore(AT_A_TIME)

    async def placed(case: Case) -> Result:
        async with places:
            return await run_case(case, target)

    return list(await asyncio.gather(*map(placed, cases or cases_for(target))))
