import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.support.gateway import mount, serving, settings_for
from tests.support.peer import Peer
from tests.support.websocket import CLOSE, PONG, Frame, Socket, dialled, echo
from tests.websockets.cases import LIMIT_BYTES, SECTIONS, Case


@pytest.mark.asyncio
@pytest.mark.parametrize("section", SECTIONS)
async def test_every_case_of_the_standard_holds_through_a_mount(tmp_path: Path, section: str) -> None:
    async with Peer(echo) as peer:
        door = mount("/m", peer.url, websocket=True, max_message_mb=LIMIT_BYTES / (1 << 20))
        async with serving(settings_for(tmp_path, gateway_mounts=[door]), accounts=False) as served:
            wrong = {}
            for case in SECTIONS[section]:
                said = await held(served.port, case)
                if said is not None:
                    wrong[case.name] = said
    assert not wrong, wrong


async def held(port: int, case: Case) -> str | None:
    """Return what is wrong, None where all is as the case says."""
    async with dialled(port) as socket:
        sending = asyncio.ensure_future(sent(socket, case))
        try:
            async with asyncio.timeout(15):
                return await _told(socket, case, sending)
        except TimeoutError:
            return "nothing more came"
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def sent(socket: Socket, case: Case) -> None:
    for piece in case.sent:
        await socket.raw(piece)
        await asyncio.sleep(0)  # a write of its own each


async def _told(socket: Socket, case: Case, sending: "asyncio.Future[None]") -> str | None:
    missing = list(case.back)
    code = case.code
    while missing:
        found = await _next(socket)
        if found.opcode == CLOSE:
            return f"closed with {found.payload!r} before {missing[0].opcode, missing[0].payload[:20]!r}"
        # A pong overtakes the message that it was sent amid, or not.
        fitting = [one for one in missing if (one.opcode, one.payload) == (found.opcode, found.payload)]
        if not fitting or (found.opcode != PONG and fitting[0] is not _first_message(missing)):
            return f"{found.opcode} {found.payload[:50]!r} came"
        missing.remove(fitting[0])
    if code is None:
        await sending
        await socket.close(1000)
        code = 1000
    seen, _ = await socket.ended()
    if seen != code:
        return f"closed with {seen} instead of {code}"
    if case.code is not None and case.sent[-1][:1] != b"\x88":
        with contextlib.suppress(ConnectionError):
            await socket.close(code if code != 1005 else 1000)
    await socket.gone()
    return None


def _first_message(frames: list[Frame]) -> Frame | None:
    return next((frame for frame in frames if frame.opcode != PONG), None)


async def _next(socket: Socket) -> Frame:
    """Return the next message, joined, or control frame; those amid a message come after it."""
    if socket.aside:
        return socket.aside.pop(0)
    frame = await socket.frame()
    if frame.opcode >= CLOSE:
        return frame
    whole = Frame(frame.opcode, frame.payload)
    while not frame.final:
        following = await socket.frame()
        if following.opcode >= CLOSE:
            socket.aside.append(following)
            continue
        frame = following
        whole.payload += frame.payload
    return whole
