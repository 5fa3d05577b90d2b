"""Which charts a page has."""

from collections.abc import Callable

from performance.charts import Line, bar_chart, line_chart
from performance.columns import COLUMNS, WALL, Column, parts_of
from performance.record import Crowd, Record
from performance.steps import Rung, Spread, Step
from performance.tally import Moment

BY_KEY = {column.key: column for column in COLUMNS}
# Wide ones first, so that those that lie upon them leave an edge to be seen.
PERCENTILES = (("p99", "c3", 6.0), ("p95", "c2", 4.0), ("p50", "c1", 2.0))
MOST_POINTS = 60


def of_ladder(record: Record) -> list[str]:
    rungs = sorted({rung.users: rung for rung in record.steps}.values(), key=lambda rung: rung.users)
    users = [float(rung.users) for rung in rungs]
    serial = tuple((float(rung.users), rung.rounds[0].serial_seconds) for rung in rungs)
    walls = [
        Line("one by one", serial, "quiet", dashed=True),
        _line("at once", "c1", WALL, rungs),
    ]
    waits = [
        _line(name, colour, BY_KEY[f"{name}_seconds"], rungs, width) for name, colour, width in PERCENTILES
    ]
    rates = [_line("at once", "c4", BY_KEY["throughput_per_second"], rungs)]
    at_once = "users at once"
    return [
        line_chart("Until the last user is served", walls, at_once, "seconds", x_ticks=users, logs=True),
        line_chart("How long one user waits", waits, at_once, "seconds", x_ticks=users),
        line_chart("Calls answered a second", rates, at_once, "calls", x_ticks=users, logs=True),
        *_served(rungs[-1]),
    ]


def _served(rung: Rung) -> list[str]:
    """How many were served after how long, in the last round of the largest step."""
    durations = rung.rounds[-1].durations
    if len(durations) < 2:
        return []
    places = sorted({round(number * (len(durations) - 1) / MOST_POINTS) for number in range(MOST_POINTS + 1)})
    points = [(durations[place], float(place + 1)) for place in places]
    line = Line("served", ((0.0, 0.0), (points[0][0], 0.0), *points), "c1", filled=True, dots=False)
    return [line_chart(f"Served of {rung.users:,} at once", [line], "seconds since all called", "users")]


def _line(name: str, colour: str, column: Column[Step], rungs: list[Rung], width: float = 2.2) -> Line:
    points, band = [], []
    for rung in rungs:
        spread = column.spread(rung.rounds)
        points.append((float(rung.users), None if spread is None else spread.middle))
        if spread is not None and len(rung.rounds) > 1:
            band.append((float(rung.users), spread.lowest, spread.highest))
    return Line(name, tuple(points), colour, width=width, band=tuple(band))


def of_crowd(crowd: Crowd) -> list[str]:
    """Of its last round what happened over time, of all rounds what each call took."""
    tally, acts = crowd.rounds[-1], []
    for name in crowd.names:
        parts = parts_of(name, crowd.rounds)
        usual = Spread.of([count.durations.at(50) for count, _ in parts])
        rare = Spread.of([count.durations.at(95) for count, _ in parts])
        if usual is not None and rare is not None:
            acts.append((name, usual.middle, rare.middle))
    bars = [bar_chart("What each call takes", acts, "seconds")] if len(acts) > 1 else []
    # The last moment has only begun when the time is over: its rate would read as a collapse.
    whole = int(tally.seconds / tally.width) if tally.seconds >= 2 * tally.width else len(tally.moments)
    moments = [(number * tally.width, moment) for number, moment in enumerate(tally.moments[:whole])]
    return [*_over_time(moments, tally.width), *bars] if len(moments) > 1 else bars


def _over_time(moments: list[tuple[float, Moment]], width: float) -> list[str]:
    def line(name: str, colour: str, value: Callable[[Moment], float | None], stroke: float = 2.2) -> Line:
        points = tuple((at, value(moment)) for at, moment in moments)
        filled = name in ("answered", "users")
        return Line(name, points, colour, filled=filled, dots=False, width=stroke)

    rates = [line("answered", "c4", lambda moment: moment.answered / width)]
    if any(moment.failed for _, moment in moments):
        rates.append(line("failed", "c3", lambda moment: moment.failed / width))
    waits = [
        line("p95", "c2", lambda moment: moment.durations.at(95), 3.0),
        line("p50", "c1", lambda moment: moment.durations.at(50)),
    ]
    since = "seconds since the start"
    return [
        line_chart("Calls a second", rates, since, "calls"),
        line_chart("How long a call takes", waits, since, "seconds"),
        line_chart(
            "Users present", [line("users", "c1", lambda moment: float(moment.users))], since, "users"
        ),
    ]
