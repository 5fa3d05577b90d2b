import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from backend.services.websocket import frames
from backend.services.websocket.frames import BINARY, CLOSE, Frame, Violation
from backend.services.websocket.relay import CLOSE_SECONDS, STALL_SECONDS, Limits, Relay

LIMITS = Limits(message_bytes=1000, idle=30.0, total=500.0)


class Actor:
    """A side that only notes what it is asked for."""

    def __init__(self) -> None:
        self.relay: Relay | None = None
        self.gone = False
        self.unsent = 0
        self.told: list[object] = []
        self.paused = False

    def begin(self, relay: Relay) -> None:
        self.relay = relay

    def pass_on(self, passed: Sequence[Frame]) -> None:
        self.told += [frame.payload for frame in passed]

    def close(self, code: int, reason: bytes) -> None:
        self.told.append(code)

    def finish(self) -> None:
        self.told.append("finished")
        self.lose()

    def abort(self) -> None:
        self.told.append("aborted")
        self.lose()

    def lose(self) -> None:
        if not self.gone:
            self.gone = True
            if self.relay is not None:
                self.relay.lost(self)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    async def aclose(self) -> None:
        pass

    def say(self, payload: bytes = b"", code: int | None = None) -> None:
        assert self.relay is not None
        opcode, content = (BINARY, payload) if code is None else (CLOSE, code.to_bytes(2))
        wire = frames.frame(opcode, content)
        self.relay.arrived(self, [Frame(opcode, True, wire, len(wire) - len(content), b"")])


class Scene:
    def __init__(self) -> None:
        self.client, self.upstream = Actor(), Actor()
        self.ended: list[Relay] = []
        self.relay = Relay(self.upstream, LIMITS, self.ended.append)
        self.began = asyncio.get_running_loop().time()

    def later(self, seconds: float) -> None:
        self.relay.check(self.began + seconds)


@contextlib.asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """A relay that runs until the block ends; it may not outlive it."""
    played = Scene()
    running = asyncio.ensure_future(played.relay.run(played.client))
    await asyncio.sleep(0)
    try:
        yield played
    finally:
        played.client.lose()
        played.upstream.lose()
        async with asyncio.timeout(5):
            await running
        assert played.ended == [played.relay]


@pytest.mark.asyncio
async def test_frames_pass_both_ways_and_are_counted() -> None:
    async with scene() as play:
        play.client.say(b"up")
        play.upstream.say(b"down down")
        assert (play.upstream.told, play.client.told) == ([b"up"], [b"down down"])
        assert (play.relay.received_bytes, play.relay.sent_bytes) == (4, 11)


@pytest.mark.asyncio
@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_close_is_answered_by_the_other_side_and_not_by_the_gateway(first: str) -> None:
    async with scene() as play:
        one, other = (play.client, play.upstream) if first == "client" else (play.upstream, play.client)
        one.say(code=4000)
        assert (one.told, other.told) == ([], [4000])
        other.say(b"a last word")
        other.say(code=4001)
        assert one.told == [b"a last word", 4001, "finished"]
        assert other.told == [4000, "finished"]
        assert play.relay.ending.code == 4000


@pytest.mark.asyncio
async def test_nothing_passes_behind_a_close() -> None:
    async with scene() as play:
        play.client.say(code=1000)
        play.client.say(b"late")
        assert play.upstream.told == [1000]


@pytest.mark.asyncio
async def test_upstream_that_dies_is_1011_and_the_client_may_answer() -> None:
    async with scene() as play:
        play.upstream.lose()
        assert play.client.told == [1011]
        assert play.relay.ending.upstream_lost
        play.client.say(code=1011)
        assert play.client.told == [1011, "finished"]


@pytest.mark.asyncio
async def test_upstream_that_drops_the_connection_after_the_clients_close_is_no_failure() -> None:
    async with scene() as play:
        play.client.say(code=1000)
        play.upstream.lose()
        assert play.client.told == [1000, "finished"]
        assert not play.relay.ending.upstream_lost


@pytest.mark.asyncio
async def test_client_that_is_gone_ends_the_upstream_at_once() -> None:
    async with scene() as play:
        play.client.lose()
        assert play.upstream.told == [1001, "finished"]
        assert play.relay.ending.client_lost


@pytest.mark.asyncio
async def test_idle_and_total_limits_end_it_with_1001() -> None:
    async with scene() as play:
        play.later(29)
        assert play.client.told == []
        play.later(31)
        assert (play.client.told, play.upstream.told) == ([1001], [1001])
    async with scene() as play:
        play.relay._last = play.began + 499
        play.later(501)
        assert play.client.told == [1001]


@pytest.mark.asyncio
async def test_peers_that_do_not_answer_a_close_are_cut_off() -> None:
    async with scene() as play:
        play.relay.end(frames.SIGNED_OUT, "out")
        assert (play.client.told, play.upstream.told) == ([4401], [1001])
        play.later(CLOSE_SECONDS + 1)
        assert play.client.told == [4401, "aborted"]
        assert play.upstream.gone


@pytest.mark.asyncio
async def test_slow_reader_gets_all_that_was_passed_on_before_the_end() -> None:
    async with scene() as play:
        play.client.unsent = 1000
        play.relay.end(1001, "stop")
        for second in range(3, 12, 3):
            play.later(second)
            play.client.unsent -= 100
            assert "aborted" not in play.client.told
        play.client.unsent += 100  # it takes no more
        play.later(20)
        assert "aborted" in play.client.told


@pytest.mark.asyncio
async def test_side_that_takes_too_little_pauses_the_other_until_it_takes_more() -> None:
    async with scene() as play:
        play.relay.blocked(play.client)
        assert (play.upstream.paused, play.client.paused) == (True, False)
        play.relay.freed(play.client)
        assert not play.upstream.paused
        play.relay.blocked(play.upstream)
        assert play.client.paused
        play.relay.end(1001, "stop")
        assert not play.client.paused  # its answer is to be read


@pytest.mark.asyncio
async def test_client_that_says_close_and_reads_nothing_lets_nothing_pile_up() -> None:
    async with scene() as play:
        play.client.say(code=1000)
        play.relay.blocked(play.client)
        assert play.upstream.paused
        play.client.unsent = 1000
        play.later(CLOSE_SECONDS + 1)
        assert play.client.told == [1000, "finished"]
        assert not play.upstream.paused  # what it says is dropped, but for its Close


@pytest.mark.asyncio
async def test_growing_backlog_is_no_progress_of_its_reader() -> None:
    async with scene() as play:
        play.client.unsent = 1000
        play.relay.end(1001, "stop")
        play.later(3)
        play.client.unsent = 2000
        play.later(6)
        assert "aborted" in play.client.told


@pytest.mark.asyncio
async def test_client_that_waited_for_an_upstream_is_read_again_when_that_dies() -> None:
    async with scene() as play:
        play.relay.blocked(play.upstream)
        assert play.client.paused
        play.upstream.lose()
        assert play.client.told == [1011]
        assert not play.client.paused


@pytest.mark.asyncio
async def test_client_gets_its_own_code_back_from_an_upstream_that_does_not_answer() -> None:
    async with scene() as play:
        play.client.say(code=4000)
        play.later(CLOSE_SECONDS + 1)
        assert play.client.told == [4000, "finished"]


@pytest.mark.asyncio
async def test_side_that_takes_nothing_is_given_up() -> None:
    async with scene() as play:
        play.relay.blocked(play.client)
        play.relay._last = play.began + STALL_SECONDS
        play.later(STALL_SECONDS - 1)
        assert play.client.told == []
        play.later(STALL_SECONDS + 1)
        assert play.client.told == [1001, "aborted"]
        assert play.upstream.told[0] == 1001


@pytest.mark.asyncio
async def test_verdict_of_a_violation_comes_behind_the_answers_to_what_was_good() -> None:
    async with scene() as play:
        play.relay.violated(play.client, Violation(1002, "no"))
        assert (play.client.told, play.upstream.told) == ([], [1001])
        play.upstream.say(b"an answer")
        play.upstream.say(code=1001)
        assert play.client.told == [b"an answer", 1002, "finished"]
    async with scene() as play:
        play.relay.violated(play.client, Violation(1009, "no"))
        play.later(CLOSE_SECONDS + 1)  # the upstream says nothing
        assert play.client.told == [1009, "finished"]


@pytest.mark.asyncio
async def test_upstreams_violation_is_told_to_it_and_1011_to_the_client() -> None:
    async with scene() as play:
        play.relay.violated(play.upstream, Violation(1007, "no"))
        assert (play.client.told, play.upstream.told) == ([1011], [1007, "finished"])


@pytest.mark.asyncio
async def test_cancelled_relay_leaves_neither_side_open() -> None:
    play = Scene()
    running = asyncio.ensure_future(play.relay.run(play.client))
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert play.client.told == ["aborted"]
    assert play.upstream.gone
    assert play.ended == [play.relay]
