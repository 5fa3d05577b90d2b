import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from backend.errors import UpstreamError
from backend.services.forwarding import Forwarder, Upstream
from backend.services.managed_fleet import ManagedFleet
from backend.services.seats import Ports
from tests.support.manager import Manager
from tests.support.peer import Peer
from tests.support.upstream import client_of

pytestmark = pytest.mark.asyncio

PORTS = Ports("127.0.0.1", 8615, 8714)
AVATARS = [f"Avatar {number}" for number in range(12)]


class Two:
    """Two managers that know nothing of each other, behind one gateway."""

    def __init__(self) -> None:
        self.managers = Manager(capacity=20), Manager(capacity=20, first_port=8665)
        self.peers = [Peer(manager) for manager in self.managers]

    def fleet(self, forwarder: Forwarder) -> ManagedFleet:
        upstream = Upstream.at("manager", *(peer.url for peer in self.peers))
        return ManagedFleet(forwarder, upstream, PORTS)


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Two]:
    made = Two()
    async with contextlib.AsyncExitStack() as stack:
        for peer in made.peers:
            await stack.enter_async_context(peer)
        yield made


async def test_each_avatar_has_one_manager_and_both_have_avatars(two: Two) -> None:
    async with client_of("direct") as client:
        for _ in range(2):  # two processes, as it were
            fleet = two.fleet(Forwarder(client))
            for avatar in AVATARS:
                await fleet.start(1, avatar)
    one, other = (set(manager.running) for manager in two.managers)
    assert len(one | other) == len(one) + len(other) == len(AVATARS)
    assert one
    assert other
    assert all(count == 2 for manager in two.managers for count in manager.connections.values())


async def test_an_instance_is_found_and_let_go_of_at_the_manager_that_has_it(two: Two) -> None:
    async with client_of("direct") as client:
        fleet = two.fleet(Forwarder(client))
        places = [(await fleet.start(1, avatar))[0].place for avatar in AVATARS]
        # As after an outage: the avatars of one stand at the other.
        first, second = two.managers
        first.running, second.running = second.running, first.running
        assert {standing.place for standing in await fleet.standing()} == set(places)
        for place in places:
            assert await fleet.find(place) is not None
            await fleet.let_go(place)
            assert await fleet.find(place) is None
            await fleet.let_go(place)  # has none: nothing to do
        assert not first.connections
        assert not second.connections


async def test_without_one_manager_nobody_knows_what_the_others_do_not_have(two: Two) -> None:
    async with client_of("direct") as client:
        fleet = two.fleet(Forwarder(client))
        places = [(await fleet.start(1, avatar))[0].place for avatar in AVATARS]
        await two.peers[0].__aexit__(None, None, None)
        known = 0
        for place in places:
            try:
                assert await fleet.find(place) is not None
            except UpstreamError:
                continue
            known += 1
        assert known == len(two.managers[1].running)
        with pytest.raises(UpstreamError):
            await fleet.standing()
