"""An upstream of several addresses, whose clock and dice a test holds."""

import random

from backend.config import load
from backend.services.balancing import Load, Traffic
from backend.services.breaker import FAILURES, Breakers
from backend.services.http_client import HttpClient
from backend.services.slots import Share
from tests.support.gateway import KEY

A, B, C = "http://a:1", "http://b:1", "http://c:1"
HOLDS_SECONDS = 5.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def share(size: int = 1000, waiting: int = 0) -> Share:
    settings = load({}, None, jwt_secret_key=KEY, gateway_pool_waiting=waiting, upstream_max_connections=size)
    return HttpClient(settings).share()


class Town:
    """An upstream of so many addresses, with a clock and dice of its own."""

    def __init__(self, *origins: str, seed: int = 0) -> None:
        self.clock = Clock()
        self.breakers = Breakers(self.clock)
        self.traffic = Traffic("x", origins, share(), self.breakers, random.Random(seed).randrange)

    def fail(self, origin: str, times: int = FAILURES) -> None:
        for _ in range(times):
            self.breakers.failed(origin, probe=self.traffic.is_out(origin))

    def busy(self, origin: str, calls: int) -> None:
        self.traffic.addresses[origin].in_flight = calls

    def load(self) -> Load:
        load = Load()
        self.traffic.add_to(load)
        return load


def town(count: int, seed: int = 0) -> Town:
    return Town(*(f"http://h{number}:1" for number in range(count)), seed=seed)
