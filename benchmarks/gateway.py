"""The gateway as it is measured: one worker, default settings, a mount that checks the token."""

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ROOT, Failure, Process, answering, environment, exchange, free_port, running

SERVERS = ("granian", "hypercorn")
# Not /api: a mount there could meet a route of the gateway's own.
FILES, SINK = "/bench", "/bench-sink"
MOST_BODY_MB = 1024
CALL_SECONDS = 60
EMAIL = "bench@gateway.local"


@dataclass(frozen=True)
class Account:
    """A database of its own with one account in it, used by every gateway of the run."""

    settings: Mapping[str, str]
    password: str

    @classmethod
    def made(cls, folder: Path, database_url: str | None = None) -> "Account":
        """`database_url` names a database that is there. Raises Failure."""
        settings = {
            "DATABASE_URL": database_url or f"sqlite:///{folder / 'gateway.db'}",
            "JWT_SECRET_KEY": secrets.token_urlsafe(48),
            "GATEWAY_INSTANCE_DIR": str(folder),
        }
        account = cls(settings, f"A1!{secrets.token_urlsafe(18)}")
        account.add(folder, EMAIL)
        return account

    def add(self, folder: Path, email: str) -> None:
        """Make another account with the same password. Raises Failure."""
        command = [sys.executable, "-m", "flask", "--app", "run:flask_app", "users", "create", email]
        made = subprocess.run(
            [*command, "--role", "student", "--password-stdin"],
            input=self.password,
            cwd=folder,
            env=environment(**self.settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if made.returncode:
            raise Failure(f"no account could be made: {made.stderr.strip()}")


@dataclass(frozen=True)
class Served:
    """A running gateway: its URL, and the header that lets a call pass."""

    process: Process
    url: str
    headers: Mapping[str, str]


@contextlib.contextmanager
def served(
    server: str, account: Account, folder: Path, core: int | None, files: str, sink: str, **settings: str
) -> Iterator[Served]:
    """Run the gateway on a server until the block ends, signed in. Raises Failure."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "run.py"), f"--server={server}", f"--port={port}"]
    known = {
        "WORKERS": "1",
        **account.settings,
        "GATEWAY_MOUNTS": json.dumps([_mount(FILES, files), _mount(SINK, sink)]),
    }
    with running(
        f"gateway-{server}", command, core=core, folder=folder, settings={**known, **settings}
    ) as process:
        answering(process, f"{url}/api/ping")
        yield Served(process, url, {"Authorization": f"Bearer {token(url, account)}"})


def _mount(prefix: str, upstream: str) -> dict[str, object]:
    return {
        "prefix": prefix,
        "upstream": upstream,
        "auth": "required",
        "methods": ["GET", "POST"],
        "max_body_mb": MOST_BODY_MB,
        "timeout": CALL_SECONDS,
        "websocket": True,
    }


def token(url: str, account: Account, email: str = EMAIL) -> str:
    """Sign in. Raises Failure."""
    body = json.dumps({"email": email, "password": account.password}).encode()
    status, told = exchange("POST", f"{url}/api/login", body, {"Content-Type": "application/json"})
    if status != 200:
        raise Failure(f"signing in was answered with {status}: {told.decode(errors='replace')}")
    return str(json.loads(told)["token"])
