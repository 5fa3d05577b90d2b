import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from backend.errors import StoreUnavailable
from backend.services import narration as limits
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.managed_fleet import ManagedFleet
from backend.services.narration import MOST_WAITING, Narration
from backend.services.seats import Seat
from tests.support.chat_model import Instance
from tests.support.peer import Exchange, Peer, until
from tests.support.ports import free_port
from tests.support.upstream import client_of

ADA, BOB = 1, 2


@dataclass
class Seats:
    """Who sits where; `away` is what the database says instead."""

    seats: dict[int, Seat]
    away: Exception | None = None
    asked: int = 0
    fleet: type[ManagedFleet] = ManagedFleet

    async def seat_of(self, user_id: int) -> Seat | None:
        self.asked += 1
        if self.away is not None:
            raise self.away
        return self.seats.get(user_id)


@dataclass
class Stage:
    narration: Narration
    instance: Instance
    seats: Seats
    peer: Peer
    client: HttpClient

    def speak(self, user_id: int, text: str) -> None:
        voice = self.narration.begin(user_id)
        voice.say(text)
        voice.finish()

    async def silent(self) -> None:
        await until(lambda: repr(self.narration) == "<Narration 0 speaking>")


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    instance = Instance()
    async with Peer(instance) as peer, client_of("direct") as client:
        upstream = Upstream.at("instance", peer.url)
        seats = Seats({ADA: Seat(upstream, peer.port, 111111), BOB: Seat(upstream, peer.port, 222222)})
        narration = Narration(Forwarder(client), seats)  # type: ignore[arg-type]
        yield Stage(narration, instance, seats, peer, client)
        await narration.aclose()


def holding(go: asyncio.Event) -> Instance:
    """An instance that notes each sentence, and answers it when it may."""

    async def answer(exchange: Exchange) -> None:
        await go.wait()
        await exchange.reply(b'{"code":0}', (b"Content-Type", b"application/json"))

    return Instance(answer=answer)


@pytest.mark.asyncio
async def test_sentences_are_spoken_in_order_as_they_come(stage: Stage) -> None:
    voice = stage.narration.begin(ADA)
    for piece in ("One. Tw", "o. ", "三。", "Four"):
        voice.say(piece)
        await asyncio.sleep(0)
    await until(lambda: len(stage.instance.said) >= 2)
    assert stage.instance.texts[:2] == ["One.", "Two."]
    voice.finish()
    await stage.silent()
    assert stage.instance.said == [
        {"sessionid": 111111, "text": text, "type": "echo"} for text in ("One.", "Two.", "三。", "Four")
    ]
    assert stage.seats.asked == 1


@pytest.mark.asyncio
async def test_each_user_has_an_own_voice_and_one_waits_for_no_other(stage: Stage) -> None:
    go = asyncio.Event()
    stage.peer.script = slow = holding(go)
    stage.speak(ADA, "Ada one. Ada two.")
    await until(lambda: len(slow.said) == 1)
    stage.speak(BOB, "Bob one.")
    await until(lambda: len(slow.said) == 2)
    assert [(said["sessionid"], said["text"]) for said in slow.said] == [
        (111111, "Ada one."),
        (222222, "Bob one."),
    ]
    go.set()
    await stage.silent()
    assert slow.texts[2:] == ["Ada two."]


@pytest.mark.asyncio
async def test_new_question_drops_what_is_left_of_the_former_answer(stage: Stage) -> None:
    go = asyncio.Event()
    stage.peer.script = slow = holding(go)
    former = stage.narration.begin(ADA)
    former.say("Old one. Old two. Old three. ")
    await until(lambda: len(slow.said) == 1)
    stage.speak(ADA, "New one. New two.")
    former.say("Old four. ")
    former.finish()
    go.set()
    await stage.silent()
    assert slow.texts == ["Old one.", "New one.", "New two."]


@pytest.mark.asyncio
@pytest.mark.parametrize("seat", [None, "no peer session"])
async def test_without_a_live_avatar_session_nobody_is_called(stage: Stage, seat: str | None) -> None:
    stage.seats.seats = {} if seat is None else {ADA: Seat(stage.seats.seats[ADA].upstream, 1, None)}
    voice = stage.narration.begin(ADA)
    voice.say("One. Two. ")
    await stage.silent()
    voice.say("Three. Four. ")
    voice.finish()
    await stage.silent()
    assert stage.peer.connections == 0
    assert stage.seats.asked == 1


FAILURES = {
    "unknown session": (b"404 Not Found", b'{"code":-1,"msg":"session not found"}'),
    "still starting": (b"503 Service Unavailable", b'{"code":-1}'),
    "failure with 200": (b"200 OK", b'{"code":-1,"msg":"x"}'),
    "nonsense": (b"200 OK", b"<html>"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", FAILURES)
async def test_avatar_that_fails_is_told_nothing_more_of_this_answer(stage: Stage, kind: str) -> None:
    status, body = FAILURES[kind]

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, (b"Content-Type", b"application/json"), status=status)

    stage.instance.answer = answer
    voice = stage.narration.begin(ADA)
    voice.say("One. Two. Three. ")
    await stage.silent()
    voice.say("Four. ")
    voice.finish()
    await stage.silent()
    assert stage.instance.texts == ["One."]
    stage.instance.answer = None
    stage.speak(ADA, "Again.")
    await stage.silent()
    assert stage.instance.texts == ["One.", "Again."]


@pytest.mark.asyncio
async def test_dead_avatar_costs_one_attempt_an_answer(stage: Stage) -> None:
    stage.seats.seats[ADA] = Seat(Upstream.at("instance", f"http://127.0.0.1:{free_port()}"), 1, 111111)
    stage.speak(ADA, "One. Two. Three.")
    await stage.silent()
    assert stage.instance.said == []
    await until(lambda: stage.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_avatar_that_hangs_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SPEAK_SECONDS", 0.1)
    stage.peer.script = slow = holding(asyncio.Event())
    stage.speak(ADA, "One. Two. Three.")
    await stage.silent()
    assert slow.texts == ["One."]
    await until(lambda: stage.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_database_that_is_away_only_makes_the_avatar_silent(stage: Stage) -> None:
    stage.seats.away = StoreUnavailable()
    stage.speak(ADA, "One. Two.")
    await stage.silent()
    assert stage.peer.connections == 0


@pytest.mark.asyncio
async def test_mistake_of_the_program_is_logged_and_not_repeated(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.seats.away = ZeroDivisionError("x")
    stage.speak(ADA, "One. Two.")
    await stage.silent()
    assert caplog.text.count("narration failed") == 1


@pytest.mark.asyncio
async def test_text_never_waits_and_what_waits_is_bounded(stage: Stage) -> None:
    go = asyncio.Event()
    stage.peer.script = slow = holding(go)
    voice = stage.narration.begin(ADA)
    for number in range(10 * MOST_WAITING):
        voice.say(f"Number {number}. ")
    voice.finish()
    await until(lambda: len(slow.said) == 1)
    go.set()
    await stage.silent()
    # In order and without a gap, up to where there was no more room.
    assert slow.texts == [f"Number {number}." for number in range(MOST_WAITING)]


@pytest.mark.asyncio
async def test_no_more_users_speak_at_once_than_there_is_room_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_SPEAKERS", 1)
    go = asyncio.Event()
    stage.peer.script = slow = holding(go)
    stage.speak(ADA, "Ada.")
    stage.speak(BOB, "Bob.")
    await until(lambda: len(slow.said) == 1)
    go.set()
    await stage.silent()
    assert slow.texts == ["Ada."]
    stage.speak(BOB, "Bob again.")
    await stage.silent()
    assert slow.texts == ["Ada.", "Bob again."]


@pytest.mark.asyncio
async def test_closing_falls_silent_at_once(stage: Stage) -> None:
    stage.peer.script = slow = holding(asyncio.Event())
    stage.speak(ADA, "One. Two.")
    await until(lambda: len(slow.said) == 1)
    await stage.narration.aclose()
    assert stage.client.slots.in_use == 0
    stage.speak(ADA, "Three.")
    await stage.silent()
    assert slow.texts == ["One."]
