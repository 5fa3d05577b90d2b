"""The table of rules is complete, and every test that it names is there."""

import ast
import re
from pathlib import Path

from backend.app import create_app
from backend.config import Settings
from tests.support.gateway import ROOT, document_of, settings_for

TABLE = Path(__file__).with_name("rules.md")
ROWS = re.findall(r"^\| (?!rule |-)(.+?) \| (.+) \|$", TABLE.read_text("utf-8"), re.M)
LEAST_RULES = 40


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_rule_names_tests_that_are_there() -> None:
    assert len(ROWS) >= LEAST_RULES
    for rule, named in ROWS:
        references = re.findall(r"`([^`]+)`", named)
        assert references, rule
        for reference in references:
            file, _, name = reference.partition("::")
            assert (ROOT / file).is_file(), reference
            assert not name or name in names_in(ROOT / file), reference


def test_no_rule_stands_twice() -> None:
    rules = [rule for rule, _ in ROWS]
    assert len(set(rules)) == len(rules)


def test_every_test_of_the_journey_serves_a_rule_or_belongs_to_its_page() -> None:
    """A file of this folder that no rule names would be driven by nobody's need."""
    named = {
        reference.partition("::")[0] for _, tests in ROWS for reference in re.findall(r"`([^`]+)`", tests)
    }
    files = {str(file.relative_to(ROOT)) for file in Path(__file__).parent.glob("test_*.py")}
    assert files <= named


def test_default_address_is_the_one_that_the_page_has_built_in() -> None:
    assert Settings.model_fields["port"].default == 8203


def test_only_answers_of_the_sign_in_have_a_token(tmp_path: Path) -> None:
    """The page would keep any other as its own."""
    document = document_of(create_app(settings_for(tmp_path)))
    for method, template in document.operations:
        for status, response in document.responses(method, template).items():
            for content in response.get("content", {}).values():
                schema = document.resolved(content.get("schema", {}))
                if status < 400 and "token" in schema.get("properties", {}):
                    assert template in ("/api/login", "/api/token_status")
