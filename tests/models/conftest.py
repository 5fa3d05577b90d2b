"""Every test below that asks for `engine` runs on a SQLite file and on PostgreSQL."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from sqlalchemy import Engine

from backend.config import load
from backend.services.database import attach, upgrade

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/")
HOW_TO_START = (
    "no PostgreSQL answers at the address of TEST_POSTGRES_URL; start one with "
    "`docker run --rm -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres:16`"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/gateway.db"
        return
    name = f"gateway_test_{secrets.token_hex(6)}"
    try:
        server = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError:
        if os.environ.get("CI") == "true":
            pytest.fail(HOW_TO_START)
        pytest.skip(HOW_TO_START)
    with server:
        server.execute(f"CREATE DATABASE {name}".encode())
        yield f"{POSTGRES.rstrip('/')}/{name}"
        server.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def empty_app(database_url: str, tmp_path: Path) -> Iterator[Flask]:
    app = Flask("test")
    engine = attach(app, load({}, None, database_url=database_url, gateway_instance_dir=tmp_path))
    yield app
    engine.dispose()


@pytest.fixture
def app(empty_app: Flask) -> Flask:
    upgrade(empty_app)
    return empty_app


@pytest.fixture
def engine(app: Flask) -> Engine:
    with app.app_context():
        bound: Engine = app.extensions["sqlalchemy"].engine
    return bound
