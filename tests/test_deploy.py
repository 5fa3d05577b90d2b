"""What an operator copies out of `deploy/` works: checked by the programs that it is meant for."""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from backend.config import Settings, load
from tests.support.demo import Demo, demo
from tests.support.gateway import ROOT, clean_environment
from tests.support.peer import until
from tests.support.ports import free_port
from tests.support.processes import refuses
from tests.support.tls import certificate

DEPLOY = ROOT / "deploy"
NGINX = "/usr/sbin/nginx"
# What a distribution's nginx.conf has around the files of conf.d.
FRAME = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/avatar-gateway.conf;
}}
"""


def instructions() -> list[tuple[str, str]]:
    """The lines of the container file: (word, the rest), continued lines as one."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the last stage of the image has in /app, made as the container file says."""
    app = tmp_path / "app"
    app.mkdir()
    last = [number for number, (word, _) in enumerate(instructions()) if word == "FROM"][-1]
    for word, rest in instructions()[last:]:
        if word != "COPY":
            continue
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            assert sources[1:] == ["/app/.venv"]
            (app / target).symlink_to(sys.prefix)
            continue
        for source in sources:
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, app / target, ignore=ignored)
            else:
                shutil.copy(ROOT / source, app / target)
    return app


def image_environment() -> dict[str, str]:
    (settings,) = [rest for word, rest in instructions() if word == "ENV"]
    return dict(part.split("=", 1) for part in shlex.split(settings))


@pytest.mark.asyncio
async def test_what_the_image_holds_serves_and_its_health_check_agrees(image: Path, tmp_path: Path) -> None:
    words = dict(instructions())
    command = [*json.loads(words["ENTRYPOINT"]), *json.loads(words["CMD"])]
    check = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    port = str(free_port())
    inside = {"HOST": "127.0.0.1", "PORT": port, "GATEWAY_INSTANCE_DIR": str(tmp_path / "data")}
    environment = clean_environment(**(image_environment() | inside))
    environment.pop("PYTHONPATH", None)
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=image, env=environment, stdout=out, stderr=out)
    try:

        async def healthy() -> bool:
            assert process.poll() is None, log.read_text()
            asked = await asyncio.create_subprocess_exec(
                *check, cwd=image, env=environment, stderr=asyncio.subprocess.DEVNULL
            )
            return await asked.wait() == 0

        async with asyncio.timeout(60):
            while not await healthy():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.2)
        async with httpx.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"http://127.0.0.1:{port}/docs")).status_code == 200, "a page was left out"
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(10)
    assert all(json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))


def test_image_is_no_roots_and_every_file_it_is_made_of_exists() -> None:
    words = [word for word, _ in instructions()]
    assert dict(instructions())["USER"] == "gateway"
    assert words.index("USER") < words.index("ENTRYPOINT")
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1]), rest
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "instance"} <= set(ignored), "secrets and builds of this machine stay outside"


def test_compose_file_gives_the_gateway_settings_that_it_takes() -> None:
    told = {"JWT_SECRET_KEY": "k" * 40, "DATABASE_PASSWORD": "secret"}
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: told[found[1]], (DEPLOY / "compose.yaml").read_text())
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    gateway = services["gateway"]
    settings = load(gateway["environment"] | image_environment(), None)
    assert settings.avatar_instance_host == "avatars.example.org"
    assert (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).is_file()
    assert set(gateway["depends_on"]) < set(services)
    assert outlasts_the_drain(gateway["stop_grace_period"], settings)
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"]), "a proxy with TLS stands in front"


def outlasts_the_drain(told: str, settings: Settings) -> bool:
    return float(told.removesuffix("s")) >= settings.gateway_drain_seconds + 10


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, of the package systemd")
    python = f"{sys.prefix}/bin/python"
    text = (DEPLOY / "avatar-gateway.service").read_text()
    assert "/opt/avatar-gateway/.venv/bin/python" in text
    unit = tmp_path / "avatar-gateway.service"
    unit.write_text(text.replace("/opt/avatar-gateway/.venv/bin/python", python))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    own = [line for line in checked.stderr.splitlines() if unit.name in line]
    assert (checked.returncode, own) == (0, [])
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert outlasts_the_drain(stop, load({}, None))
    (start,) = re.findall(r"^ExecStart=\S+ (.+)$", text, re.M)
    shown = subprocess.run(
        [python, *start.split(), "--help"], cwd=ROOT, capture_output=True, timeout=60, check=True
    )
    assert b"--workers" in shown.stdout


def have_nginx() -> None:
    if not os.access(NGINX, os.X_OK):
        missing = "nginx is not installed; on Debian as root: apt-get install nginx-light"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@contextlib.contextmanager
def nginx(folder: Path, gateway_port: int) -> Iterator[int]:
    """Run nginx with the file of `deploy/`, other ports and the test's own certificate; give its port."""
    made = certificate(folder)
    port = free_port()
    text = (DEPLOY / "nginx.conf").read_text()
    for written, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("server 127.0.0.1:8203", f"server 127.0.0.1:{gateway_port}"),
        ("/etc/ssl/gateway/chain.pem", str(made.cert)),
        ("/etc/ssl/gateway/key.pem", str(made.key)),
    ):
        assert written in text
        text = text.replace(written, here)
    (folder / "avatar-gateway.conf").write_text(text)
    (folder / "nginx.conf").write_text(FRAME.format(folder=folder))
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while refuses(port):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextlib.asynccontextmanager
async def behind_nginx(folder: Path) -> AsyncIterator[tuple[Demo, httpx.AsyncClient]]:
    """A demo behind nginx, and a browser-like client of it that trusts the test's certificate."""
    async with demo(folder, "--demo-latency=0.1") as running:
        with nginx(folder, running.port) as port:
            context = certificate(folder, "other").context()
            context.load_verify_locations(folder / "server.pem")
            base = f"https://127.0.0.1:{port}"
            async with httpx.AsyncClient(
                base_url=base, verify=context, http2=True, trust_env=False, timeout=30
            ) as http:
                http.headers["Authorization"] = running.http.headers["Authorization"]
                yield running, http


@pytest.mark.asyncio
async def test_nginx_passes_streams_word_by_word_and_tells_the_same_request_id(tmp_path: Path) -> None:
    have_nginx()
    async with behind_nginx(tmp_path) as (running, http):
        listed = await http.get("/api/avatar/list")
        assert (listed.status_code, listed.http_version) == (200, "HTTP/2")
        assert re.fullmatch(r"[0-9a-f]{32}", listed.headers["x-request-id"]), "nginx's own id"
        await running.put("/latency", seconds=1.0)
        pieces = 0
        form = {"message": (None, "Why is the sky blue?")}
        async with http.stream("POST", "/api/chat/stream", files=form) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_raw():
                pieces += b'"chunk"' in piece
        assert pieces > 5, "a buffered answer would come in one lump"
        notes = {"file": ("notes.txt", b"The course begins in May. " * 80_000)}
        assert (await http.post("/api/chat/upload", files=notes)).status_code == 200


@pytest.mark.asyncio
async def test_nobody_behind_nginx_counts_as_local(tmp_path: Path) -> None:
    have_nginx()
    async with behind_nginx(tmp_path) as (running, http):
        for client in (http, running.http):
            client.headers.pop("Authorization")
        assert (await running.http.get("/stats")).status_code == 200
        assert (await http.get("/stats")).status_code == 401


@pytest.mark.asyncio
async def test_a_browser_that_leaves_nginx_ends_its_call_upstream(tmp_path: Path) -> None:
    have_nginx()
    async with behind_nginx(tmp_path) as (running, http):
        await running.put("/latency", seconds=30.0)
        asking = asyncio.ensure_future(http.post("/api/avatar/preview", data={"avatar_name": "Ada Demo"}))
        await running.until_open(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await http.aclose()
        await running.until_open(0)
        await until(lambda: "499" in running.gateway.log.read_text(), 20)
