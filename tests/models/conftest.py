"""Every test below that asks for `engine` runs on a SQLite file and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Engine

from backend.config import load
from backend.services.database import attach, upgrade
from tests.support.stores import KINDS, store_url


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with store_url(request.param, tmp_path) as url:
        yield url


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
