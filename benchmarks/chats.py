"""`python -m benchmarks.chats`: what a chat costs the gateway, and many chats at once at their model's pace.

One worker on one core; model and browsers on another.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self, cast
from urllib.parse import urlencode, urlsplit

import uvloop

from benchmarks import chat_model, command, gateway, report, usage
from benchmarks.figures import Limit, Spread, at_most, percentile
from benchmarks.machine import reserved
from benchmarks.processes import Failure, Process, answering, free_port, running
from benchmarks.stream import head

VERSIONS = ("flask", "hypercorn", "granian", "uvloop")
EVENTS = 2_000
# Events a second; 0 is as fast as they go.
RATES = (0, 1_000, 100)
# Side by side, so that the clock of the processor, which ticks every 10 ms, is fine enough.
SIDE_BY_SIDE = 10
COST_LIMIT: Limit = at_most(40, 20, "ms")
# At a slow pace waking costs most, and a relay that knows nothing of chats is woken as often.
SLOW = 100
RELAY = "a relay that knows nothing"
RELAY_LIMIT: Limit = at_most(3, 2, "×")
CHATS = 500
PACE = 30
# A word that is late by less looks as if it were not.
LATE_LIMIT: Limit = at_most(250, 100, "ms")
PATIENCE_SECONDS = 120.0
SPARE_CONNECTIONS = 100
FINISHED = b'data: {"status":"finished"}\n\n'
# As the model itself ends an answer.
LAST_CHUNK = b"\r\n0\r\n\r\n"
_MOMENT = re.compile(rb"(\d+\.\d{6}) ")


class Browser(asyncio.Protocol):
    """One chat: notes when its first word came, and how late each read's last word was."""

    def __init__(self, request: bytes, end: bytes) -> None:
        self._request, self._end = request, end
        self._asked_at = 0.0
        self.first = 0.0
        self.late: list[float] = []
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's derives from no class of asyncio

    def ask(self) -> None:
        self._asked_at = time.monotonic()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self.first:
            if not data.startswith(b"HTTP/1.1 200 "):
                self._fail(f"answered with {data[:300]!r}")
                return
            self.first = now - self._asked_at
        moments = _MOMENT.findall(data)
        if moments:
            self.late.append(now - float(moments[-1]))
        seen = self._tail + data  # the end may come in pieces
        if self._end in seen and not self.done.done():
            self.done.set_result(None)
        self._tail = seen[-len(self._end) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was closed amid a chat: {exc}")

    def close(self) -> None:
        self._transport.abort()

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(Failure(reason))


@dataclass(frozen=True)
class Cost:
    """What one of several chats cost the gateway's processor."""

    server: str
    rate: int
    events: int
    milliseconds: float


@dataclass(frozen=True)
class Crowd:
    """Many chats at once: seconds longer than the model took, first words, lateness of words."""

    server: str
    chats: int
    rate: int
    processor: float
    longer_seconds: float
    first_seconds: float
    late_middle: float
    late_most: float


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.chats", "Measure chats.")
    parser.add_argument("--events", type=command.whole(10, 20_000), default=EVENTS, metavar="N")
    parser.add_argument("--chats", type=command.whole(1, 2_000), default=CHATS, metavar="N")
    parser.add_argument("--seconds", type=command.between(1, 60), default=10.0, metavar="S")
    parser.add_argument("--rounds", type=command.whole(1, 20), default=1, metavar="N")
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS, connections=asked.chats + SPARE_CONNECTIONS)
    account = gateway.Account.made(folder)
    costs: list[Cost] = []
    crowds: list[Crowd] = []
    with chat_model.served(folder, cores.load) as model:
        for server in [asked.server] if asked.server else gateway.SERVERS:
            costs += relayed(folder, cores.measured, model, asked.events, asked.rounds)
            settings = {"LLM_URL": model, "GATEWAY_CHAT_LIMIT": "1000000/minute"}
            with gateway.served(server, account, folder, cores.measured, model, model, **settings) as served:
                for _ in range(asked.rounds):
                    costs += cost(server, served, asked.events)
                    crowds.append(crowd(server, served, asked.chats, asked.seconds))
    tables = (_costs(costs), _crowds(crowds))
    notes = [
        f"A chat costs what {SIDE_BY_SIDE} side by side cost together, divided by their number, question, "
        "conversation and saved answer included. Late is a word that left the model and is not yet with the "
        "browser; load and model share the other core, so it holds their own delays, too."
    ]
    report.show(machine, tables, notes)
    report.save(asked.markdown, report.markdown(machine, tables, notes))
    found = {"costs": [asdict(one) for one in costs], "crowds": [asdict(one) for one in crowds]}
    report.save(asked.json, {"machine": machine, **found})
    verdicts = {row[-1] for table in tables for row in table.rows}
    return command.SHORT if "short" in verdicts else command.FINE


def cost(server: str, served: gateway.Served, events: int) -> Iterator[Cost]:
    """Raises Failure when a chat fails."""
    _run(Question.to_gateway(served, events, 0), 1)
    for rate in RATES:
        report.progress(f"gateway on {server}: chats of {events} events, {_spoken(rate)}")
        yield _spent(server, served.process, Question.to_gateway(served, events, rate), events, rate)


def relayed(folder: Path, core: int, model: str, events: int, rounds: int) -> Iterator[Cost]:
    """What it costs to hand on the same octets and no more. Raises Failure."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.bare_relay", str(port), model]
    with running("relay", command, core=core, folder=folder) as process:
        answering(process, f"http://127.0.0.1:{port}/")
        report.progress(f"{RELAY}: chats of {events} events, {_spoken(SLOW)}")
        for _ in range(rounds):
            question = Question.to_model(f"http://127.0.0.1:{port}", events, SLOW)
            yield _spent(RELAY, process, question, events, SLOW)


def _spent(name: str, process: Process, question: "Question", events: int, rate: int) -> Cost:
    before = usage.processor_seconds(process)
    _run(question, SIDE_BY_SIDE)
    spent = usage.processor_seconds(process) - before
    return Cost(name, rate, events, 1000 * spent / SIDE_BY_SIDE)


def crowd(server: str, served: gateway.Served, chats: int, seconds: float) -> Crowd:
    report.progress(f"gateway on {server}: {chats} chats at once")
    before, began = usage.processor_seconds(served.process), time.monotonic()
    browsers = _run(Question.to_gateway(served, int(PACE * seconds), PACE), chats)
    took = time.monotonic() - began
    spent = usage.processor_seconds(served.process) - before
    late = [one for browser in browsers for one in browser.late]
    return Crowd(
        server,
        chats,
        PACE,
        spent / took,
        took - seconds,
        percentile([browser.first for browser in browsers], 1),
        1000 * percentile(late, 0.5),
        1000 * percentile(late, 0.99),
    )


@dataclass(frozen=True)
class Question:
    """Where a chat is asked, the whole request, and how its answer ends."""

    url: str
    request: bytes
    end: bytes

    @classmethod
    def to_gateway(cls, served: gateway.Served, events: int, rate: int) -> Self:
        body = urlencode({"message": f"{events} {rate}"}).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        place = urlsplit(served.url).netloc
        asked = head("POST", "/api/chat/stream", place, {**served.headers, **kind}, len(body))
        return cls(served.url, asked + body, FINISHED)

    @classmethod
    def to_model(cls, url: str, events: int, rate: int) -> Self:
        body = json.dumps({"input": f"{events} {rate}"}).encode()
        return cls(url, head("POST", "/chat/stream", urlsplit(url).netloc, {}, len(body)) + body, LAST_CHUNK)


def _run(question: Question, chats: int) -> list[Browser]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_together(question, chats))


async def _together(question: Question, chats: int) -> list[Browser]:
    place = urlsplit(question.url)
    loop = asyncio.get_running_loop()
    browsers = []
    for _ in range(chats):
        _, browser = await loop.create_connection(
            lambda: Browser(question.request, question.end), place.hostname or "", place.port or 80
        )
        browsers.append(browser)
    try:
        for browser in browsers:
            browser.ask()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*(browser.done for browser in browsers))
    except TimeoutError:
        raise Failure("a chat does not end") from None
    finally:
        for browser in browsers:
            browser.close()
    return browsers


def _spoken(rate: int) -> str:
    return f"{rate:,} a second" if rate else "as fast as they go"


def _costs(costs: Sequence[Cost]) -> report.Table:
    rows = []
    for server, rate in dict.fromkeys((one.server, one.rate) for one in costs):
        said = Spread.of(_milliseconds(costs, server, rate))
        limit, measured, beside = COST_LIMIT, said.middle, ""
        if rate == SLOW and server != RELAY:
            limit = RELAY_LIMIT
            measured = said.middle / max(1.0, median(_milliseconds(costs, RELAY, rate)))
            beside = report.with_unit(measured, "×")
        judged = server != RELAY and costs[0].events == EVENTS
        figures = report.with_unit(said.middle, "ms"), report.spread(said), beside
        verdict = limit.verdict(measured) if judged else ""
        rows.append((server, _spoken(rate), *report.limits(limit if judged else None), *figures, verdict))
    columns = (
        "server",
        "events come",
        "at most",
        "goal",
        "processor by chat",
        "rounds",
        "beside the relay",
        "",
    )
    return report.Table(f"A chat of {costs[0].events:,} events", columns, tuple(rows), left=2)


def _milliseconds(costs: Sequence[Cost], server: str, rate: int) -> list[float]:
    return [one.milliseconds for one in costs if (one.server, one.rate) == (server, rate)]


def _crowds(crowds: Sequence[Crowd]) -> report.Table:
    rows = tuple(
        (
            one.server,
            f"{one.chats:,}",
            f"{one.processor:.0%}",
            report.with_unit(one.first_seconds, "s"),
            report.with_unit(one.longer_seconds, "s"),
            report.with_unit(one.late_middle, "ms"),
            report.with_unit(one.late_most, "ms"),
            *report.limits(LATE_LIMIT),
            LATE_LIMIT.verdict(one.late_most),
        )
        for one in crowds
    )
    columns = ("server", "chats", "of a core", "last first word", "longer than the model by", "late: median")
    return report.Table(
        f"Chats at once, {PACE} events a second each", (*columns, "99th", "at most", "goal", ""), rows
    )


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
