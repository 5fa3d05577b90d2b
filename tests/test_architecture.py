"""Which module may know which, and how large things may grow: read from the source, not by running it."""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "run.py", *sorted((ROOT / "backend").rglob("*.py"))]
CODE = [file for file in FILES if "versions" not in file.parts]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60

# Part of the program -> the parts it may import. A part is the longest of these prefixes that fits a module.
ALLOWED: dict[str, set[str]] = {
    "run": {"app", "config", "exchange", "request_body", "server", "granian_server", "demo.session"},
    "allocator": set(),
    "server": {"allocator", "app", "clients", "config", "http2", "services", "supervisor"},
    "clients": {"clients", "errors", "idle", "services"},
    "supervisor": {"config"},
    "http2": {"http2"},
    "idle": set(),
    "granian_server": {"app", "config", "server", "supervisor"},
    "doctor": {"config", "errors", "services"},
    "app": {
        "asgi",
        "cli",
        "doctor",
        "config",
        "context",
        "cors",
        "hooks",
        "observer",
        "openapi",
        "request_log",
        "routes",
        "services",
    },
    "observer": {"errors", "exchange", "request_log", "services"},
    "request_log": {"exchange", "services"},
    "cli": {"errors", "models", "services"},
    "hooks": {"shortcut", "context", "cors", "errors", "responses", "services"},
    "routes": {
        "shortcut",
        "config",
        "context",
        "errors",
        "models",
        "operations",
        "request_fields",
        "responses",
        "schemas",
        "services",
    },
    "request_fields": {"context", "errors", "schemas", "services"},
    "context": {"config", "errors", "exchange", "services", "wsgi"},
    "operations": set(),
    "openapi": {"errors", "operations", "schemas"},
    "schemas": {"schemas", "models"},
    "asgi": {
        "exchange",
        "request_body",
        "responses",
        "routing",
        "services",
        "shortcut",
        "switch",
        "websockets",
        "wsgi",
    },
    "websockets": {"request_body", "services"},
    "shortcut": {"exchange", "responses", "routing"},
    "routing": {"services"},
    "exchange": {"errors", "patrol", "request_body", "responses", "services"},
    "patrol": set(),
    "request_body": {"errors", "services"},
    "responses": {"errors", "services", "wsgi"},
    "wsgi": {"services"},
    "cors": {"services"},
    "switch": set(),
    "services": {"config", "errors", "models", "services"},
    "migrations": {"models", "services"},
    "models": {"models"},
    "config": {"forms", "mount"},
    "mount": {"forms"},
    "forms": set(),
    "errors": set(),
    # The demo world stands alone; only its session, which starts it, knows the gateway.
    "demo": {"demo"},
    "demo.session": {"config", "context", "errors", "services"},
}
# The bridge serves any Flask application: of the services it may know only what has nothing of avatars.
OF_THE_BRIDGE = {
    "asgi",
    "exchange",
    "patrol",
    "request_body",
    "responses",
    "routing",
    "shortcut",
    "switch",
    "websockets",
    "wsgi",
}
KNOWN_TO_THE_BRIDGE = {
    "deadline",
    "forwarding",
    "headers",
    "pages",
    "recent",
    "streams",
    "threads",
    "traces",
    "trail",
    "websocket",
}

# Third-party library -> the only modules that may import it.
OWNERS = {
    "httpx": {"services.http_client", "services.transports"},
    "hpack": {"http2.blocks", "http2.heads", "services.http2.heads"},
    "httptools": {"services.http1"},
    "pyreqwest": {"services.transports"},
    "greenlet": {"switch"},
    "asgiref": {"asgi"},
    "hypercorn": {"server", "clients.server", "http2", "http2.protocol", "idle"},
    "granian": {"granian_server"},
    "jwt": {"services.claims"},
    "redis": {"services.redis_link"},
    "limits": {"services.rate_limits"},
    "websockets": {"services.websocket.frames"},
    "ddsketch": {"services.sketches"},
    "prometheus_client": {"services.metrics"},
    "opentelemetry": {"services.span_export"},
    "argon2": {"services.passwords"},
    "aiosmtplib": {"services.mail_server"},
    "pydantic": {"config", "forms", "mount", "doctor", "request_fields", "openapi", "operations", "schemas"},
    "dotenv": {"config"},
    "aiortc": {"demo.live.session", "demo.live.tracks"},
    "av": {"demo.live.tracks", "demo.live.voice"},
    "espeakng_loader": {"demo.live.voice"},
    "numpy": {"demo.live.speaker", "demo.live.tracks", "demo.live.voice"},
    "PIL": {"demo.live.drawing", "demo.live.face", "services.portraits"},
}


# Who may ask for the time of day, and why; every limit counts by a clock that nobody sets.
WALL_CLOCK = {
    "services.tokens": "times in tokens are those of the day, for other machines to read",
    "services.live_sessions": "so are those of sessions in the database",
    "services.session_life": "so are those",
    "services.verification": "till when a code is good, which several processes must agree on",
    "services.accounts": "when somebody signed in last",
    "services.diagnosis": "certificates end at a time of day",
    "models.base": "when a row was made",
    "services.file_store": "how old a file is, by the time that the disk notes",
    "services.picture_store": "the age of files, which the disk tells by the time of day",
    "exchange": "the Date header",
    "services.span_export": "when a span was, for a collector elsewhere",
    "demo.catalogue": "when an avatar was made",
    "demo.manager": "how long it has run, which it tells as the real one does",
    "demo.model": "when a piece was made, which it tells as the real one does",
}
OF_THE_DAY = {
    "time": {"time", "time_ns", "gmtime", "localtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def name_of(file: Path) -> str:
    """`services.tokens` for backend/services/tokens.py, `run` for run.py."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("backend", "__init__")) or "backend"


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line; `from backend import x` is an import of `backend.x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = node.module or ""
            if module == "backend" or module.startswith("backend."):
                names = [f"{module}.{alias.name}" for alias in node.names]
                yield from ((name if _is_module(name) else module, node.lineno) for name in names)
            else:
                yield module, node.lineno


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def part_of(module: str) -> str:
    fitting = [part for part in ALLOWED if module == part or module.startswith(part + ".")]
    assert fitting, f"{module} belongs to no part of the program: say in ALLOWED what it may import"
    return max(fitting, key=len)


def identifier(file: Path) -> str:
    return str(file.relative_to(ROOT))


SCRIPT = [ROOT / "test_async_performance.py", *sorted((ROOT / "performance").glob("*.py"))]
MOST_LINES_OF_THE_SCRIPT = 300
MOST_LINES_OF_ITS_FUNCTIONS = 40


def each_of(files: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make a rule for one file a test of all, which tells every file that breaks it."""

    def of_all(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for file in files:
                try:
                    rule(file)
                except AssertionError as error:
                    broken.append(f"{identifier(file)}: {error}")
            assert not broken, "\n".join(broken)

        test.__name__, test.__doc__ = rule.__name__, rule.__doc__
        return test

    return of_all


every_file = each_of(FILES)
code_file = each_of(CODE)
script_file = each_of(SCRIPT)


def test_there_is_something_to_check() -> None:
    assert len(CODE) > 40
    assert {name_of(file) for file in CODE} >= {"run", "asgi", "services.http_client", "routes.mounts"}


@code_file
def test_imports_follow_the_drawing(file: Path) -> None:
    module = name_of(file)
    if module == "backend":
        return
    part = part_of(module)
    for imported, line in imports_of(parsed(file)):
        if imported.startswith("backend."):
            other = part_of(imported.removeprefix("backend."))
            assert other in ALLOWED[part], f"{file.name}:{line}: {module} may not know {imported}"


@pytest.mark.parametrize("module", sorted(OF_THE_BRIDGE))
def test_the_bridge_knows_nothing_of_avatars(module: str) -> None:
    for imported, _ in imports_of(parsed(ROOT / "backend" / f"{module}.py")):
        if imported.startswith("backend.services."):
            assert imported.split(".")[2] in KNOWN_TO_THE_BRIDGE


@code_file
def test_services_and_models_know_no_flask(file: Path) -> None:
    module = name_of(file)
    inner = module.split(".")[0] in ("services", "models", "errors", "config", "switch")
    if module == "services.database" or not inner:
        return
    for imported, line in imports_of(parsed(file)):
        assert re.fullmatch(r"(flask|flask_\w+|werkzeug)(\..+)?", imported) is None, f"{file.name}:{line}"


@code_file
def test_each_library_has_its_owner(file: Path) -> None:
    module = name_of(file)
    for imported, line in imports_of(parsed(file)):
        owners = OWNERS.get(imported.split(".")[0])
        assert owners is None or {module, module.split(".")[0]} & owners, (
            f"{file.name}:{line}: {imported} belongs to {owners}"
        )


@code_file
def test_only_the_settings_read_the_environment(file: Path) -> None:
    if name_of(file) == "config":
        return
    for node in ast.walk(parsed(file)):
        used: set[str] = set()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            used = {node.attr}
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            used = {alias.name for alias in node.names}
        assert not used & ENVIRONMENT, f"{file.name}:{getattr(node, 'lineno', 0)}"


@code_file
def test_limits_do_not_depend_on_the_time_of_day(file: Path) -> None:
    for node in ast.walk(parsed(file)):
        asked = False
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            asked = node.attr in OF_THE_DAY.get(owner, ())
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            asked = any(alias.name in OF_THE_DAY["time"] for alias in node.names)
        assert not asked or name_of(file) in WALL_CLOCK, f"{file.name}:{getattr(node, 'lineno', 0)}"


def test_nobody_may_ask_for_the_time_of_day_who_does_not() -> None:
    asking = re.compile(r"\btime\.time\b|\bdatetime\.now\b")
    assert {name_of(file) for file in CODE if asking.search(file.read_text("utf-8"))} == set(WALL_CLOCK)


@code_file
def test_an_import_inside_a_function_gives_its_reason(file: Path) -> None:
    lines = file.read_text("utf-8").splitlines()
    for function in functions_of(parsed(file)):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                near = lines[node.lineno - 2 : node.lineno]
                assert any("#" in line for line in near), f"{file.name}:{node.lineno}: why here?"


def functions_of(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@every_file
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(parsed(file)), f"{identifier(file)} does not start with a docstring"


@code_file
def test_no_module_grows_past_reading(file: Path) -> None:
    assert len(file.read_text("utf-8").splitlines()) <= MOST_LINES


@code_file
def test_no_function_grows_past_reading(file: Path) -> None:
    for function in functions_of(parsed(file)):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MOST_LINES_OF_A_FUNCTION, f"{function.name} has {length} lines"


@code_file
def test_nothing_is_opened_on_import(file: Path) -> None:
    """No call at module level makes a client, an engine, a loop, a socket or a file."""
    opening = {"AsyncClient", "Client", "create_engine", "new_event_loop", "get_event_loop", "socket", "open"}
    for node in parsed(file).body:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr):
            for call in ast.walk(node):
                if isinstance(call, ast.Call):
                    called = call.func
                    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                    assert name not in opening, f"{file.name}:{call.lineno}: {name} at import"


@code_file
def test_only_the_database_commits(file: Path) -> None:
    """A commit beside `Database` would not be rolled back, logged and answered as one."""
    if name_of(file) == "services.database":
        return
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in ("commit", "rollback"), f"{file.name}:{node.lineno}"


@script_file
def test_the_load_script_knows_gateways_by_http_only(file: Path) -> None:
    for imported, line in imports_of(parsed(file)):
        own = imported.split(".")[0]
        assert own not in ("backend", "tests", "benchmarks", "run"), f"{file.name}:{line}: {imported}"


@script_file
def test_the_load_script_stays_readable(file: Path) -> None:
    assert ast.get_docstring(parsed(file)), f"{identifier(file)} does not start with a docstring"
    assert len(file.read_text("utf-8").splitlines()) <= MOST_LINES_OF_THE_SCRIPT
    for function in functions_of(parsed(file)):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MOST_LINES_OF_ITS_FUNCTIONS, f"{function.name} has {length} lines"
