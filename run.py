#!/usr/bin/env python
"""Start the gateway. `run:app` is its ASGI face for any server, `run:flask_app` the Flask application."""

import argparse
import sys
from functools import cache
from typing import Any, NoReturn

from flask.cli import NoAppException

from backend import server
from backend.app import Application, create_app
from backend.config import Settings, SettingsError, export, load
from backend.demo.session import DEMO_ACCOUNTS, DemoError, DemoSession, prepare_accounts
from backend.exchange import Send
from backend.request_body import Receive, Scope


@cache
def _application() -> Application:
    """Build the gateway when a server or a tool first asks for it: importing this file opens nothing."""
    settings = load()
    server.log_to_terminal(settings)
    application = create_app(settings)
    server.settle_memory()
    return application


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the gateway's ASGI application."""
    await _application().asgi(scope, receive, send)


def __getattr__(name: str) -> Any:
    if name == "flask_app":
        try:
            return _application().flask
        except SettingsError as error:  # at the terminal, as `flask` tells of an application it cannot load
            raise NoAppException(f"The gateway cannot start with these settings:\n{error}") from None
    raise AttributeError(name)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="run.py",
        description="Asynchronous gateway in front of avatar services.",
        epilog="See README.md.",
    )
    options.add_argument(
        "--demo", action="store_true", help="start a demo avatar world beside it, on loopback"
    )
    options.add_argument(
        "--demo-latency", type=float, default=3.0, metavar="S", help="seconds of its slow calls"
    )
    options.add_argument(
        "--demo-second",
        action="store_true",
        help="run its catalogue and chat model at two addresses each, to see one fail",
    )
    options.add_argument("--host", help="address to listen on (HOST)")
    options.add_argument("--port", type=int, help="port to listen on, 0 for a free one (PORT)")
    options.add_argument("--workers", type=int, help="worker processes (WORKERS)")
    options.add_argument("--server", choices=("hypercorn", "granian"), help="ASGI server (SERVER)")
    return options


def main(arguments: list[str] | None = None) -> NoReturn:
    asked = parser().parse_args(arguments)
    over = {key: getattr(asked, key) for key in ("host", "port", "workers", "server")}
    export({key.upper(): str(value) for key, value in over.items() if value is not None})
    try:
        settings = load()
        server.log_to_terminal(settings)
        start(settings, demo=asked.demo, latency=asked.demo_latency, second=asked.demo_second)
    except SettingsError as error:
        sys.exit(f"The gateway cannot start with these settings:\n{error}")
    except (server.StartError, DemoError) as error:
        sys.exit(f"The gateway cannot start: {error}")


def start(settings: Settings, *, demo: bool, latency: float, second: bool = False) -> NoReturn:
    """Open the door first, so that a taken port is told before anything else is begun."""
    with server.listen(settings) as sock:
        host, port = sock.getsockname()[:2]
        scheme = "https" if settings.gateway_tls_cert else "http"
        url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        greeting = f"avatar gateway on {url}"
        if demo:
            session = DemoSession.begin(settings, latency, second=second)
            export(session.settings)
            settings = load()
            greeting = session.welcome(url, DEMO_ACCOUNTS)
        # Built here once, so that a mistake is told once and not by every worker.
        application = create_app(settings)
        if demo:
            prepare_accounts(application.flask)
        print(greeting, flush=True)
        if settings.server == "granian":
            from backend import granian_server  # costs start-up time where Hypercorn serves

            granian_server.serve(settings, sock)
        server.serve(settings, sock)


if __name__ == "__main__":
    main()
