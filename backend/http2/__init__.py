"""HTTP/2 towards clients on Hypercorn, in place of Hypercorn's own (docs/decisions/0010-http2.md).

`frames`, `heads`, `flow`, `outbox`, `patience` and `connection` know the protocol and no socket; `call` is
the application's side, `protocol` what Hypercorn holds.
"""

from typing import Any

import hypercorn.protocol
from hypercorn.protocol.h11 import H11Protocol

from backend.http2.protocol import Http2Protocol


class WithoutUpgrade(H11Protocol):
    """Hypercorn's HTTP/1.1 without its `Upgrade: h2c`.

    A proxy in front that passes the upgrade on would take the rest for HTTP/1.1 of its own: requests
    could be smuggled past it. RFC 9113 no longer knows that upgrade.
    """

    async def _check_protocol(self, event: Any) -> None:
        if event.method == b"PRI":
            await super()._check_protocol(event)


def install() -> None:
    """Let Hypercorn use both for every connection that is made from now on."""
    hypercorn.protocol.H2Protocol = Http2Protocol  # type: ignore[assignment, attr-defined]
    hypercorn.protocol.H11Protocol = WithoutUpgrade  # type: ignore[attr-defined]
