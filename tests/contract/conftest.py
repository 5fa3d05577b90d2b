"""Tabs of the frontend in front of a gateway of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contract.page import Page
from tests.contract.stage import Scene, opened_scene


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with opened_scene(tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def student(scene: Scene) -> Page:
    return await scene.signed_in("student")


@pytest_asyncio.fixture
async def tutor(scene: Scene) -> Page:
    return await scene.signed_in("tutor")


@pytest.fixture
def visitor(scene: Scene) -> Page:
    return scene.page()
