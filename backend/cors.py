"""Which browsers' pages may call, decided in one place and answered cheaply."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from backend.services.headers import Headers, Pair, first

METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# `*` does not cover Authorization, so what a page asks for is named back to it.
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(?:\s*,\s*[A-Za-z0-9-]{1,64}){0,31}")
# Chromium keeps a preflight's answer for two hours at most.
MAX_AGE_SECONDS = b"7200"
EXPOSED = b"X-Request-ID, Retry-After, Warning, X-Upstream-Attempts, Server-Timing"


@dataclass(frozen=True, slots=True)
class Cors:
    """Allows the listed origins; without a list, pages of the same host on any port."""

    origins: tuple[str, ...]

    def headers(self, request: Headers) -> list[Pair]:
        """Return the header lines for an answer to this request."""
        origin = first(request, b"origin")
        if origin is None:
            return []
        if not self._allows(origin, first(request, b"host") or b""):
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED),
            (b"timing-allow-origin", origin),
            (b"vary", b"Origin"),
        ]

    def preflight(self, request: Headers) -> list[Pair]:
        """Return the further lines of the answer to an OPTIONS that asks for permission."""
        wanted = first(request, b"access-control-request-headers")
        named = (
            [(b"access-control-allow-headers", wanted)] if wanted and _HEADER_NAMES.fullmatch(wanted) else []
        )
        return [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", MAX_AGE_SECONDS),
            *named,
        ]

    def may_open(self, request: Headers) -> bool:
        """Tell whether the sender may open a WebSocket: no browser asks for permission before it does.

        Programs that are no browsers say no Origin.
        """
        origin = first(request, b"origin")
        return origin is None or self._allows(origin, first(request, b"host") or b"")

    def _allows(self, origin: bytes, host: bytes) -> bool:
        text = origin.decode("latin-1")
        if self.origins:
            return text in self.origins
        return _host_name(text) is not None and _host_name(text) == _host_name(f"//{host.decode('latin-1')}")


def is_preflight(method: str, request: Headers) -> bool:
    return (
        method == "OPTIONS"
        and first(request, b"origin") is not None
        and first(request, b"access-control-request-method") is not None
    )


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
