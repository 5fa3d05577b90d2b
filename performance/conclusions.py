"""What the figures say, in sentences."""

from performance.effort import Effort
from performance.outcome import VERDICTS
from performance.record import Crowd, Record
from performance.settings import Settings
from performance.steps import kinds

KINDS_SHOWN = 5


def conclusions(settings: Settings, record: Record) -> list[str]:
    limit = settings.limit_seconds
    lines = [*record.notes, *of_the_ladder(record), *of_the_crowds(settings, record)]
    lines += [
        f"{rung.users:,} at once: {rung.wall:.2f} s is over the limit of {limit:g} s"
        for rung in record.too_slow(limit)
    ]
    lines += [
        f"{crowd.users:,} users, {name}: p95 of {worst:.2f} s is over the limit of {limit:g} s"
        for crowd, name, worst in record.slow_acts(limit)
    ]
    return [*lines, *machine_limits(record), VERDICTS[record.exit_code(limit)]]


def of_the_ladder(record: Record) -> list[str]:
    lines, mean = [], record.serial_mean
    if record.steps and mean is not None:
        lines.append(f"One by one: {mean:.2f} s per call, the mean of {len(record.serial)}.")
        if any(step.extrapolated for rung in record.steps for step in rung.rounds):
            lines[0] += f" For more users than that the serial time is extrapolated: users x {mean:.2f} s."
        top = max(record.steps, key=lambda rung: rung.users)
        done = f"{top.succeeded // len(top.rounds):,} answered in {top.wall:.2f} s"
        lines.append(f"{top.users:,} at once: {done} instead of {top.users * mean:,.1f} s.")
    if record.serial_failures:
        consequence = "" if record.serial else "; the ladder was not started"
        first = record.serial_failures[0]
        lines.append(f"One by one: {len(record.serial_failures)} failed, the first with {first}{consequence}")
    for rung in record.steps:
        for failure, count in kinds(rung.failures)[:KINDS_SHOWN]:
            lines.append(f"{rung.users:,} at once: {count:,} x {failure}")
    return lines


def of_the_crowds(settings: Settings, record: Record) -> list[str]:
    lines = []
    for crowd in record.crowds:
        for tally in crowd.rounds:
            lines.append(
                f"{crowd.users:,} users: {tally.total.answered:,} calls answered in {tally.seconds:.1f} s,"
                f" {tally.rate:,.1f} a second, {tally.rate * 60:,.0f} a minute."
            )
            if tally.unfinished:
                lines.append(
                    f"{crowd.users:,} users: {tally.unfinished:,} were cut off amid a call at the end."
                )
        lines += troubles(crowd)
    scenario = settings.scenario
    if scenario is not None and scenario.needs_own_account and not settings.target.accounts:
        lines.append(
            "All users share one account: its sign-in is made once, its avatar is the first user's alone,"
            " and its limits are those of one person. --accounts gives each an own one."
        )
    return lines


def troubles(crowd: Crowd) -> list[str]:
    lines = []
    for name in crowd.names:
        counts = [tally.count(name) for tally in crowd.rounds]
        failures: dict[str, tuple[str, int]] = {}
        for failure, count in (kind for one in counts for kind in one.kinds):
            said, before = failures.get(failure.kind, (str(failure), 0))
            failures[failure.kind] = said, before + count
        for said, count in sorted(failures.values(), key=lambda kind: -kind[1])[:KINDS_SHOWN]:
            lines.append(f"{crowd.users:,} users, {name}: {count:,} x {said}")
    limited = sum(tally.total.limited for tally in crowd.rounds)
    if limited:
        lines.append(f"{crowd.users:,} users: {limited:,} calls were told to wait (429), and waited.")
    skipped = sum(tally.total.skipped for tally in crowd.rounds)
    if skipped:
        lines.append(
            f"{crowd.users:,} users: {skipped:,} calls were left out, as what they need was not answered."
        )
    return lines


def machine_limits(record: Record) -> list[str]:
    """Where this script or its machine was the limit, not the gateway."""
    lines = []
    steps: list[tuple[str, list[Effort], float | None]] = []
    for rung in record.steps:
        usual = rung.middle(lambda step: step.at(50))
        steps.append((f"{rung.users:,} at once", rung.efforts, usual))
    for crowd in record.crowds:
        efforts = [tally.effort for tally in crowd.rounds if tally.effort is not None]
        medians = [tally.total.durations.at(50) for tally in crowd.rounds]
        usual = min((median for median in medians if median is not None), default=None)
        steps.append((f"{crowd.users:,} users", efforts, usual))
    for title, efforts, usual in steps:
        at_once = not record.crowds
        reasons = [found for effort in efforts for found in effort.limits(usual, at_once=at_once)[:1]]
        if reasons:
            lines.append(
                f"{title}: the load generator was the limit, not the gateway: {reasons[0]}."
                " Its figures say how fast this script is here; use a quieter or a second machine."
            )
    crowded = [
        (title, words) for title, efforts, _ in steps for effort in efforts if (words := effort.crowded)
    ]
    if crowded:
        title, words = crowded[-1]
        lines.append(
            f"This machine had no processor time left ({title}: {words}): whatever shares it was slower."
        )
    return lines


def generator_limited(record: Record) -> bool:
    return any("the load generator was the limit" in line for line in machine_limits(record))
