"""Gateways for tests: one on the test's own loop, one as the process that people start."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import httpx
from argon2 import PasswordHasher
from sqlalchemy import select

from backend import openapi, server
from backend.app import Application, create_app
from backend.clients.server import serve as serve_clients
from backend.config import Settings, load
from backend.context import EXTENSION, Gateway
from backend.models import User
from backend.services import passwords
from backend.services.database import db, upgrade
from tests.support.document import Document
from tests.support.forks import Forked, can_fork, forked

ROOT = Path(__file__).parents[2]
KEY = "a key for tests only, thirty-two bytes or more"
PASSWORD = "Right-horse1!"
# Thousands of tests sign in, few of them to see what a password costs.
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def settings_for(folder: Path, **over: Any) -> Settings:
    """Settings of a gateway that keeps everything in `folder` and knows nothing of the environment."""
    values: dict[str, Any] = {
        "port": 0,
        "jwt_secret_key": KEY,
        "database_url": f"sqlite:///{folder / 'gateway.db'}",
        "gateway_instance_dir": folder,
        "gateway_drain_seconds": 5.0,
        # The suite's machine is busy: whoever tests this limit sets one.
        "gateway_connect_seconds": 10.0,
        "gateway_uvloop": False,
    }
    return load({}, None, **(values | over))


@dataclass
class Served:
    """A running gateway: `url` to reach it, `gateway` to look inside, tokens for both roles."""

    url: str
    port: int
    application: Application
    gateway: Gateway
    http: httpx.AsyncClient
    document: Document

    async def token(self, role: str = "student") -> str:
        """Sign in; each call ends the earlier session of that role's user."""
        answer = await self.http.post(
            "/api/login", json={"email": f"{role}@test.local", "password": PASSWORD}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def bearer(self, role: str = "student") -> dict[str, str]:
        return {"Authorization": f"Bearer {await self.token(role)}"}


@contextlib.asynccontextmanager
async def serving(settings: Settings, *, accounts: bool = True) -> AsyncIterator[Served]:
    """Serve on Hypercorn, on this loop and a free loopback port; ends without leaving a task behind.

    Over a database that has the test accounts already, `accounts` is False. Every answer that its client
    receives has to be one that the API document promises.
    """
    if accounts:
        await asyncio.to_thread(copy_of_template, settings)
    with patch.object(passwords, "HASHER", CHEAP):
        application = create_app(settings)
    application.asgi.signs = True
    gateway: Gateway = application.flask.extensions[EXTENSION]
    if accounts:
        await asyncio.to_thread(_prepare, application, gateway)
    document = document_of(application)
    sock = server.listen(settings)
    port = sock.getsockname()[1]
    config = server.hypercorn_config(settings)
    stop = asyncio.Event()
    serve = asyncio.ensure_future(serve_clients(application.asgi, config, sock, stop))
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(
            base_url=url, trust_env=False, timeout=20, event_hooks={"response": [document.check]}
        ) as http:
            await _answers(http, serve)
            yield Served(url, port, application, gateway, http, document)
    finally:
        stop.set()
        await serve


def document_of(application: Application) -> Document:
    flask = application.flask
    return _document_with(openapi.document(flask.url_map.iter_rules(), flask.view_functions))


@lru_cache(maxsize=16)
def _document_with(content: bytes) -> Document:
    return Document(content)


def copy_of_template(settings: Settings) -> None:
    """Begin an empty SQLite database with all tables and the test accounts; those are made once a process."""
    kind, _, file = settings.database_url.get_secret_value().partition(":///")
    if kind == "sqlite" and file and not Path(file).exists():
        Path(file).write_bytes(_template())


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder, patch.object(passwords, "HASHER", CHEAP):
        application = create_app(settings_for(Path(folder)))
        gateway: Gateway = application.flask.extensions[EXTENSION]
        _prepare(application, gateway)
        with application.flask.app_context():
            db.engine.dispose()
        with closing(sqlite3.connect(Path(folder) / "gateway.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return (Path(folder) / "gateway.db").read_bytes()


def _prepare(application: Application, gateway: Gateway) -> None:
    upgrade(application.flask)
    with gateway.database.transaction() as session:
        known = set(session.scalars(select(User.email)))
    for role in ("student", "tutor"):
        if f"{role}@test.local" not in known:
            gateway.accounts.create_now(f"{role}@test.local", PASSWORD, role)


async def _answers(http: httpx.AsyncClient, serve: "asyncio.Future[None]") -> None:
    async with asyncio.timeout(20):
        while True:
            if serve.done():
                serve.result()
                raise AssertionError("the server ended")
            with contextlib.suppress(httpx.TransportError):
                if (await http.get("/api/ping")).status_code == 200:
                    return
            await asyncio.sleep(0.02)


@dataclass
class Spawned:
    """A gateway in a process of its own, as `run.py` starts it."""

    url: str
    process: subprocess.Popen[str] | Forked
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stop(self, seconds: float = 30) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def clean_environment(**over: str) -> dict[str, str]:
    """The environment for a child: nothing of the gateway's own, warnings shown, no proxies."""
    known = {name.upper() for name in Settings.model_fields}
    kept = {k: v for k, v in os.environ.items() if k not in known and not k.lower().endswith("_proxy")}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"} | over


@contextlib.contextmanager
def spawned(
    folder: Path, *arguments: str, answering: bool = True, anew: bool = False, **environment: str
) -> Iterator[Spawned]:
    """Run `run.py` until the block ends; `arguments` are its options, `environment` its settings.

    With `anew` it is started from nothing, and not forked where its imports are made already.
    """
    log = folder / "gateway.log"
    env = clean_environment(
        **{
            "JWT_SECRET_KEY": KEY,
            "GATEWAY_INSTANCE_DIR": str(folder),
            "GATEWAY_DRAIN_SECONDS": "10",
            **environment,
        }
    )
    with log.open("w") as out:
        process = _started(["--port=0", *arguments], env, out, anew)
    try:
        url = _announced(process, log)
        if answering:
            _wait_for(url, process, log)
        yield Spawned(url, process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def _started(
    arguments: list[str], env: Mapping[str, str], stderr: IO[str], anew: bool
) -> subprocess.Popen[str] | Forked:
    if not anew and can_fork(env):
        return forked(arguments, env, stderr)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def _announced(process: subprocess.Popen[str] | Forked, log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if match := re.search(r"avatar gateway on (https?://[^\s,]+)", line):
            return match[1]
    raise AssertionError(f"run.py ended: {log.read_text()}")


def _wait_for(url: str, process: subprocess.Popen[str] | Forked, log: Path) -> None:
    with httpx.Client(base_url=url, trust_env=False, verify=False) as http:  # noqa: S501 - our own
        for _ in range(400):
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(httpx.TransportError):
                if http.get("/api/ping", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
    raise AssertionError(f"no answer at {url}: {log.read_text()}")


async def raw(port: int, request: bytes, *, read: int | None = None) -> bytes:
    """Send bytes on a socket of their own and return what comes back until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(10):
            return await (reader.read(-1) if read is None else reader.readexactly(read))
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def mount(prefix: str, upstream: str | list[str], **over: Any) -> Mapping[str, Any]:
    return json.loads(json.dumps({"prefix": prefix, "upstream": upstream, "auth": "none"} | over))
