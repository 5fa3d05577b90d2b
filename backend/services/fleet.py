"""The avatar instances behind the gateway, however they are run."""

from typing import Protocol

from backend.errors import GatewayError
from backend.services.dialects import Dialect
from backend.services.seats import Place, Standing


class Unsure(Exception):
    """A call ended without saying whether it was done; `error` is what the caller is told."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(error.code)
        self.error = error


class Misplaced(Exception):
    """An instance was started where none may be used; what was started has to be let go of."""

    def __init__(self, place: Place, error: GatewayError) -> None:
        super().__init__(error.code)
        self.place = place
        self.error = error


class Fleet(Protocol):
    """Starts instances, lets go of them, and tells which ones stand.

    `counts` says that somebody else counts who uses an instance: each start is one connection more then, and
    whatever was started has to be let go of.
    """

    counts: bool
    dialect: Dialect

    async def start(self, user_id: int, avatar: str) -> list[Standing]:
        """Start an avatar; return the places where it stands, of which the user gets one.

        Raises GatewayError when it is surely not started, Unsure when nobody knows, and Misplaced.
        """
        ...

    async def find(self, place: Place) -> Standing | None:
        """Return an instance if it still is what and where it was. Raises GatewayError when nobody knows."""
        ...

    async def let_go(self, place: Place) -> None:
        """End one connection there. Raises GatewayError when it surely stands, and Unsure."""
        ...

    async def standing(self) -> list[Standing]:
        """Return every instance that stands. Raises GatewayError."""
        ...
