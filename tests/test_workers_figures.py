"""Figures of several worker processes, on both servers: one whole, whoever answers and whoever dies."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.gateway import Spawned, spawned

BOTH = pytest.mark.parametrize("server", ["hypercorn", "granian"])


def ask(gateway: Spawned, path: str, **headers: str) -> httpx.Response:
    """Ask on a connection of its own: which worker answers is left to the kernel."""
    with httpx.Client(base_url=gateway.url, trust_env=False, timeout=20) as http:
        return http.get(path, headers=headers)


def stats(gateway: Spawned) -> dict[str, Any]:
    return dict(ask(gateway, "/api/stats").json())


def pings(document: dict[str, Any]) -> int:
    return sum(one["count"] for one in document["routes"] if one["route"] == "/api/ping")


def wait_for(condition: Any, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def settled_pings(gateway: Spawned) -> int:
    """Return them once they stand still: others tell of those of the start up to a second later."""
    told = [pings(stats(gateway))]
    until = time.monotonic() + 60
    while told[-25:].count(told[-1]) < 25:
        assert time.monotonic() < until
        time.sleep(0.1)
        told.append(pings(stats(gateway)))
    return told[-1]


@contextmanager
def working(folder: Path, server: str, workers: int = 2) -> Iterator[Spawned]:
    with spawned(folder, f"--server={server}", f"--workers={workers}", TMPDIR=str(folder)) as gateway:
        wait_for(lambda: len(stats(gateway)["workers"]) == workers)
        yield gateway


def folders(place: Path) -> list[Path]:
    return list(place.glob("avatar-gateway-*"))


@BOTH
def test_any_worker_tells_of_all_and_a_death_takes_nothing_away(tmp_path: Path, server: str) -> None:
    with working(tmp_path, server, 4) as gateway:
        before = settled_pings(gateway)
        for _ in range(40):
            assert ask(gateway, "/api/ping").status_code == 200
        wait_for(lambda: pings(stats(gateway)) == before + 40)
        document = stats(gateway)
        assert sum(one["total_requests"] for one in document["workers"]) == document["total_requests"]
        assert sum(one["count"] for one in document["routes"]) == document["total_requests"]
        assert document["duration_ms"]["since_start"]["count"] == document["total_requests"]
        assert folders(tmp_path)[0].stat().st_mode & 0o777 == 0o700
        seen = [pings(stats(gateway))]
        victim = stats(gateway)["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: victim not in {one["pid"] for one in stats(gateway)["workers"]})
        wait_for(lambda: len(stats(gateway)["workers"]) == 4)
        seen += [pings(stats(gateway)) for _ in range(10)]
        assert seen == sorted(seen)
        assert seen[-1] >= before + 40
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(30) == 0
    assert folders(tmp_path) == []


@BOTH
def test_a_killed_supervisors_folder_is_removed_by_the_next(tmp_path: Path, server: str) -> None:
    with working(tmp_path, server) as gateway:
        gateway.process.kill()
        gateway.process.wait(10)
        assert len(folders(tmp_path)) == 1
        [left] = folders(tmp_path)
    with working(tmp_path, server):
        assert left not in folders(tmp_path)
        assert len(folders(tmp_path)) == 1


@BOTH
def test_a_stop_does_not_wait_for_those_who_look_at_the_dashboard(tmp_path: Path, server: str) -> None:
    with (
        spawned(tmp_path, f"--server={server}", "--workers=2", GATEWAY_DRAIN_SECONDS="80") as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http,
        http.stream("GET", "/api/stats/stream") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines) == "event: points"
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(40) == 0
        assert [*lines][-1] == ""  # the stream ended, and was not cut
        assert "were cut" not in gateway.log.read_text()


@BOTH
def test_any_workers_stream_has_the_points_of_all(tmp_path: Path, server: str) -> None:
    with working(tmp_path, server) as gateway:
        for _ in range(40):
            assert ask(gateway, "/api/ping").status_code == 200
        with (
            httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http,
            http.stream("GET", "/api/stats/stream") as answer,
        ):
            seen: dict[int, dict[str, Any]] = {}
            for line in answer.iter_lines():
                if line.startswith('data: {"now"'):
                    told = json.loads(line.removeprefix("data: "))
                    seen |= {point["number"]: point for point in told["points"]}
                if sum(point["rate"] for point in seen.values()) * 5 > 39:
                    break
        assert max(point["workers"] for point in seen.values()) == 2


def test_one_process_needs_no_folder(tmp_path: Path) -> None:
    with spawned(tmp_path, TMPDIR=str(tmp_path)) as gateway:
        document = stats(gateway)
        assert len(document["workers"]) == 1
        assert document["workers"][0]["server"] == "hypercorn"
        assert folders(tmp_path) == []


def test_ten_thousand_good_requests_write_no_line(tmp_path: Path) -> None:
    with spawned(tmp_path, SLOW_REQUEST_SECONDS="60") as gateway:
        before = gateway.log.read_text()
        with closing(HTTPConnection(gateway.url.removeprefix("http://"), timeout=20)) as http:
            for _ in range(10_000):
                http.request("GET", "/api/ping")
                assert http.getresponse().read() == b"pong"
        assert stats(gateway)["total_requests"] >= 10_000
        assert gateway.log.read_text() == before
        assert gateway.stop() == 0


@BOTH
def test_lines_are_json_where_wanted_and_tell_of_the_upstream(tmp_path: Path, server: str) -> None:
    settings = {"GATEWAY_LOG_FORMAT": "json", "GATEWAY_MOUNTS": DEAD}
    with spawned(tmp_path, f"--server={server}", **settings) as gateway:
        answer = ask(gateway, "/m/x?token=geheim", **{"X-Request-ID": "mine-1234"})
        assert answer.status_code == 502
        wait_for(lambda: "mine-1234" in gateway.log.read_text())
        [line] = [one for one in gateway.log.read_text().splitlines() if "mine-1234" in one]
        assert gateway.stop() == 0
    fields = httpx.Response(200, text=line).json()
    assert (fields["level"], fields["logger"], fields["request_id"]) == ("WARNING", "gateway", "mine-1234")
    assert (fields["route"], fields["status"]) == ("/m/<anything:rest>", 502)
    assert (fields["source"], fields["code"], fields["upstream"]) == (
        "upstream",
        "upstream_refused",
        "mount /m",
    )
    assert "geheim" not in line


DEAD = '[{"prefix":"/m","upstream":"http://127.0.0.1:9","auth":"none"}]'


@pytest.mark.parametrize("request_id", ["x\tERROR forged", "a" * 500, "'; drop", "%0aERROR", "short"])
def test_hostile_request_ids_reach_no_log(tmp_path: Path, request_id: str) -> None:
    with spawned(tmp_path, GATEWAY_MOUNTS=DEAD) as gateway:
        answer = ask(gateway, "/m/x", **{"X-Request-ID": request_id})
        assert answer.headers["x-request-id"] != request_id
        wait_for(lambda: answer.headers["x-request-id"] in gateway.log.read_text())
        assert request_id not in gateway.log.read_text()


def test_a_full_disk_under_the_log_stops_nothing_and_losses_are_told(tmp_path: Path) -> None:
    (tmp_path / "gateway.log").symlink_to("/dev/full")
    with spawned(tmp_path, GATEWAY_MOUNTS=DEAD) as gateway:
        for _ in range(20):
            assert ask(gateway, "/m/x").status_code in (502, 503)
        wait_for(lambda: stats(gateway)["lost_log_lines"] >= 20)
        assert gateway.stop() == 0
