"""`flask --app run:flask_app users …`: make and list accounts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click
from flask import Flask, current_app
from flask.cli import AppGroup
from sqlalchemy import select

from backend.errors import GatewayError
from backend.models import User
from backend.services.accounts import Accounts
from backend.services.database import Database, upgrade


class Gateway(Protocol):
    """What the commands need of `app.extensions["gateway"]`; both work before the lifespan has begun."""

    @property
    def database(self) -> Database: ...

    @property
    def accounts(self) -> Accounts: ...


users = AppGroup("users", help="Accounts of this gateway.")


def register(app: Flask) -> None:
    app.cli.add_command(users)


@users.command()
@click.argument("email")
@click.option("--role", required=True, metavar="student|tutor", help="What the account may do.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
def create(email: str, role: str, password_stdin: bool) -> None:
    """Make an account for EMAIL; asks for the password."""
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    with _gateway() as gateway:
        account = gateway.accounts.create_now(email, password, role)
    click.echo(f"created {account.role} {account.email} (id {account.id})")


@users.command("list")
def list_users() -> None:
    """Print every account: id, e-mail, role, status and last sign-in, with tabs between."""
    with _gateway() as gateway, gateway.database.transaction() as session:
        for user in session.scalars(select(User).order_by(User.id)):
            seen = f"{user.last_login:%Y-%m-%dT%H:%M:%SZ}" if user.last_login else "never"
            click.echo(f"{user.id}\t{user.email}\t{user.role}\t{user.status}\t{seen}")


@contextmanager
def _gateway() -> Iterator[Gateway]:
    """The gateway over an up-to-date database; what goes wrong becomes one line and exit code 1."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    try:
        upgrade(app)
        yield app.extensions["gateway"]
    except GatewayError as exc:
        raise click.ClickException(exc.msg) from exc
