"""The documents say what the code does; where they could drift, they are compared."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from backend import errors
from backend.config import Settings
from backend.errors import GatewayError
from scripts import document_settings, draw_diagrams
from tests.support.pages import PAGES, code_lines, read

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TWIN = ROOT / "README.zh-CN.md"
TWINS = sorted([*ROOT.glob("*.zh-CN.md"), *ROOT.glob("docs/*.zh-CN.md")])
COMMANDS = (
    "bash install_async_deps.sh && .venv/bin/python run.py --demo",
    "bash install_async_deps.sh --dev && .venv/bin/pytest",
)
# Folders of the machine somebody wrote on; /etc and /opt may stand in examples for an operator.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|Users|tmp|work|var|mnt|workspace)/")


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def links(text: str) -> list[str]:
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code(text))


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def kinds(kind: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from kinds(below)


@pytest.mark.parametrize("page", [README, TWIN], ids=lambda page: page.name)
@pytest.mark.parametrize("command", COMMANDS)
def test_readme_has_both_command_lines_verbatim(page: Path, command: str) -> None:
    assert command in code_lines(read(page))


@pytest.mark.parametrize("twin", TWINS, ids=lambda page: page.name)
def test_chinese_page_has_the_same_commands_and_structure(twin: Path) -> None:
    page = twin.with_name(twin.name.replace(".zh-CN", ""))
    english, chinese = read(page), read(twin)
    assert code_lines(chinese) == code_lines(english)
    for structure in (r"^#+ ", r"^\|"):
        assert [len(one) for one in re.findall(structure, chinese, re.M)] == [
            len(one) for one in re.findall(structure, english, re.M)
        ]
    assert [_language_aside(link) for link in links(chinese)] == [
        _language_aside(link) for link in links(english)
    ]


def _language_aside(link: str) -> str:
    """The page that is meant, in whichever language; headings have other names there."""
    return link.replace(".zh-CN", "").partition("#")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(read(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(read(target)), f"{link} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_folder_of_one_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(read(page)) == []


def test_settings_pages_are_up_to_date() -> None:
    told = "run python -m scripts.document_settings"
    assert read(document_settings.PAGE) == document_settings.page(), told
    assert read(document_settings.TWIN) == document_settings.chinese_page(), told


def test_a_setting_whose_sentence_changed_wants_a_new_translation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = document_settings.translations()
    known["Folder of the old days."] = known.pop("PEM private key.")
    monkeypatch.setattr(document_settings, "CHINESE", tmp_path / "settings.json")
    document_settings.CHINESE.write_text(json.dumps(known), encoding="utf-8")
    assert document_settings.main(["--check"]) == 1
    assert "'PEM private key.'" in capsys.readouterr().err


def test_no_translation_is_of_a_sentence_that_no_page_has() -> None:
    asked = set()

    class Asked(dict[str, str]):
        def __getitem__(self, sentence: str) -> str:
            asked.add(sentence)
            return super().__getitem__(sentence)

    known = Asked(document_settings.translations())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_settings, "translations", lambda: known)
        document_settings.chinese_page()
    assert set(known) - asked == set()


def test_diagrams_are_drawn_from_the_text_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw_diagrams.main(["--check"]) == 0
    for file in draw_diagrams.FOLDER.iterdir():
        (tmp_path / file.name).write_text(read(file))
    monkeypatch.setattr(draw_diagrams, "FOLDER", tmp_path)
    assert draw_diagrams.main(["--check"]) == 0
    (tmp_path / "after.dot").write_text("digraph { other }")
    assert draw_diagrams.main(["--check"]) == 1, "a text that changed is noticed"


def test_every_setting_is_on_the_settings_page() -> None:
    listed = re.findall(r"^\| `([A-Z0-9_]+)` \|", document_settings.page(), re.M)
    assert listed == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = {
        word
        for code in re.findall(r"`([^`\n]+)`", read(page))
        for word in re.findall(r"(?<![\w.])[A-Z]+_[A-Z_]*[A-Z](?![\w.])", code)
    }
    assert named - known == set()


def test_api_page_lists_every_error_with_its_status_and_whether_to_retry() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \|", read(ROOT / "docs" / "api.md"), re.M)
    kept = [kind for kind in kinds() if kind is not errors.InboundError]
    meant = {(kind.code, str(kind.status), "yes" if kind.retryable else "no") for kind in kept}
    assert set(rows) == meant
    assert len(rows) == len(meant)


def test_every_command_of_the_readme_names_files_that_exist() -> None:
    for line in code_lines(read(README)):
        for word in line.split():
            if word.endswith((".py", ".sh")):
                assert (ROOT / word).is_file(), line


def test_shell_scripts_parse() -> None:
    for script in ("install_async_deps.sh", "scripts/check", "scripts/test", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / script], check=True)
        assert (ROOT / script).stat().st_mode & 0o111, f"{script} is not executable"


def outside_imports(files: list[Path]) -> set[str]:
    """Distributions that these files import by name."""
    modules = set()
    for file in files:
        for node in ast.walk(ast.parse(read(file))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.partition(".")[0])
    owners = packages_distributions()
    own = {"backend", "performance", "scripts", "tests", "benchmarks", "run", "test_async_performance"}
    outside = modules - set(sys.stdlib_module_names) - own
    return {owner.lower() for module in outside for owner in owners.get(module, [module])}


def direct_requirements(name: str) -> dict[str, str]:
    """Name to comment of the lines above the transitive ones."""
    direct = read(ROOT / name).partition("# Transitive")[0]
    lines = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==\S+ +# (.+)$", direct, re.M)
    return {distribution.lower(): comment for distribution, comment in lines}


def test_requirements_name_every_import_and_nothing_else() -> None:
    files = [ROOT / "run.py", *ROOT.glob("performance/*.py"), *ROOT.glob("backend/**/*.py")]
    by_url = {"psycopg"}  # SQLAlchemy imports it
    live = [*ROOT.glob("backend/demo/live/*.py")]
    traces = ROOT / "backend" / "services" / "span_export.py"
    of_all = set(direct_requirements("requirements.txt"))
    assert outside_imports(live) - of_all == set(direct_requirements("requirements-demo.txt"))
    assert of_all == outside_imports([file for file in files if file not in (*live, traces)]) | by_url
    # Several distributions share this name, and not all of them are always there.
    assert {name.partition("-")[0] for name in direct_requirements("requirements-trace.txt")} == (
        set(re.findall(r"^from (opentelemetry)\.", read(traces), re.M))
    )


def test_development_requirements_name_every_import_of_the_tests() -> None:
    names = (
        "requirements.txt",
        "requirements-demo.txt",
        "requirements-trace.txt",
        "requirements-dev.txt",
    )
    named = {distribution for name in names for distribution in direct_requirements(name)}
    used_below_others = {"annotated-types", "h2", "httpcore", "hpack", "hyperframe", "wsproto"}
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("scripts/*.py")]
    unnamed = outside_imports(files) - named - used_below_others
    # Several distributions share one name there.
    assert {name for name in unnamed if not name.startswith("opentelemetry-")} == set()


def test_files_that_requirements_name_exist() -> None:
    named = {
        name: comment
        for part in ("", "-demo", "-trace")
        for name, comment in direct_requirements(f"requirements{part}.txt").items()
    }
    for comment in named.values():
        for path in re.findall(r"[\w./]+\.py|backend/\w+(?![\w./])", comment):
            assert (ROOT / path).exists(), comment


def test_every_requirement_is_pinned() -> None:
    for name in (
        "requirements.txt",
        "requirements-demo.txt",
        "requirements-trace.txt",
        "requirements-dev.txt",
    ):
        for line in read(ROOT / name).splitlines():
            assert not line or line.startswith(("#", "-r ")) or re.match(r"\S+==[\w.]+( +# |$)", line), line
