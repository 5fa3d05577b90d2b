"""The short way: a known request reaches its view without Flask's request machinery.

A function marked `direct` takes nothing from Flask's contexts: no `request`, `g`, `session`, `current_app`.
When everything that Flask would run for a request is so marked, nothing could tell whether a context was
pushed, and none is. The order is Flask's: hooks before, view, hooks after; whatever raises is handed to
Flask's own error handlers, in a context. The long way is taken

    by a path that was not matched before, or leads nowhere, or not with this method; by OPTIONS
    while any hook, also of a blueprint, is not marked, or a teardown or URL preprocessor is registered
    while anybody listens to Flask's signals
    by views that are not marked, and by plain `def` views, which run in threads

What it is worth is in docs/decisions/0011-short-way.md.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from flask import Flask, signals

from backend.exchange import Exchange
from backend.responses import GatewayResponse
from backend.routing import Matches

F = TypeVar("F", bound=Callable[..., Any])

SIGNALS = (
    signals.request_started,
    signals.request_finished,
    signals.request_tearing_down,
    signals.appcontext_pushed,
    signals.appcontext_popped,
    signals.appcontext_tearing_down,
    signals.got_request_exception,
)


def direct(function: F) -> F:
    """Mark a hook or view that takes nothing from Flask's contexts."""
    function.direct = True  # type: ignore[attr-defined]
    return function


class Shortcut:
    """Knows which requests may take the short way, and takes them there."""

    def __init__(self, flask: Flask, matches: Matches) -> None:
        self._flask = flask
        self._matches = matches
        self._open: bool | None = None
        self._before: tuple[Callable[[], GatewayResponse | None], ...] = ()
        self._after: tuple[Callable[[GatewayResponse], GatewayResponse], ...] = ()

    def view_for(self, exchange: Exchange) -> Callable[[], Awaitable[GatewayResponse]] | None:
        """Return what answers this request, its arguments bound, or None when it goes the long way."""
        scope = exchange.scope
        path: str = scope["path"]
        if scope["method"] == "OPTIONS" or scope.get("root_path") or not path.isascii():
            return None
        known = self._matches.known(scope["method"], path)
        if known is None:
            return None
        if self._open is None:
            self._look()
        if not self._open:
            return None
        rule, arguments = known
        view: Callable[..., Any] = self._flask.view_functions[rule.endpoint]
        if not getattr(view, "direct", False) or any(signal.receivers for signal in SIGNALS):
            return None
        exchange.trail.route = rule.rule
        return (lambda: view(**arguments)) if arguments else view

    async def answer(self, view: Callable[[], Awaitable[GatewayResponse]]) -> GatewayResponse:
        """Run the hooks before the view, and the view. Raises whatever they raise."""
        for before in self._before:
            refusal = before()
            if refusal is not None:
                return refusal
        return await view()

    def finished(self, response: GatewayResponse) -> GatewayResponse:
        """Run the hooks after the view. Raises whatever they raise."""
        for after in self._after:
            response = after(response)
        return response

    def _look(self) -> None:
        """Decide once: a request was matched before this one, and Flask takes no hooks after its first."""
        flask = self._flask
        before = _of_the_application(flask.before_request_funcs)
        after = _of_the_application(flask.after_request_funcs)
        others = (
            flask.teardown_request_funcs,
            flask.url_value_preprocessors,
            flask.teardown_appcontext_funcs,
        )
        marked = all(getattr(hook, "direct", False) for hook in (*(before or ()), *(after or ())))
        self._open = before is not None and after is not None and marked and not any(others)
        if self._open:
            self._before = tuple(before or ())
            self._after = tuple(reversed(after or ()))


def _of_the_application(hooks: Any) -> list[Callable[..., Any]] | None:
    """Return the application's hooks, or None when a blueprint has some of its own."""
    return None if any(hooks[name] for name in hooks if name is not None) else list(hooks.get(None, ()))
