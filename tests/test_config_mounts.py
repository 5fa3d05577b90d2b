"""Settings of mounts: each is named with its place, and none shadows a route."""

import json
from pathlib import Path
from typing import Any

import pytest

from backend.app import create_app
from backend.config import SettingsError
from tests.support.environment import problem
from tests.support.gateway import mount, settings_for


def test_two_mounts_of_one_upstream_need_one_http_version() -> None:
    mounts = [mount("/a", "http://x:1", http_version="2"), mount("/b", "http://x:1/base", http_version="1.1")]
    assert "one HTTP version for all of http://x:1/base" in problem(GATEWAY_MOUNTS=json.dumps(mounts))


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
