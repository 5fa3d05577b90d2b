"""What Flask works out anew for every request although the answer is the same each time.

Flask's own dispatch runs unchanged above it: hooks, signals, views and error handlers. What is skipped:

    binding the URL map to the request's host    routes here do not depend on hosts, and no URLs are built
    matching a path that was matched before      the last MATCHES ones are kept, with their rule
    looking whether a function is a coroutine    known since it was called first
    opening and saving a cookie session          there is none: sign-ins are tokens

Together a quarter of what a small forwarded call cost (docs/decisions/0011-short-way.md).
"""

from collections.abc import Mapping
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import Map, MapAdapter, Rule

from backend.services.recent import Recent

# Where a request's environment holds the template of its route, once it is known.
ROUTE = "gateway.route"

# Paths of a mount are without number: enough for the ones that are asked for again and again.
MATCHES = 1024
# A longer path is matched each time: what is kept stays small.
LONGEST_KEPT_PATH = 512

Match = tuple[Rule, Mapping[str, Any]]


class Matches:
    """Remembers which rule a method and path led to; only of requests that led to one."""

    def __init__(self, url_map: Map) -> None:
        self._map = url_map
        self._known: Recent[tuple[str, str], Match] = Recent(MATCHES)

    def known(self, method: str, path: str) -> Match | None:
        """Return rule and arguments of a request that was matched before."""
        return self._known.get((method, path))

    def adapter(self, request: Request) -> "Adapter":
        return Adapter(self, self._map, request)

    def of(self, adapter: "Adapter", method: str, path: str) -> Match:
        """Return rule and arguments. Raises what werkzeug raises for a path that leads nowhere."""
        known = self._known.get((method, path))
        if known is None:
            known = adapter.found()
            if len(path) <= LONGEST_KEPT_PATH:
                self._known.put((method, path), known)
        return known


class Adapter(MapAdapter):
    """The routes as one request sees them."""

    def __init__(self, matches: Matches, url_map: Map, request: Request) -> None:
        super().__init__(
            url_map,
            server_name="localhost",
            script_name=request.root_path + "/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
        )
        self._matches = matches
        self._environ = request.environ

    def match(  # type: ignore[override]  # three overloads in one
        self, path_info: str | None = None, method: str | None = None, **how: Any
    ) -> Any:
        if path_info is not None or method is not None or how != {"return_rule": True}:
            return super().match(path_info, method, **how)
        rule, arguments = self._matches.of(self, self.default_method, self.path_info)
        self._environ[ROUTE] = rule.rule
        return rule, dict(arguments)

    def found(self) -> Match:
        return super().match(return_rule=True)


class NoSession(SessionInterface):
    """No cookie ever holds a session."""

    def __init__(self) -> None:
        self._none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        pass
