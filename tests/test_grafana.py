"""The dashboard for Grafana asks for what `/metrics` has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.support.gateway import mount, serving, settings_for
from tests.support.peer import Exchange, Peer

FILE = Path(__file__).parents[1] / "docs" / "grafana.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
# Given by Prometheus to whatever it collects.
OF_PROMETHEUS = {"instance", "job"}


async def busy(exchange: Exchange) -> None:
    await exchange.reply(b"{}", status=b"503 Busy")


@pytest_asyncio.fixture
async def metrics(tmp_path: Path) -> dict[str, set[str]]:
    """Names of samples to their labels, after something of everything happened."""
    async with Peer(busy) as peer:
        settings = settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url, methods=["POST"])])
        async with serving(settings) as served:
            await served.http.post("/m/x", content=b"x" * 100)
            text = (await served.http.get("/metrics")).text
    found: dict[str, set[str]] = {}
    for family in parsed(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selected(query: str, name: str) -> set[str]:
    """The labels by which a query selects of a metric."""
    insides = re.findall(rf"\b{name}\{{(.*?)\}}", query)
    return {label for inside in insides for label in re.findall(r"(\w+)\s*[=!]", inside)}


def grouped(query: str) -> set[str]:
    """The labels that a query leaves."""
    return {label for inside in re.findall(r"by \((.*?)\)", query) for label in inside.split(", ")}


@pytest.mark.asyncio
async def test_each_query_names_metrics_and_labels_that_there_are(metrics: dict[str, set[str]]) -> None:
    asked: set[str] = set()
    for title, query in QUERIES:
        names = set(re.findall(r"\bgateway_\w+", query))
        assert names, title
        for name in names:
            assert name in metrics, f"{title}: {name}"
            known = metrics[name] | OF_PROMETHEUS
            assert selected(query, name) | grouped(query) <= known, f"{title}: {query}"
        asked |= names
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in metrics}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    # All is shown but the calls without an answer yet, which are part of those in flight.
    assert families - shown == {"gateway_upstream_calls_unanswered"}


def test_legends_name_labels_that_a_query_leaves() -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert named <= grouped(target["expr"]), panel["title"]


def test_counters_are_asked_for_their_rate_and_gauges_are_not() -> None:
    for title, query in QUERIES:
        for name in re.findall(r"\bgateway_\w+", query):
            counter = name.endswith(("_total", "_bucket", "_sum", "_count"))
            rated = re.search(rf"rate\({name}\{{", query) is not None
            assert rated == counter, f"{title}: {query}"


def test_panels_lie_beside_each_other_and_have_a_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${source}"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_every_parenthesis_is_closed() -> None:
    for title, query in QUERIES:
        for left, right in ("()", "{}", "[]"):
            assert query.count(left) == query.count(right), f"{title}: {query}"
