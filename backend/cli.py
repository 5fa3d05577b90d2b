"""`flask --app run:flask_app users …`: make, list and change accounts."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click
from flask import Flask, current_app
from flask.cli import AppGroup
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.errors import GatewayError
from backend.models import User, login_session
from backend.models.base import utc_now
from backend.services import account_changes
from backend.services.account_changes import AT_THE_COMMAND_LINE
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


@users.command("set-role")
@click.argument("email")
@click.argument("role", metavar="student|tutor")
def set_role(email: str, role: str) -> None:
    """Make EMAIL a student or a tutor; ends the account's sign-in."""
    _change(email, "role", role)


@users.command()
@click.argument("email")
def ban(email: str) -> None:
    """Keep EMAIL out; ends the account's sign-in."""
    _change(email, "status", "banned")


@users.command()
@click.argument("email")
def unban(email: str) -> None:
    """Let EMAIL in again."""
    _change(email, "status", "active")


@users.command()
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--reason", help="Kept in the trail.")
def delete(email: str, yes: bool, reason: str | None) -> None:
    """Delete EMAIL with everything that is theirs: conversations, files, picture."""
    with _gateway() as gateway:
        with gateway.database.transaction() as session:
            user_id = account_changes.id_of(session, email)
        if not yes:
            click.confirm(f"Delete {email} (id {user_id}) and everything that is theirs?", abort=True)
        with gateway.database.transaction() as session:
            departed = account_changes.delete(session, AT_THE_COMMAND_LINE, user_id, reason)
    click.echo(f"deleted {departed.email} (id {user_id})")


def _change(email: str, field: str, value: str) -> None:
    with _gateway() as gateway, gateway.database.transaction() as session:
        user_id = account_changes.id_of(session, email)
        changed = account_changes.change(session, AT_THE_COMMAND_LINE, user_id, {field: value})
        if changed:
            _sign_out(session, user_id)
    if changed:
        old, new = changed[field]
        click.echo(f"{field} of {email}: {old} -> {new}")
    else:
        click.echo(f"{field} of {email} is {value} already")


def _sign_out(session: Session, user_id: int) -> None:
    """Running gateways learn of it with their next poll."""
    login_session.end(session, user_id, None, int(utc_now().timestamp() * 1_000_000))


@contextmanager
def _gateway() -> Iterator[Gateway]:
    """The gateway over an up-to-date database; what goes wrong becomes one line and exit code 1."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    try:
        upgrade(app)
        yield app.extensions["gateway"]
    except GatewayError as exc:
        raise click.ClickException(exc.msg) from exc
