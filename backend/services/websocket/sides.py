"""The two ends of a relay: what it asks of either, and what it knows of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from backend.services.websocket.frames import Frame

if TYPE_CHECKING:
    from backend.services.websocket.relay import Relay


class Side(Protocol):
    """A peer as the relay sees it."""

    gone: bool

    @property
    def unsent(self) -> int:
        """Bytes that were passed on and not taken yet."""

    def begin(self, relay: "Relay") -> None: ...

    def pass_on(self, passed: Sequence[Frame]) -> None: ...

    def close(self, code: int, reason: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class End:
    """One of the two: its side, what was said and told of the end, since when it takes nothing."""

    side: Side
    said_close: bool = False
    told_close: bool = False
    verdict: tuple[int, bytes] | None = None  # what it is told in place of the other's words
    blocked_at: float | None = None
    unsent: int | None = None  # when it was last looked at, while it ends
