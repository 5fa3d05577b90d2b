"""A small world on free ports and a client for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from backend.demo.settings import Settings
from backend.demo.world import World

LATENCY_SECONDS = 0.05
# The world is plain HTTP; a bare context spares each test the reading of the system's certificates.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with World(Settings.free(latency_seconds=LATENCY_SECONDS, capacity=3)) as opened:
        yield opened


@pytest_asyncio.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, verify=NO_CERTIFICATES, timeout=5.0) as opened:
        yield opened


@pytest_asyncio.fixture
async def instance_url(world: World, client: httpx.AsyncClient) -> str:
    """The address of a running instance."""
    start = {"avatar_id": "Ada Demo_user_1", "avatar_name": "Ada Demo"}
    answer = await client.post(f"{world.manager_url}/avatar/start", json=start)
    return f"http://127.0.0.1:{answer.json()['data']['port']}"
