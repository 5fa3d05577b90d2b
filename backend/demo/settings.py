"""What a demo world can be told when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class InstancePorts:
    """The ports avatar instances may open; 0 to 0 lets the system choose each one."""

    first: int = 8615
    last: int = 8714

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `8615-8714` or `auto`; raise ValueError for anything else."""
        if text == "auto":
            return cls(0, 0)
        first, dash, last = text.partition("-")
        ports = cls(int(first), int(last if dash else first))
        if not 0 < ports.first <= ports.last < 65536:
            raise ValueError(f"not a port range: {text}")
        return ports

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" if self.first else "auto"

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.last + 1))


@dataclass(frozen=True)
class Settings:
    """Ports (0 takes a free one), seconds of latency, and limits of one demo world."""

    host: str = "127.0.0.1"
    catalogue_port: int = 8606
    manager_port: int = 8607
    model_port: int = 8611
    retrieval_port: int = 8602
    control_port: int = 8690
    instance_ports: InstancePorts = InstancePorts()
    latency_seconds: float = 3.0
    capacity: int = 5
    # A real instance takes 100 peers and forgets those that hang up. Nobody hangs up on a stand-in
    # answer, so a limit of 100 would be used up by the hundredth reconnect.
    max_sessions: int = 10_000
    # Those with video and sound, of one instance; each takes a share of a core.
    max_live_sessions: int = 8
    list_form: bool = False
    model_stays_open: bool = False
    # Catalogue and model at a second address each, on free ports.
    second: bool = False

    @classmethod
    def free(
        cls,
        *,
        latency_seconds: float = 0.0,
        capacity: int = 5,
        list_form: bool = False,
        model_stays_open: bool = False,
        second: bool = False,
    ) -> Self:
        """Settings for a test: every port is a free one."""
        return cls(
            catalogue_port=0,
            manager_port=0,
            model_port=0,
            retrieval_port=0,
            control_port=0,
            instance_ports=InstancePorts(0, 0),
            latency_seconds=latency_seconds,
            capacity=capacity,
            list_form=list_form,
            model_stays_open=model_stays_open,
            second=second,
        )


def loopback(host: str) -> str:
    """Return the loopback address meant by `host`; raise ValueError for any other host."""
    address = "127.0.0.1" if host == "localhost" else host
    if not ipaddress.ip_address(address).is_loopback:
        raise ValueError(f"{host} is not a loopback address")
    return address
