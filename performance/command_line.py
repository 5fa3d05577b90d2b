"""The options, and the settings that they make."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from performance import values
from performance.credentials import DEMO_EMAIL, is_loopback, read_account, read_accounts
from performance.fields import ScenarioError
from performance.outcome import Unusable
from performance.scenarios import METHODS, Scenario, built_in, read_scenario
from performance.settings import CALLS, Call, Load, Outputs, Settings, Target

DEMO_URL = "http://127.0.0.1:8203"
LADDER = (1, 2, 5, 10, 20, 50, 100, 1000)
CROWD = (10,)
CROWD_SECONDS = 60.0
CLAIMS_SECONDS = 60.0  # requests a minute are claimed
EXAMPLES = """\
examples:
  the demo on this machine, with its own account:
    python test_async_performance.py
  another gateway, with the password neither in the process list nor in the shell history:
    python test_async_performance.py --base-url https://gateway.example.org \\
        --email me@example.org --password-stdin --users 1,10,100 < password.txt
  a pass/fail gate with reports: nobody may wait longer than 3.6 s for a 3 s call
    python test_async_performance.py --limit-seconds 3.6 --json run.json --html run.html
  fifty students for five minutes, each with an account of their own
    python test_async_performance.py --scenario student --users 50 --duration 300 --accounts accounts.txt
  any path, 32 at a time, ten thousand calls
    python test_async_performance.py --path /api/ping --users 32 --calls 10000
  what became better or worse
    python test_async_performance.py --compare before.json after.json

environment: LOADTEST_EMAIL, LOADTEST_PASSWORD, LOADTEST_TOKEN stand in for --email, --password, --token.
exit codes:  0 every call answered within the limit; 1 a call failed or a step broke the limit, or with
             --compare something is worse; 2 wrong usage, no connection or no login; 130 stopped with Ctrl-C
"""


def read_settings(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Settings | argparse.Namespace:
    """Return the settings of a run, or what `--compare` is asked for. Raises Unusable and SystemExit."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.compare:
        return args
    check(parser, args)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    may_ask = terminal and not is_loopback(args.base_url)
    call = Call(args.method or "GET", args.path) if args.path else CALLS[args.call or "preview"]
    scenario = scenario_of(args, call)
    accounts = read_accounts(args.accounts)
    account = accounts[0] if accounts else read_account(args, environ, may_ask)
    load = load_of(args, scenario is not None)
    if accounts and max(load.users) > len(accounts):
        raise Unusable(f"{args.accounts} has {len(accounts):,} accounts for {max(load.users):,} users")
    return Settings(
        target=Target(args.base_url, account, args.timeout, accounts, args.ca),
        load=load,
        outputs=Outputs(args.json, args.markdown, args.plot, args.html, args.quiet),
        call=call,
        avatar=args.avatar,
        scenario=scenario,
        limit_seconds=args.limit_seconds,
        claims_seconds=args.claims,
        ask_first=may_ask and not args.yes,
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if args.method and not args.path:
        parser.error("--method goes with --path")
    if args.password_stdin and sys.stdin.isatty():
        parser.error("--password-stdin reads a pipe or a file, where nobody sees the password")
    named = args.scenario not in (None, "preview")
    if named and (args.path or args.call):
        parser.error("--call and --path are for the ladder; a scenario has calls of its own")
    crowd = named or args.duration or args.calls
    if not crowd and (args.think or args.accounts or args.ramp_up):
        parser.error("--think, --accounts and --ramp-up go with --scenario, --duration or --calls")
    if crowd and args.claims:
        parser.error("--claims are about the ladder, without --scenario, --duration and --calls")
    if args.claims and (args.path or args.call not in (None, "preview")):
        parser.error("--claims are about the preview call")
    if args.anyway:
        parser.error("--anyway goes with --compare")


def scenario_of(args: argparse.Namespace, call: Call) -> Scenario | None:
    """None means the ladder. Raises Unusable."""
    if args.scenario not in (None, "preview"):
        try:
            scenario = read_scenario(args.scenario)
        except ScenarioError as error:
            raise Unusable(str(error)) from error
    elif args.duration or args.calls:
        scenario = Scenario.of_call(call.method, call.path, call.names_avatar)
    else:
        return None
    return scenario.thinking(args.think) if args.think else scenario


def load_of(args: argparse.Namespace, crowd: bool) -> Load:
    duration = args.duration
    if crowd and not duration and not args.calls:
        duration = CROWD_SECONDS
    load = Load(
        users=args.users or (CROWD if crowd else LADDER),
        rounds=args.rounds,
        warm_up=args.warm_up or 0.0,
        cold=args.cold,
        serial_calls=args.serial_calls,
        duration=duration,
        calls=args.calls,
        seed=args.seed,
    )
    return replace(load, ramp_up=args.ramp_up or 0.0) if crowd else load


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure how many users a gateway answers at the same time: each step of a ladder\n"
        "releases N users at once, each makes one call, and the time is compared with N calls in a row.\n"
        "With --scenario, --duration or --calls users come, think, and go on until the time is over.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_account(parser)
    add_load(parser)
    add_crowd(parser)
    add_report(parser)
    return parser


def add_account(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("gateway and account").add_argument
    add("--base-url", type=values.http_url, default=DEMO_URL, metavar="URL", help="default %(default)s")
    add("--email", default="", help=f"default on loopback {DEMO_EMAIL}, the demo account")
    add("--password", default="", help="others can see it in the process list; the next one is safer")
    add("--password-stdin", action="store_true", help="read the password from a pipe or a file")
    add("--token", default="", metavar="T", help="skip the login and use this token")
    add(
        "--accounts",
        type=Path,
        metavar="FILE",
        help="one for each user of a scenario: lines of e-mail, password",
    )
    add("--ca", type=Path, metavar="FILE", help="trust this certificate authority, too (PEM)")


def add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("load").add_argument
    steps = ",".join(map(str, LADDER))
    add("--users", type=values.ladder, metavar="N,N", help=f"default {steps}; of a scenario {CROWD[0]}")
    add("--call", choices=tuple(CALLS), help="default preview; start opens sessions")
    add("--avatar", default="", metavar="NAME", help="for preview and start; default the first of the list")
    add("--path", type=values.absolute_path, metavar="/ANY", help="call this instead, without a body")
    add("--method", choices=METHODS, type=str.upper, help="for --path, default GET")
    add(
        "--timeout",
        type=values.seconds,
        default=60.0,
        metavar="S",
        help="limit of one call, default %(default)s",
    )
    add("--serial-calls", type=values.whole_number, default=3, metavar="N", help="to compare with, default 3")
    add("--cold", action="store_true", help="users connect when they call, not before")
    add(
        "--limit-seconds",
        type=values.seconds,
        metavar="S",
        help="a step, or a call's p95, that takes longer fails the run",
    )
    add("--warm-up", type=values.seconds, metavar="S", help="load that is not counted, before each step")
    add(
        "--rounds",
        type=values.rounds,
        default=1,
        metavar="N",
        help="climb N times; medians and spread are told",
    )
    add("--yes", action="store_true", help="do not ask before loading a gateway on another machine")


def add_crowd(parser: argparse.ArgumentParser) -> None:
    add, names = parser.add_argument_group("users who come and go").add_argument, ", ".join(built_in())
    add("--scenario", metavar="NAME", help=f"preview (the ladder), {names}, or a file.json of your own")
    add("--duration", type=values.run_seconds, metavar="S", help=f"of each step, default {CROWD_SECONDS:g}")
    add("--calls", type=values.calls, metavar="N", help="stop after so many calls")
    add(
        "--think",
        type=values.think,
        metavar="S-S",
        help="pause after each call, 1-5 or 2 or 0; default the scenario's",
    )
    add("--ramp-up", type=values.run_seconds, metavar="S", help="seconds until all users have come")
    add(
        "--seed",
        type=values.seed,
        default=1,
        metavar="N",
        help="of the dice for pauses and choices, default 1",
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("report").add_argument
    add("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    add("--html", type=Path, metavar="FILE", help="write a page with charts that needs nothing else")
    add("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    add("--plot", type=Path, metavar="FILE.svg", help="draw the ladder as SVG; needs matplotlib")
    add(
        "--claims",
        nargs="?",
        type=values.run_seconds,
        const=CLAIMS_SECONDS,
        metavar="S",
        help="hold the ladder against what asynchronous forwarding promised, and S seconds of steady load,"
        f" default {CLAIMS_SECONDS:g}",
    )
    add("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="tell what B has better or worse")
    add("--anyway", action="store_true", help="compare results of different machines or calls, too")
    add("--quiet", action="store_true", help="print the result only, no checks and no progress")
