"""Planted faults: the doctor finds each, and names what helps."""

import contextlib
import json
import os
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from backend import doctor
from backend.config import Settings
from backend.services import diagnosis
from backend.services.database import Database, attach, upgrade
from backend.services.diagnosis import Finding, findings
from tests.support.gateway import mount, settings_for
from tests.support.ports import free_port
from tests.support.tls import certificate


@contextlib.contextmanager
def listening(answer: bytes = b"") -> Iterator[int]:
    """A port that takes connections and, when it has one, gives each the same answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def serve() -> None:
            server.settimeout(0.05)
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(1)
                        connection.recv(4096)
                        if answer:
                            connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


OK_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def examined(folder: Path, **over: Any) -> dict[str, Finding]:
    """What the doctor says of a gateway with these settings, by what it looked at; the worst of each."""
    app = Flask("test")
    settings: Settings = settings_for(folder, **({"port": free_port()} | over))
    engine = attach(app, settings)
    try:
        found = findings(settings, Database(engine, threads=1))
    finally:
        engine.dispose()
    worst: dict[str, Finding] = {}
    for finding in sorted(found, key=lambda one: ("ok", "warning", "fault").index(one.state)):
        worst[finding.what] = finding
    return worst


@pytest.fixture
def services() -> Iterator[dict[str, Any]]:
    """Settings that lead to services which answer."""
    with listening(OK_ANSWER) as port:
        url = f"http://127.0.0.1:{port}"
        yield {"avatar_service_url": url, "avatar_manager_url": url, "llm_url": url, "rag_url": url}


def test_gateway_without_a_fault_is_called_well(tmp_path: Path, services: dict[str, Any]) -> None:
    found = examined(tmp_path, gateway_uvloop=True, **services)
    assert [one for one in found.values() if one.state == "fault"] == []
    assert {"port", "open files", "uvloop", "database", "redis", "catalogue", "chat model"} <= set(found)
    assert all(one.remedy for one in found.values() if one.state != "ok")


def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))


def no_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "find_spec", lambda _: None)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))


def read_only_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis.os, "access", lambda _, mode: not mode & os.W_OK)


NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("what", "state", "remedy", "over"),
    [
        ("catalogue", "fault", "AVATAR_SERVICE_URL", {"avatar_service_url": f"http://{NOWHERE}"}),
        ("manager", "fault", "AVATAR_MANAGER_URL", {"avatar_manager_url": f"http://{NOWHERE}"}),
        ("chat model", "fault", "LLM_URL", {"llm_url": f"http://{NOWHERE}"}),
        ("retrieval", "warning", "RAG_URL", {"rag_url": f"http://{NOWHERE}"}),
        ("redis", "fault", "REDIS_URL", {"redis_url": f"redis://:very-secret@{NOWHERE}/0"}),
        ("mail", "fault", "SMTP_URL", {"smtp_url": f"smtp://me:very-secret@{NOWHERE}"}),
        ("mail", "warning", "SMTP_URL", {"host": "0.0.0.0"}),
        ("database", "fault", "DATABASE_URL", {"database_url": f"postgresql://me:very-secret@{NOWHERE}/x"}),
        ("uvloop", "warning", "GATEWAY_UVLOOP", {"gateway_uvloop": False}),
    ],
)
def test_service_that_does_not_answer_is_found_with_the_setting_that_leads_to_it(
    tmp_path: Path, services: dict[str, Any], what: str, state: str, remedy: str, over: dict[str, Any]
) -> None:
    found = examined(tmp_path, **(services | over))
    assert (found[what].state, remedy in found[what].remedy) == (state, True), found[what]
    assert "very-secret" not in str(found)
    others = {name for name, one in found.items() if one.state == "fault" and name != what}
    assert others == set()


@pytest.mark.parametrize(
    ("what", "setting"),
    [
        ("catalogue", "avatar_service_url"),
        ("manager", "avatar_manager_url"),
        ("chat model", "llm_url"),
        ("retrieval", "rag_url"),
    ],
)
def test_every_address_of_a_service_is_looked_at(
    tmp_path: Path, services: dict[str, Any], what: str, setting: str
) -> None:
    for urls in (f"{services[setting]},http://{NOWHERE}", f"http://{NOWHERE},{services[setting]}"):
        found = examined(tmp_path, **(services | {setting: urls}))[what]
        assert (found.state, NOWHERE in found.told) != ("ok", False), found
        assert setting.upper() in found.remedy


@pytest.mark.parametrize(
    ("what", "state", "remedy", "plant"),
    [
        ("open files", "fault", "ulimit -Hn", few_files),
        ("uvloop", "warning", "install_async_deps.sh", no_uvloop),
        ("files", "fault", "GATEWAY_FILES_DIR", full_disk),
        ("instance folder", "fault", "chown", read_only_disk),
        ("files", "fault", "chown", read_only_disk),
    ],
)
def test_fault_of_the_machine_is_found_with_its_remedy(
    tmp_path: Path,
    services: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    state: str,
    remedy: str,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    plant(monkeypatch)
    found = examined(tmp_path, **services)[what]
    assert (found.state, remedy in found.remedy) == (state, True), found


def test_port_that_somebody_else_has_is_a_fault_and_one_that_a_gateway_has_is_not(
    tmp_path: Path, services: dict[str, Any]
) -> None:
    with listening(b"220 something else\r\n") as taken:
        found = examined(tmp_path, port=taken, **services)["port"]
        assert (found.state, "ss -ltnp" in found.remedy) == ("fault", True)
    with listening(OK_ANSWER) as ours:
        assert examined(tmp_path, port=ours, **services)["port"].state == "ok"


def test_service_that_answers_with_errors_is_a_fault(tmp_path: Path, services: dict[str, Any]) -> None:
    with listening(OK_ANSWER.replace(b"200 OK", b"500 No")) as port:
        found = examined(tmp_path, **(services | {"llm_url": f"http://127.0.0.1:{port}"}))
    assert (found["chat model"].state, "500" in found["chat model"].told) == ("fault", True)


def test_redis_that_wants_another_password_is_a_fault(tmp_path: Path, services: dict[str, Any]) -> None:
    with listening(b"-WRONGPASS invalid\r\n") as port:
        found = examined(tmp_path, redis_url=f"redis://:wrong@127.0.0.1:{port}", **services)["redis"]
    assert (found.state, "password" in found.remedy) == ("fault", True)
    with listening(b"+PONG\r\n") as port:
        assert examined(tmp_path, redis_url=f"redis://127.0.0.1:{port}", **services)["redis"].state == "ok"


def test_certificate_near_its_end_is_a_fault(
    tmp_path: Path, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = certificate(tmp_path)
    tls = {"gateway_tls_cert": made.cert, "gateway_tls_key": made.key}
    good = ssl._ssl._test_decode_cert(str(made.cert))  # type: ignore[attr-defined]
    end = ssl.cert_time_to_seconds(good["notAfter"])
    monkeypatch.setattr(diagnosis.time, "time", lambda: end - 3 * 86_400)
    found = examined(tmp_path, **services, **tls)["TLS"]
    assert (found.state, "3 days" in found.told) == ("fault", True)
    monkeypatch.setattr(diagnosis.time, "time", lambda: end - 300 * 86_400)
    assert examined(tmp_path, **services, **tls)["TLS"].state == "ok"


def test_database_with_tables_is_told_from_an_empty_one(tmp_path: Path, services: dict[str, Any]) -> None:
    assert "empty" in examined(tmp_path, **services)["database"].told
    app = Flask("test")
    engine = attach(app, settings_for(tmp_path))
    upgrade(app)
    engine.dispose()
    assert "revision" in examined(tmp_path, **services)["database"].told


def test_key_of_one_machine_beside_a_database_for_several_is_told(
    tmp_path: Path, services: dict[str, Any]
) -> None:
    over = {"jwt_secret_key": None, "database_url": f"postgresql://me@{NOWHERE}/x"}
    found = examined(tmp_path, **services, **over)["signing key"]
    assert (found.state, "JWT_SECRET_KEY" in found.remedy) == ("warning", True)


@pytest.mark.parametrize(
    ("server", "websocket", "told"),
    [("granian", True, "733 MB a worker for the 5,005"), ("granian", False, None), ("hypercorn", True, None)],
)
def test_what_websockets_may_take_on_granian_is_told(
    tmp_path: Path, services: dict[str, Any], server: str, websocket: bool, told: str | None
) -> None:
    mounts = [
        mount(f"/{most}", f"http://{NOWHERE}", websocket=websocket, max_sockets=most) for most in (5000, 5)
    ]
    found = examined(tmp_path, server=server, gateway_mounts=mounts, **services).get("WebSockets")
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert (found.state, told in found.told) == ("warning", True)
        assert "SERVER=hypercorn" in found.remedy


def old_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_days_left", lambda _: -1.0)


BAD_ANSWER = OK_ANSWER.replace(b"200 OK", b"500 No")
HTTP = "http://127.0.0.1:{port}"
Plant = Callable[[pytest.MonkeyPatch], None]
# What the doctor calls it, a word of the remedy, and how it comes about: settings with {port} for a port that
# answers so, or something about the machine.
PLANTED: dict[str, tuple[str, str, dict[str, Any], bytes, Plant | None]] = {
    "port is another program's": ("port", "ss -ltnp", {"port": "{port}"}, b"220 mail\r\n", None),
    "few open files": ("open files", "LimitNOFILE", {}, b"", few_files),
    "disk is full": ("files", "GATEWAY_FILES_DIR", {}, b"", full_disk),
    "folder is another user's": ("instance folder", "chown", {}, b"", read_only_disk),
    "certificate has ended": ("TLS", "Renew", {"tls": True}, b"", old_certificate),
    "no catalogue": (
        "catalogue",
        "AVATAR_SERVICE_URL",
        {"avatar_service_url": f"http://{NOWHERE}"},
        b"",
        None,
    ),
    "no manager": ("manager", "AVATAR_MANAGER_URL", {"avatar_manager_url": f"http://{NOWHERE}"}, b"", None),
    "manager fails": ("manager", "its log", {"avatar_manager_url": HTTP}, BAD_ANSWER, None),
    "no chat model": ("chat model", "LLM_URL", {"llm_url": f"http://{NOWHERE}"}, b"", None),
    "no redis": ("redis", "REDIS_URL", {"redis_url": f"redis://{NOWHERE}"}, b"", None),
    "redis wants another password": (
        "redis",
        "password in REDIS_URL",
        {"redis_url": "redis://:wrong@127.0.0.1:{port}"},
        b"-WRONGPASS invalid\r\n",
        None,
    ),
    "no mail server": ("mail", "SMTP_URL", {"smtp_url": f"smtp://{NOWHERE}"}, b"", None),
    "no database": ("database", "DATABASE_URL", {"database_url": f"postgresql://me@{NOWHERE}/x"}, b"", None),
}


def test_command_ends_with_0_where_nothing_is_wrong(tmp_path: Path, services: dict[str, Any]) -> None:
    assert told_by_command(tmp_path, services) == (0, {})


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_fault_is_named_with_its_remedy_alone_and_ends_the_command_with_1(
    tmp_path: Path, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    what, remedy, over, answer, plant = PLANTED[fault]
    if plant is not None:
        plant(monkeypatch)
    with listening(answer) as port:
        over = {name: v.format(port=port) if isinstance(v, str) else v for name, v in over.items()}
        if over.pop("tls", False):
            made = certificate(tmp_path)
            over |= {"gateway_tls_cert": made.cert, "gateway_tls_key": made.key}
        code, faults = told_by_command(tmp_path, services | over)
    assert code == 1
    assert remedy in faults.pop(what)
    # A disk is that of both folders.
    assert set(faults) <= {"files", "instance folder"}
    assert not faults or what in ("files", "instance folder")


def test_faults_that_are_there_together_are_all_named(
    tmp_path: Path, services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    few_files(monkeypatch)
    names = ("no catalogue", "no manager", "no chat model", "no redis", "no mail server", "no database")
    over = {name: value for fault in names for name, value in PLANTED[fault][2].items()}
    code, faults = told_by_command(tmp_path, services | over)
    assert (code, set(faults)) == (1, {"open files", *(PLANTED[name][0] for name in names)})


def told_by_command(folder: Path, over: dict[str, Any]) -> tuple[int, dict[str, str]]:
    """Run the command as Flask does; return its exit code, and the remedy of every fault."""
    app = Flask("test")
    settings = settings_for(folder, **({"port": free_port(), "gateway_uvloop": True} | over))
    engine = attach(app, settings)
    app.extensions["gateway"] = SimpleNamespace(settings=settings, database=Database(engine, threads=1))
    doctor.register(app)
    try:
        with app.app_context():
            ended = app.test_cli_runner().invoke(args=["doctor", "--json"])
    finally:
        engine.dispose()
    assert ended.stdout, ended
    rows = json.loads(ended.stdout)
    return ended.exit_code, {row["what"]: row["remedy"] for row in rows if row["state"] == "fault"}
