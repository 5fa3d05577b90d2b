import pytest

from backend.errors import AvatarGone, MethodNotAllowed, NotFound
from backend.services.breaker import FAILURES
from backend.services.forwarding import MEGABYTE, Forwarder, Inbound, Upstream
from backend.services.headers import NO_CREDENTIALS, Origin
from backend.services.managed_fleet import ManagedFleet
from backend.services.seats import Seat
from backend.services.signalling import ALLOWED, Signalling
from tests.support.peer import Exchange, Peer
from tests.support.ports import free_port
from tests.support.upstream import client_of

ORIGIN = Origin("192.0.2.7", "http", b"gateway.test", "1.1", "0123456789abcdef")


class Nobody:
    """Stands where nothing may be asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"asked for {name}")


def test_allowed_calls_are_the_seven_of_the_instances_and_health() -> None:
    assert {path: method for path, (method, _) in ALLOWED.items()} == {
        "offer": "POST",
        "human": "POST",
        "humanaudio": "POST",
        "interrupt_talk": "POST",
        "is_speaking": "POST",
        "record": "POST",
        "set_audiotype": "POST",
        "health": "GET",
    }


def test_only_recordings_may_be_large_and_no_credentials_pass() -> None:
    for path, (_, rules) in ALLOWED.items():
        assert (rules.max_body > MEGABYTE) is (path == "humanaudio")
        assert rules.passage == NO_CREDENTIALS


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("POST", "", NotFound),
        ("POST", "offer/", NotFound),
        ("POST", "Offer", NotFound),
        ("GET", "webrtcapi.html", NotFound),
        ("POST", "../offer", NotFound),
        ("GET", "offer", MethodNotAllowed),
        ("HEAD", "health", MethodNotAllowed),
        ("POST", "health", MethodNotAllowed),
        ("DELETE", "human", MethodNotAllowed),
    ],
)
async def test_other_calls_are_refused_before_anyone_is_asked(
    method: str, path: str, error: type[Exception]
) -> None:
    nobody = Nobody()
    signalling = Signalling(nobody, nobody)  # type: ignore[arg-type]
    inbound = Inbound(method, b"/api/webrtc/" + path.encode(), b"", (), None, ORIGIN)
    with pytest.raises(error):
        await signalling.call(inbound, 1, path)


class OneSeat:
    """Sessions of a user whose instance is at one port; nobody else tells what became of it."""

    def __init__(self, port: int) -> None:
        self.fleet = ManagedFleet
        self.losses = 0
        self._seat = Seat(Upstream.at("instance", f"http://127.0.0.1:{port}"), port, 123456)

    async def seat_of(self, user_id: int) -> Seat:
        return self._seat

    async def lost(self, seat: Seat) -> None:
        self.losses += 1


@pytest.mark.asyncio
async def test_everybody_hears_that_an_instance_has_ended_and_the_next_one_is_found_at_once() -> None:
    """After five refusals users were told to try again, and a new instance at the port was not called."""

    async def healthy(exchange: Exchange) -> None:
        await exchange.reply(b'{"status":"running"}', (b"Content-Type", b"application/json"))

    async with client_of("direct") as client:
        sessions = OneSeat(free_port())
        signalling = Signalling(Forwarder(client), sessions)  # type: ignore[arg-type]
        asking = Inbound("GET", b"/api/webrtc/health", b"", (), None, ORIGIN)
        for _ in range(3 * FAILURES):
            with pytest.raises(AvatarGone):
                await signalling.call(asking, 1, "health")
        assert sessions.losses == 3 * FAILURES
        async with Peer(healthy, (await sessions.seat_of(1)).port):
            assert await signalling.call(asking, 1, "health") == {"status": "running"}
