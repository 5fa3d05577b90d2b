"""A scripted gateway, and no account of the machine's own."""

from collections.abc import Iterator

import pytest

from tests.support.scripted_gateway import ScriptedGateway, scripted_gateway


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with scripted_gateway() as scripted:
        yield scripted


@pytest.fixture(autouse=True)
def no_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOADTEST_EMAIL", "LOADTEST_PASSWORD", "LOADTEST_TOKEN"):
        monkeypatch.delenv(name, raising=False)
