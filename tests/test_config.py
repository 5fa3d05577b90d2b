import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.app import create_app
from backend.config import Settings, SettingsError, load
from tests.support.gateway import mount, settings_for

SECRET = "s3cr3t-that-nobody-may-see"


def problem(**environ: str) -> str:
    """What the settings' reader says about an environment."""
    with pytest.raises(SettingsError) as caught:
        load(environ, None)
    return str(caught.value)


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


def test_two_mounts_of_one_upstream_need_one_http_version() -> None:
    mounts = [mount("/a", "http://x:1", http_version="2"), mount("/b", "http://x:1/base", http_version="1.1")]
    assert "one HTTP version for all of http://x:1/base" in problem(GATEWAY_MOUNTS=json.dumps(mounts))


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


@pytest.mark.parametrize(
    ("change", "place", "form"),
    [
        ({"prefix": "api/live"}, "prefix", "/api/live"),
        ({"prefix": "/a/../b"}, "prefix", "/api/live"),
        ({"prefix": "/a/"}, "prefix", "/api/live"),
        ({"prefix": "/a//b"}, "prefix", "/api/live"),
        ({"prefix": "/<path:x>"}, "prefix", "/api/live"),
        ({"prefix": "/"}, "prefix", "/api/live"),
        ({"upstream": "127.0.0.1"}, "upstream", "http://host:port"),
        ({"auth": "maybe"}, "auth", "'required', 'optional' or 'none'"),
        ({"methods": ["FETCH"]}, "methods", "'GET'"),
        ({"max_body_mb": -1}, "max_body_mb", "0"),
        ({"timeout": 0}, "timeout", "greater than 0"),
        ({"colour": "red"}, "colour", "not permitted"),
    ],
)
def test_a_bad_mount_is_named_with_its_place(change: dict[str, Any], place: str, form: str) -> None:
    good = dict(mount("/good", "http://a:1"))
    message = problem(GATEWAY_MOUNTS=json.dumps([good, dict(mount("/b", "http://a:1")) | change]))
    assert f"GATEWAY_MOUNTS [1.{place}" in message
    assert form in message


@pytest.mark.parametrize("missing", ["prefix", "upstream", "auth"])
def test_a_mount_must_say_where_whence_and_for_whom(missing: str) -> None:
    entry = {key: value for key, value in mount("/m", "http://a:1").items() if key != missing}
    assert f"[0.{missing}]: Field required" in problem(GATEWAY_MOUNTS=json.dumps([entry]))


def test_two_mounts_of_one_prefix_are_refused() -> None:
    entry = dict(mount("/m", "http://a:1"))
    assert "different prefix" in problem(GATEWAY_MOUNTS=json.dumps([entry, entry]))


@pytest.mark.parametrize(
    "prefix",
    ["/api", "/api/login", "/api/avatar", "/api/avatar/list", "/api/webrtc", "/api/webrtc/x", "/api/ping"],
)
def test_a_mount_that_would_shadow_a_route_is_refused(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(SettingsError, match=f"GATEWAY_MOUNTS: {prefix} would shadow /api"):
        create_app(settings_for(tmp_path, gateway_mounts=[mount(prefix, "http://a:1")]))


@pytest.mark.parametrize("prefix", ["/api/live", "/api/avatars", "/live", "/apis"])
def test_a_mount_beside_the_routes_is_taken(tmp_path: Path, prefix: str) -> None:
    create_app(settings_for(tmp_path, gateway_mounts=[mount(prefix, "http://a:1")]))


def test_one_mount_inside_another_is_told(tmp_path: Path) -> None:
    """Longer prefixes win by themselves: both are usable."""
    app = create_app(
        settings_for(
            tmp_path, gateway_mounts=[mount("/live", "http://a:1"), mount("/live/inner", "http://b:1")]
        )
    )
    match = app.flask.url_map.bind("x").match
    assert match("/live/x")[0] != match("/live/inner/x")[0]


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


@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "DATABASE_URL", "REDIS_URL", "SMTP_URL"])
def test_secrets_are_never_printed(name: str) -> None:
    scheme = {"REDIS_URL": "redis", "SMTP_URL": "smtp"}.get(name, "postgresql")
    place = {"REDIS_URL": "db/1", "SMTP_URL": "db"}.get(name, "db/gateway")
    value = f"{scheme}://gateway:{SECRET}{SECRET}@{place}"
    settings = load({name: value}, None)
    assert SECRET not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert SECRET not in problem(**{name: value, "PORT": "x"})


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@mail.example",
        f"smtp://user:{SECRET}/more@mail.example",
        f"smtp://user:{SECRET}#more@mail.example",
        f"smtp://user:{SECRET}@mail.example:port",
        f"smtp://user:{SECRET}@mail.example:0",
        f"smtp://user:{SECRET}@mail.example/path",
        f"smtp://user:{SECRET}@",
        f"smtp://[{SECRET}",
        f"smtp://{SECRET}@mail.example",
        f"smtp://user:{SECRET} {SECRET}@mail.example",
        SECRET,
    ],
)
def test_a_mail_server_that_is_none_is_refused_without_showing_its_password(url: str) -> None:
    said = problem(SMTP_URL=url)
    assert said.startswith("SMTP_URL: needs ")
    assert SECRET not in said


@pytest.mark.parametrize("url", ["smtp://mail", "smtp://u:p%40ss@mail.example:25", "smtps://u:p@[::1]:465"])
def test_mail_servers_that_are_some(url: str) -> None:
    assert load({"SMTP_URL": url}, None).smtp_url is not None


@pytest.mark.parametrize(
    "sender", ["nobody", "a b@c.de", "a@b\r\nBcc: c@d.ef", "Name <a@b.co>", "a@b@c.de", ".a@b.co", "a@-b.co"]
)
def test_a_sender_that_could_be_another_header_is_refused(sender: str) -> None:
    assert problem(GATEWAY_MAIL_FROM=sender).startswith(
        "GATEWAY_MAIL_FROM: needs the form name@place.example"
    )


def test_a_database_of_another_kind_is_refused_without_showing_its_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(settings_for(tmp_path, database_url=f"mysql://u:{SECRET}@db/x"))
    assert "DATABASE_URL" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%40ss@10.0.0.1:6380/15",
        "rediss://user:pw@redis.example:6379/0?ssl_ca_certs=/etc/ca.pem&ssl_cert_reqs=required",
        "redis://[::1]:6379",
    ],
)
def test_address_of_a_redis_is_taken(url: str) -> None:
    found = load({"REDIS_URL": f" {url} "}, None).redis_url
    assert found is not None
    assert found.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        f"localhost:6379/{SECRET}",
        f"http://:{SECRET}@localhost:6379/0",
        f"redis://:{SECRET}@:6379/0",
        f"redis://:{SECRET}@localhost:port/0",
        f"redis://:{SECRET}@localhost:70000/0",
        f"redis://:{SECRET}@localhost/database",
        f"redis://:{SECRET}@localhost/0#x",
        # Any of the client's own options would do away with the limits on waiting.
        f"redis://:{SECRET}@localhost/0?socket_timeout=600",
        f"redis://:{SECRET}@[::1/0",
    ],
)
def test_bad_address_of_a_redis_is_named_without_showing_it(url: str) -> None:
    told = problem(REDIS_URL=url)
    assert told.startswith("REDIS_URL: ")
    assert SECRET not in told


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


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_any_ordered_pair_of_ports_is_a_range(one: int, other: int) -> None:
    first, last = sorted((one, other))
    assert load({"AVATAR_INSTANCE_PORTS": f" {first} - {last} "}, None).avatar_instance_ports == (first, last)
    if first < last:
        assert "lower one first" in problem(AVATAR_INSTANCE_PORTS=f"{last}-{first}")


any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def read_or_refused(name: str, text: str) -> Settings | str:
    try:
        return load({name: text}, None)
    except SettingsError as error:
        return str(error)


@given(any_text | st.from_regex(r"[0-9 -]{1,12}", fullmatch=True))
def test_any_text_is_a_port_range_or_is_told_the_form(text: str) -> None:
    result = read_or_refused("AVATAR_INSTANCE_PORTS", text)
    if isinstance(result, str):
        assert result.startswith("AVATAR_INSTANCE_PORTS: needs")
    else:
        first, last = result.avatar_instance_ports
        assert 1 <= first <= last <= 65535


bases = st.sampled_from(["", "/", "/base", "/a/b/"])
hosts = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,8})?", fullmatch=True)


@given(
    st.sampled_from(["http", "https"]),
    hosts,
    st.integers(1, 65535),
    st.sampled_from(["", "/", "/base", "/a/b/"]),
)
def test_urls_lose_their_last_slash_and_nothing_else(scheme: str, host: str, port: int, path: str) -> None:
    url = f"{scheme}://{host}:{port}{path}"
    assert load({"LLM_URL": url}, None).llm_url == (url.rstrip("/"),)
    assert load({"AVATAR_SERVICE_URL": f"{url}, {url}"}, None).avatar_service_url == (url.rstrip("/"),) * 2


@given(any_text.map(lambda text: "http://" + text) | any_text)
def test_any_text_is_a_plain_url_or_is_told_the_form(text: str) -> None:
    result = read_or_refused("LLM_URL", text)
    if isinstance(result, str):
        assert result.startswith("LLM_URL: ")
        assert len(result.splitlines()) == 1
    else:
        assert all(re.fullmatch(r"https?://[\x21-\x7e]+", url) for url in result.llm_url)


@given(any_text | st.recursive(st.none() | st.integers() | any_text, st.lists).map(json.dumps))
def test_any_text_is_a_list_of_mounts_or_is_told_the_form(text: str) -> None:
    result = read_or_refused("GATEWAY_MOUNTS", text)
    assert result.startswith("GATEWAY_MOUNTS") if isinstance(result, str) else result.gateway_mounts == ()


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
