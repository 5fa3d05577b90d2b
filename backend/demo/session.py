"""The demo as `run.py --demo` starts it: a world in a process of its own, two accounts, a greeting."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from flask import Flask

from backend.config import Settings
from backend.context import EXTENSION, Gateway
from backend.errors import Conflict
from backend.services.database import upgrade

PASSWORD = "Demo-pass1!"  # noqa: S105 - known to everybody; the demo listens on loopback only
DEMO_ACCOUNTS: Mapping[str, str] = {"student@demo.local": "student", "tutor@demo.local": "tutor"}


class DemoError(Exception):
    """The demo cannot start; the text is for the person at the terminal."""


@dataclass(frozen=True)
class DemoSession:
    """A running demo world; `settings` are the gateway's settings that lead to it."""

    world: "subprocess.Popen[str]"
    settings: Mapping[str, str]
    control_url: str
    latency_seconds: float

    @classmethod
    def begin(cls, settings: Settings, latency_seconds: float, *, second: bool = False) -> "DemoSession":
        """Start the world; it ends with this process. Raises DemoError.

        A gateway on port 0 gets a world on free ports, others the ports that the services really have. With
        `second`, catalogue and model have another address each, on a free port.
        """
        if not settings.loopback:
            raise DemoError(
                f"the demo has known passwords and listens on loopback only, not on {settings.host}"
            )
        ports = ("catalogue", "manager", "model", "retrieval", "control")
        free = [*(f"--{name}-port=0" for name in ports), "--instance-ports=auto"]
        command = [sys.executable, "-m", "backend.demo", "--exit-with-parent", f"--latency={latency_seconds}"]
        command += ["--second"] if second else []
        world = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command + (free if settings.port == 0 else []),
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the gateway, whose calls in flight still need the world
        )
        line = world.stdout.readline() if world.stdout else ""
        if not line:
            raise DemoError("the demo world did not start (see above)")
        ready = json.loads(line)
        instance_ports = ready["instance_ports"]
        return cls(
            world,
            {
                "AVATAR_SERVICE_URL": _addresses(ready, "catalogue"),
                "AVATAR_MANAGER_URL": ready["manager"],
                "AVATAR_INSTANCE_HOST": "127.0.0.1",
                "AVATAR_INSTANCE_PORTS": "1024-65535" if instance_ports == "auto" else instance_ports,
                "LLM_URL": _addresses(ready, "model"),
                "RAG_URL": ready["retrieval"],
                # Of its own, so that what is tried out never meets what people entrusted to a real one.
                "DATABASE_URL": f"sqlite:///{settings.gateway_instance_dir / 'demo.db'}",
                "GATEWAY_FILES_DIR": str(settings.gateway_instance_dir / "demo-files"),
            },
            ready["control"],
            latency_seconds,
        )

    def welcome(self, url: str, accounts: Mapping[str, str]) -> str:
        """Return what a newcomer needs to see."""
        rows = "\n".join(f"    {email:<20} {PASSWORD}  ({role})" for email, role in accounts.items())
        student = next(iter(accounts))
        return f"""
avatar gateway on {url}, with a demo world ({self.latency_seconds:g} s for its slow calls)

  accounts
{rows}

  console {url}/console

  try
    TOKEN=$(curl -s {url}/api/login --json '{{"email":"{student}","password":"{PASSWORD}"}}' | cut -d'"' -f4)
    curl -s {url}/api/avatar/list -H "Authorization: Bearer $TOKEN"
    curl -s {url}/api/avatar/preview -H "Authorization: Bearer $TOKEN" -d 'avatar_name=Ada Demo' -o ada.png
    curl -sN {url}/api/chat/stream -H "Authorization: Bearer $TOKEN" -F 'message=Why is the sky blue?'

  load    {sys.executable} test_async_performance.py --base-url {url}
  faults  {sys.executable} -m backend.demo fault hang --control {self.control_url}   (off: fault off)
"""


def _addresses(ready: Mapping[str, str], name: str) -> str:
    return ",".join(ready[each] for each in (name, f"{name}-2") if each in ready)


def prepare_accounts(flask: Flask) -> None:
    """Make the demo accounts where they are missing."""
    gateway: Gateway = flask.extensions[EXTENSION]
    upgrade(flask)
    for email, role in DEMO_ACCOUNTS.items():
        try:
            gateway.accounts.create_now(email, PASSWORD, role)
        except Conflict:
            continue  # from an earlier demo
