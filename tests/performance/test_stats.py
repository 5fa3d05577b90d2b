"""The script and the gateway count the same calls: its figures beside those of `/stats`."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.demo import demo
from tests.support.gateway import ROOT

# The gateway stops its clock when it has handed over the last byte, the script when it has read it; between
# them lies the machine's own delay, which on a busy one is the larger part. Where it has room, the two agree
# to the twentieth part: `python -m benchmarks.meters`.
RELATIVE, ABSOLUTE_SECONDS = 0.05, 0.15
ROUTE = "/api/avatar/preview"


def loaded(url: str, token: str, path: Path, *argv: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "test_async_performance.py"), "--base-url", url, "--token", token]
    done = subprocess.run(
        [*command, "--json", str(path), *argv], capture_output=True, text=True, timeout=70, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(path.read_text()))


def near(one: float, other: float) -> bool:
    return abs(one - other) <= RELATIVE * max(one, other) + ABSOLUTE_SECONDS


@pytest.mark.asyncio
async def test_script_and_gateway_agree_on_counts_and_percentiles(tmp_path: Path) -> None:
    async with demo(tmp_path, "--demo-latency", "1.5") as world:
        token = world.http.headers["Authorization"].removeprefix("Bearer ")
        url = world.gateway.url
        argv = ("--duration", "6", "--users", "8")
        report = await asyncio.to_thread(loaded, url, token, tmp_path / "steady.json", *argv)
        crowd = report["crowds"][0]["all"]
        steady = await stats_with(url, crowd["calls"])
        argv = ("--users", "1,6", "--serial-calls", "2", "--rounds", "2")
        climbed = await asyncio.to_thread(loaded, url, token, tmp_path / "ladder.json", *argv)
        ours = sum(step["succeeded"] for step in climbed["steps"]) + climbed["serial"]["calls"]
        ladder = await stats_with(url, crowd["calls"] + ours)
    told = route(steady)
    assert told["count"] == crowd["calls"] == crowd["succeeded"] > 8
    assert near(told["mean_ms"] / 1000, crowd["mean_seconds"])
    # Of all requests: beside the previews a dozen checks, which are below every percentile here.
    for percent in ("p50", "p95"):
        assert near(steady["duration_ms"]["since_start"][percent] / 1000, crowd[f"{percent}_seconds"])
    assert route(ladder)["count"] - told["count"] == ours == 2 * 7 + 2


async def stats_with(url: str, calls: int) -> dict[str, Any]:
    """Return what `/stats` says once it has so many previews, which are counted after they were answered."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http, asyncio.timeout(10):
        while True:
            stats = dict((await http.get("/stats")).json())
            if route(stats)["count"] >= calls:
                return stats
            await asyncio.sleep(0.05)


def route(stats: dict[str, Any]) -> dict[str, Any]:
    none = {"count": 0}
    return next((one for one in stats["routes"] if one["route"] == ROUTE and one["answers"] == "2xx"), none)
