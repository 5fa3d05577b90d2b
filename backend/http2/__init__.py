"""HTTP/2 towards clients on Hypercorn, in place of Hypercorn's own (docs/decisions/0007-http2.md).

`frames`, `heads`, `flow`, `outbox`, `patience` and `connection` know the protocol and no socket; `call` is
the application's side, `protocol` what Hypercorn holds.
"""

import hypercorn.protocol

from backend.http2.protocol import Http2Protocol


def install() -> None:
    """Let Hypercorn use it for every connection that is made from now on."""
    hypercorn.protocol.H2Protocol = Http2Protocol  # type: ignore[assignment, attr-defined]
