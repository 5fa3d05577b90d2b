"""The gateway as a process with its demo world: signed in, and with the world's counters at hand."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.gateway import Spawned, spawned


@dataclass
class Demo:
    """A running demo: `http` is signed in as the student, `control` is the world's control port."""

    gateway: Spawned
    http: httpx.AsyncClient
    control: str

    @property
    def port(self) -> int:
        return self.gateway.port

    async def sign_in(self) -> None:
        """Sign `http` in as the student, which ends that one's earlier session."""
        account = {"email": "student@demo.local", "password": "Demo-pass1!"}
        answer = await self.http.post("/api/login", json=account)
        self.http.headers["Authorization"] = f"Bearer {answer.json()['token']}"

    async def counters(self, service: str = "catalogue") -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as http:
            return dict((await http.get(f"{self.control}/counters")).json()[service])

    async def until_open(self, calls: int, seconds: float = 20) -> None:
        """Wait until the catalogue works on so many calls."""
        async with asyncio.timeout(seconds):
            while (await self.counters())["open"] != calls:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.02)

    async def until_healthy(self, seconds: float = 60) -> None:
        """Wait until the gateway finds nothing wrong: on a busy machine, its loop waits for its turn, too."""
        async with asyncio.timeout(seconds):
            while (await self.http.get("/api/health/detailed")).json()["status"] != "healthy":  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def put(self, path: str, /, **values: Any) -> None:
        """Set a fault or the latency."""
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.put(f"{self.control}{path}", json=values)).raise_for_status()

    async def hang(self) -> "asyncio.Task[httpx.Response]":
        """Let the catalogue hang in previews, and ask for one that it is working on by then."""
        await self.put("/faults", service="catalogue", fault="hang", path="/avatar/preview")
        hanging = asyncio.ensure_future(self.preview())
        await self.until_open(1)
        return hanging

    async def clear_faults(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            (await http.delete(f"{self.control}/faults")).raise_for_status()

    def preview(self) -> "Any":
        """A call that takes as long as the demo's latency."""
        return self.http.post("/api/avatar/preview", data={"avatar_name": "Ada Demo"})


def greeting(gateway: Spawned) -> str:
    """The rest of what a demo prints at its start."""
    assert gateway.process.stdout is not None
    lines = []
    for line in gateway.process.stdout:
        lines.append(line)
        if line.lstrip().startswith("faults"):
            return "".join(lines)
    raise AssertionError("the greeting broke off")


@contextlib.asynccontextmanager
async def demo(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[Demo]:
    """Run `run.py --demo` until the block ends."""
    with spawned(folder, "--demo", *arguments, **environment) as gateway:
        control = re.search(r"--control (http://\S+)", greeting(gateway))
        assert control is not None
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=gateway.url, trust_env=False, timeout=30, limits=limits
        ) as http:
            opened = Demo(gateway, http, control[1])
            await opened.sign_in()
            yield opened
