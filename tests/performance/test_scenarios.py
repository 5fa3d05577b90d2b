"""Scenarios: the built-in ones fit the gateway, those of a tester's file are read strictly."""

import json
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest

from performance.fields import ScenarioError
from performance.scenarios import built_in, groups, read_scenario

API = Path(__file__).parents[2] / "docs" / "api.md"
STEP = {"name": "look", "path": "/api/ping"}


def written(folder: Path, content: Any) -> str:
    path = folder / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def without_names(path: str) -> str:
    return re.sub(r"\{\w+\}|<\w+>", "*", path.partition("?")[0])


@pytest.mark.parametrize("name", built_in())
def test_every_call_of_a_built_in_scenario_is_a_route_of_the_gateway(name: str) -> None:
    routes = re.findall(r"^\| `([A-Z]+) (\S+)`", API.read_text("utf-8"), re.M)
    known = {(method, without_names(path)) for method, path in routes}
    for act in read_scenario(name).every_act:
        assert (act.method, without_names(act.path)) in known


def test_a_scenario_of_ones_own_is_read(tmp_path: Path) -> None:
    steps = [
        {"name": "new", "method": "POST", "path": "/new", "json": {"a": ["{user}"]}, "keep": {"chat": "a.b"}},
        {"path": "/ask/{chat}", "method": "POST", "form": {"m": "x"}, "file": {"bytes": 10}, "times": [1, 3]},
    ]
    scenario = read_scenario(written(tmp_path, {"think": [0.5, 2], "steps": steps}))
    assert (scenario.name, scenario.think) == ("mine", (0.5, 2.0))
    assert [act.name for act in scenario.acts] == ["new", "/ask/{chat}"]
    assert scenario.acts[1].times == (1, 3)
    assert scenario.placeholders == {"user", "chat"}
    assert scenario.thinking((0, 0)).think == (0, 0)


def test_a_mix_is_drawn_by_its_weights(tmp_path: Path) -> None:
    scenario = read_scenario(written(tmp_path, {"mix": {"look": 3, "preview": 1}}))
    dice = Random(7)
    drawn = [scenario.drawn(dice).name for _ in range(1000)]
    assert 700 < drawn.count("look") < 800
    assert set(drawn) == {"look", "preview"}


def test_neighbours_with_the_same_word_are_made_together() -> None:
    names = [[act.name for act in group] for group in groups(read_scenario("look").acts)]
    assert names == [["profile"], ["notifications", "avatar list", "history"], ["models"], ["token status"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ([], "must be a JSON object"),
        ({}, "needs either steps or mix"),
        ({"steps": [STEP], "mix": {"look": 1}}, "needs either steps or mix"),
        ({"steps": []}, "list of 1 to 100"),
        ({"steps": [STEP], "thnik": 1}, "'thnik' is not known here"),
        ({"steps": [{**STEP, "pth": "/"}]}, "steps 1: 'pth' is not known here"),
        ({"steps": [{"path": "api"}]}, "path must begin with /"),
        ({"steps": [{"path": 1}]}, "path must be a text"),
        ({"steps": [{**STEP, "method": "get"}]}, "method must be one of"),
        ({"steps": [{**STEP, "share": 2}]}, "share must be from 0 to 1"),
        ({"steps": [{**STEP, "times": [3, 1]}]}, "more at least than at most"),
        ({"steps": [{**STEP, "times": 1.5}]}, "whole numbers"),
        ({"steps": [{**STEP, "think": True}]}, "think must be a number"),
        ({"steps": [{**STEP, "think": [0, 1e9]}]}, "think must be from 0 to 600"),
        ({"steps": [{**STEP, "json": {}, "form": {}}]}, "either json, or form"),
        ({"steps": [{**STEP, "form": {"a": 1}}]}, "form must be an object of texts"),
        ({"steps": [{**STEP, "closing": 1}]}, "closing must be true or false"),
        ({"steps": [{**STEP, "file": {"bytes": 0}}]}, "steps 1, file: bytes must be from 1"),
        ({"steps": [{"path": "/a/{chat}"}]}, "uses {chat} in /a/{chat}, which no earlier step keeps"),
        ({"mix": {"nobody": 1}}, "mixes nobody"),
        ({"mix": {"mixed": 1}}, "mixes mixed, which is a mix itself"),
        ({"mix": {"look": 0}}, "weight above 0"),
        ({"mix": {}}, "object of scenario names"),
    ],
)
def test_wrong_file_is_refused_with_the_place(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(said)):
        read_scenario(written(tmp_path, content))


def test_unknown_scenario_is_told_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match="choose preview, look, mixed, student or a file"):
        read_scenario("../student")


def test_file_that_is_not_there_is_told() -> None:
    with pytest.raises(ScenarioError, match="cannot read missing"):
        read_scenario("missing.json")
