"""What may follow: each says what the RFCs allow, and nothing else."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backend.http2.frames import Code
from tests.conformance.client import Client, name_of


@dataclass(frozen=True)
class Outcome:
    """What was seen; `exact` when it is the answer that the RFC names first, not one that it tolerates."""

    passed: bool
    seen: str
    exact: bool = True


@dataclass(frozen=True)
class Expectation:
    """A sentence, and how to look."""

    text: str
    look: Callable[[Client], Awaitable[Outcome]]


def seen_of(client: Client) -> str:
    """Tell in a few words what came back."""
    parts = []
    for stream, answer in sorted(client.answers.items()):
        if answer.reset is not None:
            parts.append(f"stream {stream} reset {name_of(answer.reset)}")
        elif answer.fields:
            parts.append(f"stream {stream} {answer.status}{'' if answer.ended else ' unfinished'}")
    if client.goaway is not None:
        parts.append(f"GOAWAY {name_of(client.goaway[1])}")
    if client.closed:
        parts.append("closed")
    return ", ".join(parts) or "nothing"


def connection_error(*codes: Code) -> Expectation:
    """GOAWAY with one of these codes; section 5.4.1 only recommends it, so a bare close passes too."""

    async def look(client: Client) -> Outcome:
        await client.until(lambda: client.goaway is not None)
        told = client.goaway is not None and client.goaway[1] in codes
        silent = client.goaway is None and client.closed
        ends = told and await client.until(lambda: client.closed)
        return Outcome(ends or silent, seen_of(client), exact=told)

    return Expectation(f"connection error {' or '.join(code.name for code in codes)}", look)


def stream_error(*codes: Code, stream: int = 1) -> Expectation:
    """RST_STREAM with one of these codes; section 5.4.1 lets a server end the connection instead."""

    async def look(client: Client) -> Outcome:
        answer = client.answer(stream)
        await client.until(lambda: answer.reset is not None or answer.ended or client.goaway is not None)
        if answer.reset not in (None, Code.NO_ERROR) or answer.ended:
            lives = client.goaway is None and await client.is_alive()
            return Outcome(answer.reset in codes and lives, seen_of(client))
        told = client.goaway is not None and client.goaway[1] in codes
        return Outcome(told or (client.goaway is None and client.closed), seen_of(client), exact=False)

    return Expectation(f"stream error {' or '.join(code.name for code in codes)}", look)


def answered(*statuses: int, stream: int = 1) -> Expectation:
    """A whole answer with one of these statuses; none named: any below 500."""

    async def look(client: Client) -> Outcome:
        answer = client.answer(stream)
        await client.until(lambda: answer.ended or answer.reset is not None or client.goaway is not None)
        right = answer.status in statuses if statuses else 200 <= answer.status < 500
        return Outcome(answer.ended and right and client.goaway is None, seen_of(client))

    return Expectation(f"answer {' or '.join(map(str, statuses)) or 'below 500'}", look)


def goes_on() -> Expectation:
    """The connection lives: a PING comes back."""

    async def look(client: Client) -> Outcome:
        alive = await client.is_alive()
        return Outcome(alive and client.goaway is None, seen_of(client))

    return Expectation("goes on", look)


def shows(text: str, condition: Callable[[Client], bool]) -> Expectation:
    """Something particular comes back."""

    async def look(client: Client) -> Outcome:
        return Outcome(await client.until(lambda: condition(client)), seen_of(client))

    return Expectation(text, look)


def either(*expectations: Expectation) -> Expectation:
    """Any of several, where the RFC leaves the choice; the first is the one it would rather see."""

    async def look(client: Client) -> Outcome:
        outcome = await expectations[0].look(client)
        for other in expectations[1:]:
            if not outcome.passed:
                outcome = await other.look(client)
        return outcome

    return Expectation(" or ".join(expectation.text for expectation in expectations), look)


PROTOCOL = connection_error(Code.PROTOCOL_ERROR)
CLOSED = connection_error(Code.STREAM_CLOSED)
SIZE = connection_error(Code.FRAME_SIZE_ERROR)
FLOW = connection_error(Code.FLOW_CONTROL_ERROR)
COMPRESSION = connection_error(Code.COMPRESSION_ERROR)
STREAM_CLOSED = stream_error(Code.STREAM_CLOSED)
STREAM_PROTOCOL = stream_error(Code.PROTOCOL_ERROR)
MALFORMED = STREAM_PROTOCOL  # a request that is none (section 8.1.1)
