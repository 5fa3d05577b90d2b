"""What the loads send, how they read answers and wrk's report, and that none is unbounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bad_peers, echo
from benchmarks.avatars import options as avatars_options
from benchmarks.bad_peers import KINDS, Visitor
from benchmarks.chats import Browser
from benchmarks.chats import options as chats_options
from benchmarks.concurrency import options as concurrency_options
from benchmarks.crowds import options as crowds_options
from benchmarks.processes import Failure
from benchmarks.stream import head, parsed
from benchmarks.table import options as table_options
from benchmarks.wrk import UNITS
from benchmarks.wrk import parsed as wrk_parsed
from tests.support import websocket

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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_bad_peer_has_something_to_say_or_is_silent(kind: bad_peers.Kind) -> None:
    said = kind.says(Visitor("127.0.0.1:1", {"Authorization": "Bearer t"}))
    assert bool(said) == (kind.name != "silent")
    assert said.startswith(b"PRI * HTTP/2.0") == kind.name.startswith("h2-")
    if kind.calls:
        assert b"127.0.0.1:1" in said or kind.name.startswith("h2-")


def test_crowds_are_chosen_by_name_and_bounded() -> None:
    assert crowds_options(["--only", "idle, leavers"]).only == ("idle", "leavers")
    assert crowds_options([]).count == 200
    assert (avatars_options([]).calls, avatars_options(["--calls", "100000"]).calls) == (2000, 100_000)
    for bad in (["--only", "nice"], ["--count", "100000"], ["--count", "0"]):
        with pytest.raises(SystemExit, match="2"):
            crowds_options(bad)


@given(st.integers(0, 70_000))
def test_message_of_the_load_is_a_frame_and_as_long_as_its_answer_but_for_the_key(size: int) -> None:
    said, answer_bytes = echo.message(size)
    assert said == websocket.frame(websocket.BINARY, bytes(size), mask=bytes(4))
    assert answer_bytes == len(said) - 4
