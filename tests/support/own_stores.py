"""Stores of a test's own, which it may kill; without their programs it is skipped, in CI it fails."""

import contextlib
import os
from collections.abc import Iterator

import pytest

from benchmarks import stores
from benchmarks.machine import Missing


@contextlib.contextmanager
def own_redis(*options: str) -> Iterator[stores.OwnRedis]:
    with _here(), stores.own_redis(*options) as redis:
        yield redis


@contextlib.contextmanager
def own_postgres() -> Iterator[stores.OwnPostgres]:
    with _here(), stores.own_postgres() as postgres:
        yield postgres


@contextlib.contextmanager
def _here() -> Iterator[None]:
    try:
        yield
    except Missing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
