"""The page with charts: whole in one file, and safe whatever a gateway says."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from performance.axes import apart, figure, linear, logarithmic, nice
from performance.run import main
from tests.support.scripted_gateway import ScriptedGateway, message

HOSTILE = "</style><script>alert(1)</script><img src=http://evil.test/x onerror=alert(2)>"
VOID = {"meta", "br"}


class Elements(HTMLParser):
    """Counts elements and sees that all are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def elements(page: str) -> list[str]:
    parser = Elements()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.seen


def made(gateway: ScriptedGateway, folder: Path, *argv: str) -> str:
    path = folder / "run.html"
    main(["--base-url", gateway.url, "--quiet", "--html", str(path), *argv])
    return path.read_text("utf-8")


def test_page_of_a_ladder_has_charts_table_and_claims(gateway: ScriptedGateway, tmp_path: Path) -> None:
    page = made(
        gateway, tmp_path, "--users", "1,2,5", "--serial-calls", "1", "--rounds", "2", "--claims", "1"
    )
    seen = elements(page)
    assert seen.count("svg") == 4
    assert "polygon" in seen  # the spread of the rounds
    for said in ("Passed.", "5 users at once wait", "wall min … max", "2,000 calls a minute", "2 rounds"):
        assert said in page


def test_page_of_a_crowd_has_charts_over_time(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.replies["/api/chat/new"] = 201, message(session_id=1)
    page = made(gateway, tmp_path, "--scenario", "mixed", "--think", "0.1", "--users", "3", "--duration", "3")
    assert elements(page).count("svg") == 4
    for said in ("Calls a second", "How long a call takes", "Users present", "What each call takes"):
        assert said in page


def test_page_asks_for_nothing_outside_and_runs_nothing(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.replies["/x"] = 500, message(msg=HOSTILE, request_id=HOSTILE)
    page = made(gateway, tmp_path, "--path", "/x", "--calls", "3", "--users", "1")
    assert not {"script", "img", "link", "iframe", "object"} & set(elements(page))
    assert "default-src 'none'" in page
    assert re.search(r"url\(|@import|src=", page.replace("src=http://evil.test", "")) is None
    assert "&lt;script&gt;" in page
    assert "Failed: a call failed" in page


def test_page_without_a_single_good_call_is_a_page(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.fails_from = 2
    page = made(gateway, tmp_path, "--users", "1,3", "--serial-calls", "1")
    assert "0 %" in page
    assert elements(page)


def test_json_has_claims_efforts_and_spreads(gateway: ScriptedGateway, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    argv = ["--base-url", gateway.url, "--users", "1,4", "--serial-calls", "1", "--rounds", "3"]
    assert main([*argv, "--claims", "1", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    step = report["steps"][1]
    low, high = step["spread"]["wall_seconds"]
    assert low <= step["wall_seconds"] <= high
    assert (step["rounds"], len(step["effort"]), step["succeeded"]) == (3, 3, 12)
    assert {claim["verdict"] for claim in report["claims"]} <= {
        "met",
        "missed",
        "not measured",
        "no gain by itself",
    }
    assert len(gateway.forms) >= 1 + 3 * 5 + 4  # serial, three ladders, steady load


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.0341, "0.0341"), (1.25, "1.25"), (412.4, "412"), (12300, "12,300"), (5.0, "5")],
)
def test_figures_have_what_a_reader_needs(value: float, said: str) -> None:
    assert figure(value) == said


def test_axes_cover_their_values() -> None:
    axis = linear([0.3, 3.4], 0, 100)
    assert axis.ticks == (0, 1, 2, 3, 4)
    assert (axis.place(0), axis.place(4)) == (0, 100)
    decades = logarithmic([0.2, 900], 0, 100)
    assert (decades.low, decades.high, decades.place(0.1)) == (0.1, 1000, 0)
    assert linear([], 0, 100).high == 1
    assert logarithmic([5], 0, 100, ticks=[5]).place(5) == 50


def test_labels_that_would_touch_are_left_out_but_the_last() -> None:
    axis = logarithmic([], 0, 100, ticks=[1, 2, 1000, 1001])
    assert apart(axis, 20) == [2, 1001]


@pytest.mark.parametrize(("step", "next_one"), [(0.7, 1), (1, 1), (1.1, 2), (3, 5), (0.06, 0.1), (70, 100)])
def test_steps_are_round(step: float, next_one: float) -> None:
    assert nice(step) == pytest.approx(next_one)
