"""The API document: whole, made from the routes, and the same in both directions."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from backend import openapi
from backend.app import Application, create_app
from backend.operations import Choices, operation_of
from backend.routes import webrtc
from backend.services import signalling
from tests.support.document import Document
from tests.support.gateway import ROOT, settings_for

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE"}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Application:
    return create_app(settings_for(tmp_path_factory.mktemp("gateway")))


@pytest.fixture(scope="module")
def document(application: Application) -> Document:
    flask = application.flask
    return Document(openapi.document(flask.url_map.iter_rules(), flask.view_functions))


def every(thing: Any, key: str) -> list[Any]:
    """Every value of this key, however deep."""
    below = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ()
    here = [thing[key]] if isinstance(thing, dict) and key in thing else []
    return here + [found for value in below for found in every(value, key)]


def test_every_route_of_the_api_is_documented_or_nobody_would_know_of_it(application: Application) -> None:
    flask = application.flask
    silent = [
        rule.rule
        for rule in flask.url_map.iter_rules()
        if rule.rule.startswith(("/api", "/static"))
        and operation_of(flask.view_functions[rule.endpoint]) is None
    ]
    assert silent == []


def test_every_documented_operation_leads_to_a_view(application: Application, document: Document) -> None:
    adapter = application.flask.url_map.bind("localhost")
    assert len(document.operations) > 15
    for method, template in document.operations:
        endpoint, _ = adapter.match(re.sub(r"\{\w+\}", "7", template), method=method)
        assert operation_of(application.flask.view_functions[endpoint]) is not None


def test_methods_of_a_route_are_the_documented_ones(application: Application, document: Document) -> None:
    flask = application.flask
    for rule in flask.url_map.iter_rules():
        said = operation_of(flask.view_functions[rule.endpoint])
        if said is not None and not isinstance(said, Choices):
            path = openapi.VARIABLE.sub(r"{\1}", rule.rule)
            assert {method for method, other in document.operations if other == path} >= (
                set(rule.methods or ()) & METHODS
            )


def test_signalling_is_documented_path_by_path() -> None:
    allowed = {path: method for path, (method, _) in signalling.ALLOWED.items()}
    assert {path: method for path, (method, _) in webrtc.OPERATIONS.items()} == allowed


def test_every_schema_is_one(document: Document) -> None:
    schemas = every(document.content["paths"], "schema") + list(
        document.content["components"]["schemas"].values()
    )
    assert len(schemas) > 30
    for schema in schemas:
        Draft202012Validator.check_schema(schema)


def test_every_reference_leads_somewhere(document: Document) -> None:
    references = every(document.content, "$ref")
    assert references
    for reference in references:
        assert document.resolved({"$ref": reference})


def test_every_definition_is_used(document: Document) -> None:
    references = set(every(document.content, "$ref"))
    unused = [
        f"{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in document.content["components"][kind]
        if f"#/components/{kind}/{name}" not in references
    ]
    assert unused == []


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_known_tag(document: Document) -> None:
    names = [operation["operationId"] for operation in document.operations.values()]
    assert len(set(names)) == len(names)
    tags = {tag["name"] for tag in document.content["tags"]}
    assert tags <= set(openapi.TAGS)
    for operation in document.operations.values():
        assert operation["summary"].endswith((".", "`."))
        assert set(operation["tags"]) <= tags


def test_every_variable_of_a_path_is_a_parameter(document: Document) -> None:
    for (_, template), operation in document.operations.items():
        named = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", template)


def test_no_operation_admits_to_an_error_of_the_gateway(document: Document) -> None:
    """A 500 is a mistake, and one that nobody foresaw."""
    for method, template in document.operations:
        assert 500 not in document.responses(method, template)


def test_who_has_to_sign_in_may_be_refused(document: Document) -> None:
    for (method, template), operation in document.operations.items():
        statuses = set(document.responses(method, template))
        needs_token = operation["security"] == [{openapi.BEARER: []}]
        assert (401 in statuses) >= needs_token
        assert (403 in statuses) >= ("Tutors only." in operation.get("description", ""))


def test_servers_are_relative_so_the_document_is_right_wherever_it_is_served(document: Document) -> None:
    assert document.content["servers"] == [{"url": "/"}]
    assert "http://" not in json.dumps(document.content)


def test_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["version"] == openapi.VERSION


def test_page_of_the_interface_names_every_operation(document: Document) -> None:
    page = (Path(ROOT) / "docs" / "api.md").read_text("utf-8")
    # `/api/x/{id}` of the document may stand as `/api/x/<id>`, whatever the variable is called.
    listed = {
        (method, re.sub(r"[<{][\w:]+[>}]", "{}", path))
        for method, path in re.findall(r"`(GET|POST|PUT|DELETE) ([^`\s]+)`", page)
    }
    wanted = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path in document.operations}
    assert wanted - listed == set()
