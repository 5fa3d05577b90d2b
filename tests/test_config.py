"""Settings: their defaults, their sources, and what is said of a bad one."""

import json
import os
from pathlib import Path

import pytest

from backend.config import Settings, SettingsError, load
from tests.support.environment import SECRET, problem
from tests.support.gateway import mount


def test_no_environment_at_all_gives_the_defaults() -> None:
    settings = load({}, None)
    assert (settings.host, settings.port, settings.workers, settings.server) == (
        "127.0.0.1",
        8203,
        1,
        "hypercorn",
    )
    assert settings.avatar_service_url == ("http://127.0.0.1:8606",)
    assert settings.avatar_instance_ports == (8615, 8714)
    assert settings.gateway_mounts == ()


def test_an_upstreams_own_http_version_wins_however_its_address_is_spelled() -> None:
    mounts = [mount("/live", "https://Live.example:443/base", http_version="1.1")]
    settings = load(
        {"GATEWAY_HTTP_VERSIONS": "http://llm=2, https://rag:8443=auto"}, None, gateway_mounts=mounts
    )
    urls = (
        "http://LLM:80",
        "https://rag:8443/x",
        "https://live.example",
        "http://live.example",
        "https://llm",
    )
    assert [settings.http_version_of(url) for url in urls] == ["2", "auto", "1.1", "auto", "auto"]


def test_every_service_and_mount_takes_several_addresses() -> None:
    two = "http://a:1/base/, http://b:2/base"
    names = ("AVATAR_SERVICE_URL", "AVATAR_MANAGER_URL", "LLM_URL", "RAG_URL")
    mounts = [mount("/m", two, http_version="2"), mount("/n", ["http://c:3", "http://d:4"])]
    settings = load(
        {**dict.fromkeys(names, two), "GATEWAY_MOUNTS": json.dumps([dict(one) for one in mounts])}, None
    )
    both = ("http://a:1/base", "http://b:2/base")
    assert {getattr(settings, name.lower()) for name in names} == {both}
    assert [one.upstream for one in settings.gateway_mounts] == [both, ("http://c:3", "http://d:4")]
    assert [settings.http_version_of(url) for url in (*both, "http://c:3")] == ["2", "2", "auto"]


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("PORT", "eighty", "integer"),
        ("PORT", "65536", "65535"),
        ("PORT", "-1", "0"),
        ("WORKERS", "0", "1"),
        ("WORKERS", "65", "64"),
        ("SERVER", "uvicorn", "'hypercorn' or 'granian'"),
        ("AVATAR_SERVICE_URL", "127.0.0.1:8606", "http://host:port"),
        ("AVATAR_SERVICE_URL", "http://a:1,ftp://b", "http://host:port"),
        ("AVATAR_SERVICE_URL", " , ", "at least one http://host:port"),
        ("AVATAR_MANAGER_URL", "http://", "http://host:port"),
        ("AVATAR_MANAGER_URL", "http://a?x=1", "neither query, fragment nor credentials"),
        ("LLM_URL", f"http://user:{SECRET}@llm:1", "neither query, fragment nor credentials"),
        ("LLM_URL", "http://llm:99999", "Port out of range"),
        ("RAG_URL", "http://rag:http", "Port"),
        ("AVATAR_INSTANCE_PORTS", "8714-8615", "lower one first"),
        ("AVATAR_INSTANCE_PORTS", "0-10", "1 to 65535"),
        ("AVATAR_INSTANCE_PORTS", "8615:8714", "8615-8714"),
        ("UPSTREAM_TRANSPORT", "curl", "'direct', 'reqwest' or 'httpx'"),
        ("UPSTREAM_HTTP_VERSION", "3", "'auto', '1.1' or '2'"),
        ("UPSTREAM_MAX_CONNECTIONS", "0", "1"),
        ("GATEWAY_HTTP_VERSIONS", "http://llm:1", "the form http://host:port=2"),
        ("GATEWAY_HTTP_VERSIONS", "http://llm:1=3", "auto, 1.1 or 2"),
        ("GATEWAY_HTTP_VERSIONS", "llm:1=2", "http://host:port"),
        ("GATEWAY_HTTP_VERSIONS", "http://llm=2,http://LLM:80=1.1", "one HTTP version"),
        ("GATEWAY_HTTP2_CONNECTIONS", "0", "1"),
        ("GATEWAY_PING_SECONDS", "0", "greater than 0"),
        ("UPSTREAM_KEEPALIVE_SECONDS", "0", "greater than 0"),
        ("GATEWAY_DRAIN_SECONDS", "soon", "number"),
        ("GATEWAY_DRAIN_SECONDS", "nan", "86400"),
        ("GATEWAY_DRAIN_SECONDS", "inf", "86400"),
        ("SLOW_REQUEST_SECONDS", "-1", "greater than 0"),
        ("GATEWAY_VIEW_THREADS", "0", "1"),
        ("GATEWAY_UVLOOP", "perhaps", "boolean"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("JWT_SECRET_KEY", "short", "at least 32 bytes"),
        ("CORS_ORIGINS", "app.example", "https://host"),
        ("CORS_ORIGINS", "https://app.example/path", "https://host"),
        ("CORS_ORIGINS", "*", "https://host"),
        ("GATEWAY_MOUNTS", "/api/live=http://a", "JSON list"),
        ("GATEWAY_MOUNTS", "{}", "list"),
        ("GATEWAY_TLS_CERT", "/no/such/cert.pem", "a file that exists"),
        ("GATEWAY_TLS_KEY", __file__, "GATEWAY_TLS_CERT"),
        ("AVATAR_MANAGER_URL", "http://a:1/one, http://b:1/two", "one and the same path"),
        ("LLM_URL", "http://a:1/one, http://b:1/two", "one and the same path"),
        ("RAG_URL", ",".join(f"http://h{number}:1" for number in range(33)), "32 addresses"),
        ("GATEWAY_CHECK_SECONDS", "0", "0.1"),
        ("GATEWAY_CHECK_SECONDS", "never", "number"),
    ],
)
def test_a_bad_value_is_named_with_its_allowed_form(name: str, value: str, form: str) -> None:
    message = problem(**{name: value})
    assert name in message
    assert form in message
    assert len(message.splitlines()) == 1
    assert SECRET not in message
    assert "pydantic" not in message


def test_every_problem_is_told_at_once() -> None:
    message = problem(PORT="x", WORKERS="0", LLM_URL="llm", GATEWAY_COLOUR="red", JWT_SECRET_KEY="short")
    lines = message.splitlines()
    for name in ("GATEWAY_COLOUR", "PORT", "WORKERS", "LLM_URL", "JWT_SECRET_KEY"):
        assert sum(line.startswith(name + ":") for line in lines) == 1, message
    assert len(lines) == 5


def test_an_unknown_gateway_key_is_refused_and_the_known_ones_are_named() -> None:
    message = problem(GATEWAY_DRAIN_SECOND="5")
    assert message.startswith("GATEWAY_DRAIN_SECOND: unknown setting")
    assert "GATEWAY_DRAIN_SECONDS" in message


def test_the_environment_of_others_is_none_of_our_business() -> None:
    assert load({"PATH": "/bin", "COLOUR": "red", "MY_GATEWAY_KEY": "1"}, None) == load({}, None)


def test_an_empty_value_is_the_default() -> None:
    assert load({"PORT": "", "JWT_SECRET_KEY": ""}, None) == load({}, None)


def test_the_option_wins_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "PORT=1001\nWORKERS=2\nLOG_LEVEL=ERROR\n# a comment\nCORS_ORIGINS='https://a.example, https://b.example'\n"
    )
    settings = load({"PORT": "1002", "WORKERS": "3"}, file, port=1003, workers=None)
    assert (settings.port, settings.workers, settings.log_level) == (1003, 3, "ERROR")
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_the_file_beside_the_start_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1004\n")
    monkeypatch.chdir(tmp_path)
    assert load({}).port == 1004


def test_an_unknown_key_of_the_file_is_refused_too(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("GATEWAY_COLOUR=red\n")
    with pytest.raises(SettingsError, match="GATEWAY_COLOUR: unknown setting"):
        load({}, file)


def test_a_missing_file_is_no_problem(tmp_path: Path) -> None:
    assert load({}, tmp_path / "none") == load({}, None)


def test_reading_leaves_the_process_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    (tmp_path / ".env").write_text("PORT=1005\n")
    load({}, tmp_path / ".env")
    assert dict(os.environ) == before


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}, None).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.7", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_which_hosts_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert load({}, None, host=host).loopback is loopback


def test_each_setting_is_explained() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", ";", "both")), name


@pytest.mark.parametrize(
    "value", ["off", "console", "file:/srv/traces.jsonl", "http://127.0.0.1:4318/v1/traces"]
)
def test_traces_go_to_one_of_four_places(value: str) -> None:
    assert load({"GATEWAY_TRACES": value}, None).gateway_traces == value


@pytest.mark.parametrize(
    "value", ["on", "file:", "ftp://x", "http://", "http://u:p@host/", "http://host/?x=1"]
)
def test_traces_go_nowhere_else(value: str) -> None:
    with pytest.raises(SettingsError, match="GATEWAY_TRACES: "):
        load({"GATEWAY_TRACES": value}, None)
