"""A mount whose upstream lies, stalls and breaks off: what its client sees, and what the next one gets."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from backend.services.forwarding import Upstream
from tests.support.attacks import ATTACKS, OK, SAMPLE_BODY, SAMPLES, Attack, says
from tests.support.frontend import ERROR_FIELDS, INTERNAL
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Exchange, Peer, until
from tests.support.ports import free_port
from tests.support.wire import Pair, Reply, call

# Who is to run into a limit does so soon; who is not, has time on a busy machine, too.
SOON_SECONDS, PATIENT_SECONDS = 0.6, 10
CLEAN = b"clean"
STATUS = {"upstream_first_byte_timeout": 504}


async def clean(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.reply(CLEAN)


@dataclass(frozen=True)
class Place:
    """A gateway with a mount that leads to a scripted upstream."""

    served: Served
    peer: Peer

    async def ask(self, method: str = "GET", *headers: Pair, soon: bool = False) -> Reply:
        async with asyncio.timeout(15):
            target = b"/soon/x" if soon else b"/m/x"
            return await call(self.served.port, target, *headers, method=method.encode())

    def forget(self) -> None:
        """Each attack is to be met afresh, not by an upstream that is left alone."""
        for name in ("m", "soon"):
            self.served.gateway.forwarder.readmit(Upstream.at(name, self.peer.url))

    async def untouched(self) -> None:
        """The next calls get what is theirs, and nothing is held."""
        self.peer.script = clean
        self.forget()
        for _ in range(2):
            reply = await self.ask()
            assert (reply.status, reply.body, reply.complete) == (200, CLEAN, True)
        await until(lambda: self.served.gateway.client.slots.in_use == 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder: Path = tmp_path_factory.mktemp("untrusted")
    async with Peer(clean) as peer:
        methods = ["GET", "HEAD", "POST"]
        limits = {"/m": PATIENT_SECONDS, "/soon": SOON_SECONDS}
        mounts = [mount(prefix, peer.url, timeout=limits[prefix], methods=methods) for prefix in limits]
        async with serving(settings_for(folder, gateway_mounts=mounts)) as served:
            yield Place(served, peer)


@pytest_asyncio.fixture(loop_scope="module")
async def place(opened: Place) -> AsyncIterator[Place]:
    opened.forget()
    yield opened
    await opened.untouched()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def failed(reply: Reply, place: Place) -> str:
    """Check that an answer is an error of the gateway that shows nothing of what is behind it."""
    everything = repr((reply.headers, reply.body))
    hidden = (*INTERNAL, str(place.peer.port), "httptools", "llhttp", "asyncio")
    assert [word for word in hidden if word in everything] == []
    shown = json.loads(reply.body)
    assert set(shown) == ERROR_FIELDS
    assert reply.status == STATUS.get(shown["code"], 502)
    assert reply.complete
    return str(shown["code"])


def judged(reply: Reply, attack: Attack, place: Place) -> None:
    if reply.status >= 500:
        assert failed(reply, place) in attack.codes
    elif attack.cut:
        assert not reply.complete, "a cut body passed for whole"
    else:
        assert attack.whole is not None, f"an answer that makes no sense passed: {reply}"
        assert (reply.body, reply.complete) == (attack.whole, True)
        assert reply.get(b"set-cookie") is None


async def test_the_table_holds_what_it_promises() -> None:
    assert len(ATTACKS) >= 80
    assert all(attack.codes or attack.cut or attack.whole is not None for attack in ATTACKS.values())


@pytest.mark.parametrize("name", ATTACKS)
async def test_lie_is_met_with_the_right_answer_and_the_next_call_is_clean(place: Place, name: str) -> None:
    attack = ATTACKS[name]
    place.peer.script = attack.script
    judged(await place.ask(attack.method, soon=attack.hangs), attack, place)
    if attack.poisons:
        await until(lambda: place.peer.open == 0)


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("framing", SAMPLES)
async def test_answer_cut_at_any_byte_never_passes_for_whole(place: Place, framing: str, end: str) -> None:
    sample = SAMPLES[framing]
    head = sample.index(b"\r\n\r\n") + 4
    for length in range(len(sample)):
        place.forget()
        place.peer.script = says(sample[:length], then=end)
        reply = await place.ask("POST")
        if length < head:
            assert failed(reply, place) == "upstream_broken", length
        elif framing == "end" and end == "close":
            assert reply.body == sample[head:length]  # that was all of it, for all that anybody can know
        elif reply.status == 200:
            assert not reply.complete, length
            assert SAMPLE_BODY.startswith(reply.body)
        else:
            assert failed(reply, place) == "upstream_broken", length


async def test_upstream_that_refuses_is_told_at_once(tmp_path: Path) -> None:
    mounts = [mount("/m", f"http://127.0.0.1:{free_port()}")]
    async with serving(settings_for(tmp_path, gateway_mounts=mounts)) as served, Peer(clean) as peer:
        assert failed(await call(served.port, b"/m/x"), Place(served, peer)) == "upstream_refused"


@pytest.mark.parametrize("delay", [0, 0.0005, 0.002, 0.01])
async def test_what_arrives_between_two_calls_answers_neither(place: Place, delay: float) -> None:
    evil = OK + b"Content-Length: 4\r\n\r\nevil"
    for _ in range(10):
        poisoned = asyncio.Event()

        async def poisoning(exchange: Exchange, poisoned: asyncio.Event = poisoned) -> None:
            await exchange.reply(b"ok")
            await asyncio.sleep(delay)
            exchange.writer.write(evil)
            poisoned.set()

        place.peer.script = poisoning
        assert (await place.ask()).body == b"ok"
        place.peer.script = clean
        await poisoned.wait()
        assert (await place.ask()).body == CLEAN


async def test_thousands_of_bytes_of_garbage_cost_no_memory_and_no_time(place: Place) -> None:
    """A head that never ends is given up after some 128 KiB."""
    taken = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal taken
        await exchange.send(OK)
        while not exchange.writer.is_closing():
            await exchange.send(b"X-Fill: " + b"a" * 8000 + b"\r\n")
            taken += 8010

    place.peer.script = flood
    assert failed(await place.ask("POST"), place) == "upstream_garbage"
    assert taken < 32 << 20
