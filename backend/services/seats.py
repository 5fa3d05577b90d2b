"""Where avatars run, and what a user's place at one of them is."""

from dataclasses import dataclass

from backend.errors import UpstreamGarbage
from backend.services.forwarding import Upstream


@dataclass(frozen=True, slots=True)
class Place:
    """Where a user's avatar runs."""

    avatar: str
    instance_id: str
    port: int


@dataclass(frozen=True, slots=True)
class Standing:
    """An instance that runs: `connections` as the manager counts them, None where nobody counts.

    `room` is how many users it takes, None where that is not the gateway's to say.
    """

    place: Place
    connections: int | None = None
    gpu: int | str | None = None
    room: int | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """A user's place at an instance: where to call, and the number of the user's peer connection there.

    `row` names the place in the table of sessions.
    """

    upstream: Upstream
    port: int
    peer_session: int | None
    row: int = 0


@dataclass(frozen=True, slots=True)
class Ports:
    """The one host and the ports where instances may live: nothing else is ever dialled."""

    host: str
    first: int
    last: int

    def upstream(self, port: int) -> Upstream:
        """Return the instance at a port. Raises UpstreamGarbage outside the range."""
        if not self.first <= port <= self.last:
            raise UpstreamGarbage("The avatar manager named a place where no avatar may live.")
        return Upstream.at("instance", f"http://{self.host}:{port}")

    @property
    def all(self) -> range:
        """Every port there may be an instance at."""
        return range(self.first, self.last + 1)
