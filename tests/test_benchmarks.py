"""The benchmarks' own arithmetic, wrk's report, and one short run of the whole."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bad_peers, echo, machine, report, watch
from benchmarks.avatar_users import INSTANCE, REDIS, WORKER, Outcome
from benchmarks.avatars import options as avatars_options
from benchmarks.bad_peers import KINDS, NAMED, Visitor
from benchmarks.calls import Told
from benchmarks.cases import CASES, GROUPS, Compare, Results, chosen, plan
from benchmarks.chats import Browser
from benchmarks.chats import options as chats_options
from benchmarks.concurrency import Step
from benchmarks.concurrency import options as concurrency_options
from benchmarks.crowds import Burden
from benchmarks.crowds import options as crowds_options
from benchmarks.dashboard import Look
from benchmarks.dashboard import Watched as Open
from benchmarks.figures import Spread, at_most, differences, percentile, ratios, times
from benchmarks.leavers import Left
from benchmarks.measures import Kind, Measure
from benchmarks.meters import Compared, Seen
from benchmarks.processes import Failure, environment, running
from benchmarks.seeing import Cost, timed
from benchmarks.soak import Soaked, State
from benchmarks.stream import head, parsed
from benchmarks.subjects import AIOHTTP, DIRECT, GRANIAN, SUBJECTS
from benchmarks.table import options as table_options
from benchmarks.uploads import Uploaded
from benchmarks.viewers import PageState, watching
from benchmarks.wrk import UNITS
from benchmarks.wrk import parsed as wrk_parsed
from tests.support import websocket
from tests.support.gateway import spawned

ROOT = Path(__file__).resolve().parents[1]
SMOKE_SECONDS = 60.0

amounts = st.floats(min_value=1e-3, max_value=1e9, allow_nan=False)
series = st.lists(amounts, min_size=1, max_size=30)


@given(series)
def test_middle_lies_between_both_ends(values: list[float]) -> None:
    said = Spread.of(values)
    assert min(values) == said.lowest <= said.middle <= said.highest == max(values)
    assert sum(value < said.middle for value in values) <= len(values) / 2


def test_no_round_is_no_result() -> None:
    with pytest.raises(ValueError, match="no rounds"):
        Spread.of([])


@given(series, st.floats(min_value=0.01, max_value=100))
def test_ratio_of_a_multiple_is_its_factor(values: list[float], factor: float) -> None:
    assert ratios([value * factor for value in values], values) == pytest.approx([factor] * len(values))
    assert differences(values, values) == [0.0] * len(values)


def test_ratios_compare_the_same_rounds() -> None:
    assert ratios([10, 30], [10, 10]) == [1.0, 3.0]
    assert ratios([1], [0]) == [float("inf")]
    with pytest.raises(ValueError, match="zip"):
        ratios([1, 2], [1])


@given(series, st.floats(min_value=0, max_value=1))
def test_percentile_is_the_least_value_that_covers_the_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert found == min(values) or sum(value < found for value in values) < share * len(values)


@pytest.mark.parametrize(("share", "found"), [(0, 1), (0.5, 5), (0.51, 6), (0.99, 10), (1, 10)])
def test_percentile_is_by_nearest_rank(share: float, found: int) -> None:
    assert percentile(list(range(10, 0, -1)), share) == found


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_percentile_refuses_what_is_no_share(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        percentile([1.0], share)


@pytest.mark.parametrize(
    ("measured", "verdict"), [(0.69, "short"), (0.7, "ok"), (1.24, "ok"), (1.25, "ok, goal")]
)
def test_more_times_as_fast_is_better(measured: float, verdict: str) -> None:
    assert times(0.7, 1.25).verdict(measured) == verdict


@pytest.mark.parametrize(
    ("measured", "verdict"), [(3.61, "short"), (3.6, "ok"), (3.31, "ok"), (3.3, "ok, goal")]
)
def test_fewer_seconds_are_better(measured: float, verdict: str) -> None:
    assert at_most(3.6, 3.3, "s").verdict(measured) == verdict


def test_a_limit_without_a_goal_is_only_held() -> None:
    assert at_most(32, None, "MB").verdict(0) == "ok"


def results(**values: list[float]) -> Results:
    return {
        (Kind.SMALL, name): [Measure(value, value) for value in rounds] for name, rounds in values.items()
    }


def test_a_case_takes_its_ratio_round_by_round() -> None:
    [case] = chosen(["small"])
    said = case.said_by(results(granian=[100, 50, 300], aiohttp=[100, 100, 100]))
    assert said == Spread(1.0, 0.5, 3.0)
    assert case.verdict(said) == "ok"


def test_core_time_is_compared_where_it_is_known() -> None:
    [case] = chosen(["small"])
    half, whole = Measure(100, 100, busy=0.5), Measure(100, 100, busy=1.0)
    compared = case.by_core_time(
        {(Kind.SMALL, GRANIAN): [half, whole], (Kind.SMALL, AIOHTTP): [whole, whole]}
    )
    assert compared == Spread(1.5, 1.0, 2.0)
    assert case.by_core_time(results(granian=[1], aiohttp=[1])) is None


def test_growth_is_judged_by_its_worst_round() -> None:
    case = next(case for case in CASES if case.compare is Compare.GROWTH)
    rounds = [Measure(1, 1, more={"growth_mb": grown}) for grown in (1.0, 2.0, 40.0)]
    said = case.said_by({(case.kind, case.subject): rounds})
    assert said.middle == 2.0
    assert case.verdict(said) == "short"


def test_the_plan_holds_whatever_the_cases_need() -> None:
    for group in GROUPS:
        wanted = plan(chosen([group]))
        for case in chosen([group]):
            assert all(kind in wanted[name] for kind, name in case.needs)
    assert plan(chosen(["small"])) == {GRANIAN: [Kind.SMALL], AIOHTTP: [Kind.SMALL]}
    assert set(plan(CASES)) == set(SUBJECTS)
    assert plan(CASES)[DIRECT] == [Kind.DOWNLOAD, Kind.UPLOAD, Kind.LATENCY]


REPORT = """\
Running {seconds}s test @ http://127.0.0.1:40001/small
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     4.90ms    1.93ms  31.06ms   91.51%
    Req/Sec     6.69k     1.13k    8.03k    80.00%
  Latency Distribution
     50%  {middle}
     75%    5.02ms
     90%    6.14ms
     99%  {late}
  {calls} requests in {seconds}.10s, 2.87MB read
{errors}Requests/sec:  {rate:.2f}
Transfer/sec:      2.61MB
"""
durations = st.tuples(st.integers(1, 99_999).map(lambda n: n / 100), st.sampled_from(sorted(UNITS)))


@given(
    calls=st.integers(0, 10**9),
    rate=st.floats(0, 10**7),
    middle=durations,
    late=durations,
    refused=st.integers(0, 10**6),
    broken=st.none() | st.tuples(*[st.integers(0, 10**6)] * 4),
)
def test_report_of_wrk_is_read_back(
    calls: int,
    rate: float,
    middle: tuple[float, str],
    late: tuple[float, str],
    refused: int,
    broken: tuple[int, int, int, int] | None,
) -> None:
    errors = ""
    if broken:
        errors += "  Socket errors: connect {}, read {}, write {}, timeout {}\n".format(*broken)
    if refused:
        errors += f"  Non-2xx or 3xx responses: {refused}\n"
    text = REPORT.format(
        seconds=3,
        calls=calls,
        rate=rate,
        errors=errors,
        middle="{:.2f}{}".format(*middle),
        late="{:.2f}{}".format(*late),
    )
    seen = wrk_parsed(text)
    assert (seen.calls, seen.failed) == (calls, refused + sum(broken or ()))
    assert seen.rate == pytest.approx(rate, abs=0.005)
    assert seen.median_seconds == pytest.approx(middle[0] * UNITS[middle[1]])
    assert seen.p99_seconds == pytest.approx(late[0] * UNITS[late[1]])


@given(st.text())
def test_anything_else_is_no_report_of_wrk(text: str) -> None:
    with pytest.raises(Failure, match="cannot be read"):
        wrk_parsed(text)


def test_a_load_without_errors_failed_in_nothing() -> None:
    text = REPORT.format(seconds=1, calls=10, rate=9.5, errors="", middle="4.66ms", late="990.00us")
    seen = wrk_parsed(text)
    assert (seen.calls, seen.rate, seen.failed) == (10, 9.5, 0)
    assert seen.median_seconds == pytest.approx(0.00466)
    assert seen.p99_seconds == pytest.approx(0.00099)


def test_a_request_has_the_length_of_its_body() -> None:
    raw = head("POST", "/sink", "127.0.0.1:1", {"Authorization": "Bearer t"}, 7)
    assert raw == (
        b"POST /sink HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: Bearer t\r\nContent-Length: 7\r\n\r\n"
    )


def test_an_answer_without_a_length_is_refused() -> None:
    assert parsed(b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH:  12") == (200, 12)
    for raw in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"", b"HTTP/1.1"):
        with pytest.raises(Failure, match="without a length"):
            parsed(raw)


@pytest.mark.parametrize(
    ("half", "end", "verdict"),
    [
        ((100.0, 50), (105.0, 54), "ok"),
        ((100.0, 50), (105.1, 50), "short"),
        ((100.0, 50), (90.0, 55), "short"),
    ],
)
def test_growth_of_the_second_half_falls_short(
    half: tuple[float, int], end: tuple[float, int], verdict: str
) -> None:
    assert Soaked("granian", State(0, 80, 20), State(1, *half), State(2, *end)).verdict == verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.00"), (0.034, "0.03"), (1.25, "1.25"), (12.34, "12.3"), (412.4, "412"), (12_345, "12,300")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


def test_a_body_that_is_held_falls_short_where_bodies_are_measured() -> None:
    start, half = State(0, 80, 20, 5, 80), State(4, 100, 20, 5, 150)
    assert Soaked("granian", start, half, half, "large").verdict == "short"
    assert Soaked("granian", start, half, half, "small").verdict == "ok"
    assert Soaked("granian", start, half, State(8, 100, 20, 10, 100), "small").verdict == "short"


def look(
    minutes: float, *, resident: float = 100, heap: float = 3, files: int = 60, nodes: int = 800
) -> Look:
    return Look(minutes * 60, 1200, 5.0, resident, files, PageState(heap, nodes))


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        (look(60, resident=105, heap=5), "ok"),
        (look(60, resident=106), "short"),
        (look(60, heap=5.1), "short"),
        (look(60, files=65), "short"),
        (look(60, nodes=901), "short"),
        (look(60, resident=50, heap=1), "ok"),
    ],
)
def test_an_open_dashboard_may_grow_until_its_quarter_of_an_hour_is_full(last: Look, verdict: str) -> None:
    assert Open("granian", 16 * 60, [look(1, resident=50, heap=1), look(16), last]).verdict == verdict


@given(st.floats(min_value=0.01, max_value=1e9))
def test_a_shown_figure_is_close_to_the_measured_one(value: float) -> None:
    assert float(report.number(value).replace(",", "")) == pytest.approx(value, rel=0.005, abs=0.005)


def test_markdown_has_a_cell_for_every_column() -> None:
    table = report.Table("Waits", ("server", "s"), (("granian", "3.02"), ("hypercorn", "3.03")))
    text = report.markdown({"cores": "2"}, [table], ["A note."])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines == ["| server | s |", "| --- | ---: |", "| granian | 3.02 |", "| hypercorn | 3.03 |"]
    assert text.endswith("A note.\n")


def test_unknown_cases_and_unbounded_loads_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert table_options(["--only", "small, latency"]).only == ("small", "latency")
    assert concurrency_options(["--http2", "--seconds", "1"]).seconds == 1
    assert concurrency_options(["--users", "100,10,100"]).users == (10, 100)
    for bad in (["--only", "fast"], ["--rounds", "0"], ["--seconds", "1e9"], ["--seconds", "nan"]):
        with pytest.raises(SystemExit, match="2"):
            table_options(bad)
    with pytest.raises(SystemExit, match="2"):
        concurrency_options(["--users", "1000000"])
    assert chats_options(["--server", "granian"]).chats == 500
    with pytest.raises(SystemExit, match="2"):
        chats_options(["--chats", "1000000"])
    assert "choose of small" in capsys.readouterr().err


@pytest.mark.asyncio
async def test_a_chat_whose_end_comes_in_pieces_has_ended() -> None:
    """It was waited for until the benchmark gave up."""
    browser = Browser(b"", b"0\r\n\r\n")
    for piece in (b"HTTP/1.1 200 OK\r\n\r\n", b"1\r\nx\r\n0", b"\r", b"\n\r"):
        browser.data_received(piece)
        assert not browser.done.done()
    browser.data_received(b"\n")
    assert browser.done.done()


def test_what_is_missing_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "tool", lambda name: None)
    with pytest.raises(
        machine.Missing, match=r"apt-get install nginx-light wrk; .*requirements-bench"
    ) as told:
        machine.require(["wrk", "nginx"], ["no-such-module", "json"])
    assert "\n" not in str(told.value)
    assert "no-such-module" in str(told.value)
    assert "json" not in str(told.value)


def test_no_setting_of_the_caller_reaches_a_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///elsewhere.db")
    monkeypatch.setenv("http_proxy", "http://192.0.2.1")
    assert not {"DATABASE_URL", "http_proxy"} & environment().keys()


def test_a_step_is_what_its_json_says() -> None:
    step = Step("granian", "HTTP/1.1", 10, 3.02, 12.5)
    assert json.loads(json.dumps(step.__dict__)) == step.__dict__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_bad_peer_has_something_to_say_or_is_silent(kind: bad_peers.Kind) -> None:
    said = kind.says(Visitor("127.0.0.1:1", {"Authorization": "Bearer t"}))
    assert bool(said) == (kind.name != "silent")
    assert said.startswith(b"PRI * HTTP/2.0") == kind.name.startswith("h2-")
    if kind.calls:
        assert b"127.0.0.1:1" in said or kind.name.startswith("h2-")


def burden(**over: Any) -> Burden:
    state = watch.State(resident_mb=60, files=30, threads=10, calls=0)
    values = {"server": "granian", "kind": NAMED["idle"], "peers": 2, "places": 1000, "settled": 0.1}
    seconds = {"health": 0.1, "other": 0.1, "same": 9.0, "healthy_after": 0.1, "returned_after": 0.1}
    rest = {"peer_kilobytes": 20, "lasted": [15.0, 15.9], "before": state, "after": state}
    return Burden(**(values | seconds | rest | over))


@pytest.mark.parametrize(
    ("over", "failings"),
    [
        ({}, []),
        ({"health": 2.1}, ["slow"]),
        ({"other": float("inf")}, ["slow"]),
        ({"lasted": [15.0]}, ["not closed"]),
        ({"lasted": [15.0, 16.1]}, ["closed late"]),
        ({"kind": NAMED["event-stream"], "lasted": []}, []),
        ({"healthy_after": 2.1}, ["slow afterwards"]),
        ({"after": watch.State(60, 35, 10, 1)}, ["calls left", "files left"]),
        ({"after": watch.State(900, 34, 51, 0)}, ["threads left"]),
    ],
)
def test_a_crowd_that_others_notice_falls_short(over: dict[str, Any], failings: list[str]) -> None:
    assert burden(**over).failings == failings


@pytest.mark.parametrize(
    ("seconds", "told", "alarms", "verdict"),
    [(1.0, 100, 0, "ok"), (1.1, 100, 0, "short"), (0.1, 99, 0, "short"), (0.1, 100, 1, "short")],
)
def test_leavers_are_forgotten_in_time_and_without_alarm(
    seconds: float, told: int, alarms: int, verdict: str
) -> None:
    assert Left("granian", "HTTP/1.1", "amid the answer", seconds, told, alarms).verdict == verdict


@pytest.mark.parametrize(
    ("dying", "seen", "verdict"),
    [
        (None, {}, "ok"),
        (None, {"wrong": 1}, "short"),
        (None, {"strange": 1}, "short"),
        (None, {"lost": 1}, "short"),
        (WORKER, {"lost": 5, "disturbed": 1}, "ok"),
        (WORKER, {"disturbed": 0}, "short"),
        (REDIS, {"lost": 1, "disturbed": 1}, "short"),
        (INSTANCE, {"refused": 9, "disturbed": 1}, "ok"),
        (INSTANCE, {"counted": 11, "disturbed": 1}, "short"),
    ],
)
def test_users_of_avatars_may_miss_what_died_and_no_more(
    dying: str | None, seen: dict[str, int], verdict: str
) -> None:
    assert Outcome("a run", 10, dying, **({"counted": 10} | seen)).verdict == verdict


def test_crowds_are_chosen_by_name_and_bounded() -> None:
    assert crowds_options(["--only", "idle, leavers"]).only == ("idle", "leavers")
    assert crowds_options([]).count == 200
    assert (avatars_options([]).calls, avatars_options(["--calls", "100000"]).calls) == (2000, 100_000)
    for bad in (["--only", "nice"], ["--count", "100000"], ["--count", "0"]):
        with pytest.raises(SystemExit, match="2"):
            crowds_options(bad)


def test_a_crowd_is_measured_and_reported(tmp_path: Path) -> None:
    if reason := _ready_for_a_run():
        pytest.skip(reason)
    raw = tmp_path / "raw.json"
    command = [sys.executable, "-m", "benchmarks.crowds", "--count=5", "--server=hypercorn", f"--json={raw}"]
    ran = subprocess.run(
        [*command, "--only=garbage,silent-upstream"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SMOKE_SECONDS,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr  # on a busy machine a call may be slow
    assert "| hypercorn | 5 × garbage |" in ran.stdout
    garbage, silent = json.loads(raw.read_text())["crowds"]
    assert (garbage["kind"], len(garbage["lasted"])) == ("garbage", 5)
    assert (silent["kind"], silent["lasted"], silent["after"]["calls"]) == ("silent-upstream", [], 0)


@pytest.mark.skipif(machine.tool("setpriv") is None, reason="apt-get install util-linux")
def test_a_process_and_its_children_end_with_their_block(tmp_path: Path) -> None:
    # The leader ignores SIGTERM and has a child of its own.
    script = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print(os.getpid(), os.fork(), flush=True); time.sleep(60)"
    )
    core = min(os.sched_getaffinity(0))
    with (
        contextlib.suppress(KeyboardInterrupt),
        running("stubborn", [sys.executable, "-c", script], core=core, folder=tmp_path) as process,
    ):
        while len(process.log.read_text().splitlines()) < 2:
            assert process.popen.poll() is None
        raise KeyboardInterrupt
    started = {int(pid) for pid in process.log.read_text().split()} - {0}
    assert len(started) == 2
    assert process.popen.returncode is not None
    # A killed child, too, has to wait for its turn on the core before it is gone.
    deadline = time.monotonic() + 30
    while {pid for pid in started if _runs(pid)} and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not {pid for pid in started if _runs(pid)}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _ready_for_a_run() -> str | None:
    """Return why the benchmarks cannot run here, or None."""
    if machine.tool("nginx") is None and os.environ.get("CI") == "true":
        pytest.fail("nginx is missing, which install_async_deps.sh --dev installs")
    for tool, package in machine.TOOLS.items():
        if machine.tool(tool) is None:
            return f"{tool} is missing: apt-get install {package}"
    if find_spec("aiohttp") is None:
        return "aiohttp is missing: python -m pip install -r requirements-bench.txt"
    if len(os.sched_getaffinity(0)) < 2:
        return "two processor cores are needed"
    return None


def test_the_table_is_measured_and_reported(tmp_path: Path) -> None:
    if reason := _ready_for_a_run():
        pytest.skip(reason)
    raw, page = tmp_path / "raw.json", tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks.table", "--rounds=1", "--seconds=0.3", "--only=small"]
    ran = subprocess.run(
        [*command, f"--json={raw}", f"--markdown={page}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SMOKE_SECONDS,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr  # on a busy machine a ratio may fall short
    assert page.read_text() == ran.stdout
    assert re.search(r"\| small: gateway on Granian vs aiohttp .*× \|.* (ok|ok, goal|short) \|", ran.stdout)
    told = json.loads(raw.read_text())
    assert set(told["results"]) == {"small/granian", "small/aiohttp"}
    assert all(one["value"] > 0 for rounds in told["results"].values() for one in rounds)


def test_uploads_at_once_are_measured_and_reported(tmp_path: Path) -> None:
    if reason := _ready_for_a_run():
        pytest.skip(reason)
    raw = tmp_path / "raw.json"
    command = [sys.executable, "-m", "benchmarks.uploads", "--documents=2", "--rounds=1", f"--json={raw}"]
    ran = subprocess.run(
        [*command, "--server=hypercorn"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SMOKE_SECONDS,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr
    assert "| hypercorn | 3 | 140 MB | 40 MB |" in ran.stdout
    (one,) = json.loads(raw.read_text())["uploaded"]
    assert one["peak_mb"] >= one["before_mb"] > 0


def test_websockets_are_measured_and_reported(tmp_path: Path) -> None:
    if reason := _ready_for_a_run():
        pytest.skip(reason)
    raw = tmp_path / "raw.json"
    command = [sys.executable, "-m", "benchmarks.websockets", "--rounds=1", "--seconds=0.2", "--idle=20"]
    ran = subprocess.run(
        [*command, f"--json={raw}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SMOKE_SECONDS,
        check=False,
    )
    assert ran.returncode in (0, 1), ran.stderr
    assert re.search(r"\| 65,536 bytes \| gateway, hypercorn \| 0.50× \| 1.00× \| .*× \|", ran.stdout)
    told = json.loads(raw.read_text())
    assert set(told["idle"]) == {"nginx", "nginx, 64 KB", "gateway, granian", "gateway, hypercorn"}
    assert all(one["rate"] > 0 and one["microseconds"] >= 0 for one in told["rounds"])


@given(st.integers(0, 70_000))
def test_message_of_the_load_is_a_frame_and_as_long_as_its_answer_but_for_the_key(size: int) -> None:
    said, answer_bytes = echo.message(size)
    assert said == websocket.frame(websocket.BINARY, bytes(size), mask=bytes(4))
    assert answer_bytes == len(said) - 4


def test_uploads_that_cost_too_much_fall_short() -> None:
    assert Uploaded("granian", 21, 500, 2.0, 100.0, 131.9, 400).verdict == "ok"
    assert Uploaded("granian", 21, 500, 2.0, 100.0, 132.0, 400).verdict == "short"


def answer_head(gateway: float, wait: float, upstream: float) -> bytes:
    timing = f"gateway;dur={gateway:.2f}, wait;dur={wait:.2f}, upstream;dur={upstream:.2f}"
    return f"HTTP/1.1 200 \r\nserver-timing: db;dur=7\r\nserver-timing: {timing}".encode()


def test_times_that_answers_tell_are_set_beside_those_outside() -> None:
    calls = [Told(0.0, 0.06, 200, answer_head(1, 2, 51)) for _ in range(5)]
    said = timed(calls)
    assert (said.seen, said.gateway, said.wait, said.upstream) == (60, 1, 2, 51)
    assert said.difference == pytest.approx(10)
    with pytest.raises(ValueError, match="does not tell"):
        timed([Told(0.0, 0.06, 200, b"HTTP/1.1 200 ")])


def test_the_dashboard_is_looked_at_from_a_thread_while_something_else_happens(tmp_path: Path) -> None:
    with spawned(tmp_path) as served, watching(served.url, 2) as crowd:
        end = time.monotonic() + 30
        while crowd.events < 4:
            assert time.monotonic() < end
            time.sleep(0.1)
    with (
        spawned(tmp_path, GATEWAY_FIGURES="false") as served,
        pytest.raises(Failure, match="refused"),
        watching(served.url, 1),
    ):
        pass


def test_what_seeing_costs_is_compared_turn_by_turn() -> None:
    cost = Cost("hypercorn", on=[105e-6, 210e-6], off=[100e-6, 200e-6], again=[101e-6, 202e-6])
    assert cost.more.middle == pytest.approx(5)
    assert cost.noise.middle == pytest.approx(1)
    assert cost.microseconds == pytest.approx(7.5)


def test_what_happens_now_and_then_shows_in_all_turns_together() -> None:
    cost = Cost("hypercorn", on=[100e-6] * 9 + [190e-6], off=[100e-6] * 10, again=[99e-6] * 10)
    assert cost.more.middle == pytest.approx(0)
    assert cost.together == pytest.approx(9)
    assert cost.noise_together == pytest.approx(-1)


@pytest.mark.parametrize(
    ("meter", "told", "short"),
    [
        ("script", [(100, 205), (100, 209), (100, 400)], False),
        ("script", [(100, 205), (100, 211), (100, 211)], True),
        ("script", [(100, 200), (101, 200), (100, 200)], True),
        ("wrk", [(100, 200), (116, 200), (100, 200)], False),
        ("wrk", [(99, 200), (100, 200), (100, 200)], True),
    ],
)
def test_figures_are_set_beside_a_meter_outside(
    meter: str, told: list[tuple[int, float]], short: bool
) -> None:
    seen = Seen(100, {"p50": 200})
    one = Compared("granian", meter, [(seen, Seen(calls, {"p50": value})) for calls, value in told])
    assert one.short is short
