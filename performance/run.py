"""A whole run: settings, load, result."""

import argparse
import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence

from performance import crowd, ladder
from performance.claims import CONTRADICTIONS, claims, preface
from performance.columns import act_cells, act_headings, step_cells, step_headings
from performance.command_line import read_settings
from performance.comparison import WITHIN, WORSE, compare
from performance.conclusions import conclusions
from performance.files import check_writable, write_atomically
from performance.gateway import Gateway
from performance.machine import check_files
from performance.markdown import as_markdown
from performance.outcome import CALL_FAILED, FINE, INTERRUPTED, UNUSABLE, Unusable
from performance.page import as_html
from performance.plot import as_svg, load_figure_class
from performance.record import Record
from performance.report import as_json
from performance.screen import Screen
from performance.settings import Settings
from performance.sign_in import check_endpoints, sign_in

MOST_LADDER_CALLS = 2_000_000  # each is kept, for exact percentiles: some 100 MB


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments, those of the process by default; return the exit code."""
    record = Record()
    try:
        settings = read_settings(argv, os.environ)
        if isinstance(settings, argparse.Namespace):
            return show_comparison(settings)
        check_machine(settings)
        screen = Screen(settings.outputs.quiet)
        announce(settings, screen)
        try:
            with asyncio.Runner(loop_factory=quickest_loop()) as runner:
                runner.run(measure(settings, record, screen))
        finally:
            if record.begun:
                show_result(settings, record, screen)
                write_reports(settings, record)
    except Unusable as problem:
        print(f"error: {problem}", file=sys.stderr)
        return UNUSABLE
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED
    return record.exit_code(settings.limit_seconds)


def check_machine(settings: Settings) -> None:
    """Find out before any load whether it can be made, and its reports written. Raises Unusable."""
    if settings.scenario is None and (settings.planned_calls or 0) > MOST_LADDER_CALLS:
        raise Unusable(f"such a ladder has more than {MOST_LADDER_CALLS:,} calls: take fewer rounds or users")
    for path in settings.outputs.files:
        check_writable(path)
    if settings.outputs.plot:
        if settings.scenario is not None:
            raise Unusable("--plot draws the ladder; --html has charts of a scenario")
        load_figure_class()
    check_files(max(settings.load.users))


def announce(settings: Settings, screen: Screen) -> None:
    calls = settings.planned_calls
    screen.say(f"{settings.title} at {settings.target.base_url}", style="bold")
    how_much = "as many calls as users make" if calls is None else f"{calls:,} calls"
    screen.say(f"{how_much}, over in {settings.longest_seconds / 60:,.1f} minutes at the latest")
    if settings.ask_first and input("Load this gateway? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise Unusable("nothing was sent")


def quickest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """On the gateway's own machine, what the script takes is missing there."""
    try:
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


async def measure(settings: Settings, record: Record, screen: Screen) -> None:
    """The whole story: sign in, check, then climb or gather."""
    load = settings.load
    async with Gateway(settings.target, max(load.users), cold=load.cold) as gateway:
        if not settings.target.account.token:
            gateway.token = await sign_in(gateway, settings, screen)
        avatar = await check_endpoints(gateway, settings, screen)
        with screen.progress() as watched:
            if settings.scenario is not None:
                await crowd.gather(gateway, settings, avatar, record, watched)
            else:
                await ladder.climb(gateway, settings, avatar, record, watched)
                if settings.claims_seconds is not None and record.serial:
                    await crowd.hold(gateway, settings, avatar, record, watched)
    record.complete = True


def show_result(settings: Settings, record: Record, screen: Screen) -> None:
    rounds, slow = settings.load.rounds, record.too_slow(settings.limit_seconds)
    rungs = [(step_cells(rung, rounds), not (rung.failures or rung in slow)) for rung in record.steps]
    screen.show_table(step_headings(rounds), rungs)
    for one in record.crowds:
        acts = [
            (act_cells(name, one.rounds, rounds), not any(tally.count(name).failed for tally in one.rounds))
            for name in one.names
        ]
        everything = act_cells("all", one.rounds, rounds), not one.failed
        screen.result(f"{one.users:,} users", style="bold")
        screen.show_table(act_headings(rounds), [*acts, everything], words=1)
    if settings.claims_seconds is not None and record.serial:
        found = claims(record)
        rows = [((claim.claim, claim.measured, claim.verdict), claim.verdict != "missed") for claim in found]
        screen.result(preface(record))
        screen.show_table(("claimed", "measured", "verdict"), rows, words=3)
        for line in CONTRADICTIONS:
            screen.result(f"- {line}")
    for line in conclusions(settings, record):
        screen.result(line)


def write_reports(settings: Settings, record: Record) -> None:
    outputs = settings.outputs
    if outputs.json:
        write_atomically(outputs.json, json.dumps(as_json(settings, record), indent=2) + "\n")
    if outputs.markdown:
        write_atomically(outputs.markdown, as_markdown(settings, record))
    if outputs.html:
        write_atomically(outputs.html, as_html(settings, record))
    if outputs.plot and record.steps:
        write_atomically(outputs.plot, as_svg(settings, record))


def show_comparison(args: argparse.Namespace) -> int:
    comparison = compare(*args.compare, anyway=args.anyway)
    screen = Screen(quiet=False)
    rows = [
        (
            (
                one.step,
                one.figure,
                f"{one.before:,.4g}",
                f"{one.after:,.4g}",
                f"{one.change:+.1%}",
                one.verdict,
            ),
            one.verdict != WORSE,
        )
        for one in comparison.differences
    ]
    screen.show_table(("step", "figure", "before", "after", "change", "verdict"), rows, words=2)
    for note in comparison.notes:
        screen.result(note)
    told = [one for one in comparison.differences if one.verdict != WITHIN]
    if not told:
        screen.result("Nothing differs by more than the spread.")
    return CALL_FAILED if comparison.worse else FINE
