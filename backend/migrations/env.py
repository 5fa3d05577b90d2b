"""What alembic runs for `flask db …` and for `backend.services.database.upgrade`."""

from typing import Any

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext
from flask import current_app

from backend.models import Base
from backend.services.database import db, migrating


def _no_empty_revision(_context: MigrationContext, _revision: object, scripts: list[MigrationScript]) -> None:
    options = context.config.cmd_opts
    if getattr(options, "autogenerate", False) and all(ops.is_empty() for ops in scripts[0].upgrade_ops_list):
        scripts.clear()


def _print_sql() -> None:
    context.configure(url=db.engine.url, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _migrate() -> None:
    options: dict[str, Any] = {"process_revision_directives": _no_empty_revision}
    options |= current_app.extensions["migrate"].configure_args
    with migrating(db.engine) as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, **options)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    _print_sql()
else:
    _migrate()
