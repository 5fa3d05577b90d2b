"""What a worker is doing at this moment, as plain numbers that others can read."""

import asyncio
import os
from collections.abc import Sized
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Protocol

from backend.services.forwarding import Forwarder
from backend.services.http_client import HttpClient
from backend.services.logs import lost_lines
from backend.services.loop_lag import LoopLag
from backend.services.traces import Tracer


class Serving(Protocol):
    """What carries the requests; `signs` tells whether it runs on a server of the gateway's own."""

    in_flight: int
    signs: bool


class Face:
    """The side of the gateway that clients see, once there is one."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.bridge: Serving | None = None
        # Who looks at the dashboard: their streams are requests that never end, and no work.
        self.viewers: Sized = ()
        self.tracer: Tracer | None = None

    @property
    def in_flight(self) -> int:
        return 0 if self.bridge is None else self.bridge.in_flight - len(self.viewers)

    @property
    def server(self) -> str:
        return self._server if self.bridge is not None and self.bridge.signs else "another"


@dataclass(frozen=True, slots=True)
class Gauges:
    """Looks at everything that goes up and down."""

    client: HttpClient
    forwarder: Forwarder
    lag: LoopLag
    face: Face
    began: float

    def now(self) -> dict[str, Any]:
        slots = self.client.slots
        return {
            "pid": os.getpid(),
            "uptime": perf_counter() - self.began,
            "server": self.face.server,
            "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
            "in_flight": self.face.in_flight,
            "viewers": len(self.face.viewers),
            "places": slots.size,
            "places_in_use": slots.in_use,
            "lag": self.lag.worst_seconds,
            "mean_lag": self.lag.mean_seconds,
            "lost_lines": lost_lines(),
            "lost_spans": 0 if self.face.tracer is None else self.face.tracer.lost,
            "upstreams": {name: asdict(load) for name, load in self.forwarder.loads().items()},
        }

    def short(self, seconds: float) -> dict[str, Any]:
        """Return what is drawn as lines; the loop's lag is the worst of the last `seconds`."""
        return {
            "in_flight": self.face.in_flight,
            "places_in_use": self.client.slots.in_use,
            "lag": round(self.lag.worst_of(seconds), 6),
            "upstreams": {
                name: (load.in_flight, load.waiting, load.open_breakers)
                for name, load in self.forwarder.loads().items()
            },
        }
