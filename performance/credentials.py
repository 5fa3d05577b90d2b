"""Who signs in: from the command line, the environment, a file, or the demo."""

import argparse
import getpass
import ipaddress
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from performance.outcome import Unusable
from performance.settings import Account
from performance.values import MOST_USERS

DEMO_EMAIL, DEMO_PASSWORD = "student@demo.local", "Demo-pass1!"


def read_account(args: argparse.Namespace, environ: Mapping[str, str], may_ask: bool) -> Account:
    """The command line goes before the environment, and that before the demo account. Raises Unusable."""
    named = args.email or args.password or args.password_stdin
    token = args.token or ("" if named else environ.get("LOADTEST_TOKEN", ""))
    if token:
        return Account(token=token.strip())
    email = args.email or environ.get("LOADTEST_EMAIL", "")
    password = args.password or environ.get("LOADTEST_PASSWORD", "")
    if args.password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    if is_loopback(args.base_url) and not (email or password or args.password_stdin):
        return Account(DEMO_EMAIL, DEMO_PASSWORD)
    if may_ask:
        email = email or input("E-mail: ").strip()
        password = password or getpass.getpass("Password: ")
    if not (email and password):
        raise Unusable(
            "e-mail or password is missing: give --email with --password or --password-stdin, or --token,"
            " or set LOADTEST_EMAIL with LOADTEST_PASSWORD, or LOADTEST_TOKEN"
        )
    return Account(email, password)


def read_accounts(path: Path | None) -> tuple[Account, ...]:
    """Read a file of lines with an e-mail, a space and a password. Raises Unusable."""
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise Unusable(f"cannot read {path}: {reason}") from error
    accounts = []
    for number, line in enumerate(lines, 1):
        email, _, password = line.strip().partition(" ")
        if not email or email.startswith("#"):
            continue
        if not password:
            raise Unusable(f"{path}, line {number}: expected an e-mail, a space and a password")
        accounts.append(Account(email, password.strip()))
    if not 0 < len(accounts) <= MOST_USERS:
        raise Unusable(f"{path} has {len(accounts):,} accounts: expected 1 to {MOST_USERS:,}")
    return tuple(accounts)


def is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
