"""The media engine through an instance's own routes, with a real peer at the other end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("aiortc")
pytest.importorskip("espeakng_loader")

from backend.demo.live.session import without_hidden
from backend.demo.live.stage import Stage
from backend.demo.settings import Settings
from backend.demo.world import World
from tests.demo.live.viewers import PATIENCE_SECONDS, Viewer, watching
from tests.support.gateway import ROOT
from tests.support.processes import alive
from tests.support.recordings import wav

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]

SENTENCE = "My papa bought a big blue map of the whole wide world, and we looked at it all day long."


async def speaking(client: httpx.AsyncClient, url: str, session: int) -> bool:
    answer = await client.post(f"{url}/is_speaking", json={"sessionid": session})
    return bool(answer.json()["data"])


async def say(client: httpx.AsyncClient, url: str, session: int, text: str, **more: Any) -> httpx.Response:
    fields = {"sessionid": session, "type": "echo", "text": text, **more}
    return await client.post(f"{url}/human", json=fields)


async def sessions(client: httpx.AsyncClient, url: str) -> int:
    return int((await client.get(f"{url}/health")).json()["sessions"])


async def until(met: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await met():  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.05)


async def test_a_face_lives_speaks_and_rests_again(client: httpx.AsyncClient, instance_url: str) -> None:
    async with watching(client, instance_url) as viewer:
        assert 100_000 <= viewer.session <= 999_999
        await viewer.until_frames(10)
        resting = await viewer.mouth_motion()
        assert not await speaking(client, instance_url, viewer.session)
        assert viewer.loudest < 200
        assert (await say(client, instance_url, viewer.session, SENTENCE)).json()["code"] == 0
        assert await speaking(client, instance_url, viewer.session)
        moving = await viewer.mouth_motion()
        assert viewer.loudest > 3000
        assert moving > 3 * resting

        async def silent() -> bool:
            return not await speaking(client, instance_url, viewer.session)

        await until(silent)
        await viewer.until_frames(15)
        assert await viewer.mouth_motion() < moving / 2


async def test_an_interruption_ends_the_speech_within_a_moment(
    client: httpx.AsyncClient, instance_url: str
) -> None:
    async with watching(client, instance_url) as viewer:
        await viewer.until_frames(5)
        await say(client, instance_url, viewer.session, SENTENCE * 3)
        await viewer.until_frames(10)
        fields = {"sessionid": viewer.session}
        assert (await client.post(f"{instance_url}/interrupt_talk", json=fields)).json()["code"] == 0
        assert not await speaking(client, instance_url, viewer.session)
        await viewer.until_frames(15)
        viewer.loudest = 0
        await viewer.until_frames(15)
        assert viewer.loudest < 200
        await say(client, instance_url, viewer.session, SENTENCE)
        await say(client, instance_url, viewer.session, "", interrupt=True)

        async def silent() -> bool:
            return not await speaking(client, instance_url, viewer.session)

        await until(silent)


async def test_a_recording_is_played_and_junk_is_refused_by_silence(
    client: httpx.AsyncClient, instance_url: str
) -> None:
    async with watching(client, instance_url) as viewer:
        await viewer.until_frames(5)
        for content in (b"RIFF" * 100, wav(1.0)):
            answer = await client.post(
                f"{instance_url}/humanaudio",
                data={"sessionid": str(viewer.session)},
                files={"file": ("voice.wav", content)},
            )
            assert answer.json()["code"] == 0

        async def heard() -> bool:
            return viewer.loudest > 3000

        await until(heard)


async def test_a_viewer_who_closes_frees_the_place(client: httpx.AsyncClient, instance_url: str) -> None:
    async with watching(client, instance_url) as first, watching(client, instance_url) as second:
        await second.until_frames(3)
        assert await sessions(client, instance_url) == 2
        await first.close()

        async def one_left() -> bool:
            return await sessions(client, instance_url) == 1

        await until(one_left)
        assert (await say(client, instance_url, first.session, "hello")).status_code == 404
        assert (await say(client, instance_url, second.session, "hello")).status_code == 200


@pytest.mark.parametrize("kind", ["video", "audio"])
async def test_a_viewer_of_one_kind_gets_that_kind(
    client: httpx.AsyncClient, instance_url: str, kind: str
) -> None:
    async with watching(client, instance_url, (kind,)) as viewer:
        await say(client, instance_url, viewer.session, "Good morning")

        async def arrived() -> bool:
            return len(viewer.frames) > 10 if kind == "video" else viewer.loudest > 3000

        async def silent() -> bool:
            return not await speaking(client, instance_url, viewer.session)

        await until(arrived)
        await until(silent)


async def test_a_full_instance_refuses_in_its_odd_way(client: httpx.AsyncClient) -> None:
    async with World(replace(Settings.free(), max_live_sessions=1)) as world:
        start = {"avatar_id": "Ada Demo_user_1", "avatar_name": "Ada Demo"}
        data = (await client.post(f"{world.manager_url}/avatar/start", json=start)).json()["data"]
        url = f"http://127.0.0.1:{data['port']}"
        async with watching(client, url):
            late = Viewer()
            answer = await client.post(f"{url}/offer", json=await late.offer())
            await late.close()
        assert answer.status_code == 200
        assert answer.json() == {"code": -1, "msg": "max session reached"}


async def test_an_offer_that_looks_real_and_is_broken_takes_no_place(
    client: httpx.AsyncClient, instance_url: str
) -> None:
    sdp = "v=0\r\na=ice-ufrag:x\r\na=fingerprint:sha-256 00\r\nm=video nonsense\r\n"
    answer = await client.post(f"{instance_url}/offer", json={"sdp": sdp, "type": "offer"}, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (200, -1)
    assert await sessions(client, instance_url) == 0


async def test_a_killed_engine_takes_its_sessions_along_and_the_next_offer_gets_a_new_one(
    client: httpx.AsyncClient, instance_url: str
) -> None:
    async with watching(client, instance_url) as viewer:
        await viewer.until_frames(3)
        os.kill(engine_of(os.getpid()), signal.SIGKILL)

        async def none_left() -> bool:
            return await sessions(client, instance_url) == 0

        await until(none_left)
        assert (await say(client, instance_url, viewer.session, "hello")).status_code == 404
    async with watching(client, instance_url) as viewer:
        await viewer.until_frames(3)


async def test_the_engine_ends_with_its_instance(
    world: World, client: httpx.AsyncClient, instance_url: str
) -> None:
    async with watching(client, instance_url) as viewer:
        await viewer.until_frames(3)
        engine = engine_of(os.getpid())
        fields = {"avatar_name": "Ada Demo"}
        assert (await client.post(f"{world.manager_url}/avatar/disconnect", json=fields)).status_code == 200
        assert not Path(f"/proc/{engine}").exists()


async def test_an_offer_that_nobody_follows_up_gives_its_place_back() -> None:
    told: list[dict[str, Any]] = []
    stage = Stage("Ada Demo", told.append, connect_seconds=0.2)
    viewer = Viewer()
    answer = await stage.obey({"do": "offer", "session": 5, **await viewer.offer()})
    assert answer["sdp"].startswith("v=0")

    async def ended() -> bool:
        return told == [{"ended": 5}]

    await until(ended)
    assert await stage.obey({"do": "look", "session": 5}) == {"gone": True}
    await viewer.close()


async def test_hidden_addresses_of_browsers_are_not_looked_up() -> None:
    hidden = "a=candidate:1 1 udp 2 d1c9aab2-6a3a.local 38805 typ host\r\n"
    shown = "a=candidate:1 1 udp 2 127.0.0.1 38805 typ host\r\n"
    assert without_hidden(f"v=0\r\n{hidden}{shown}") == f"v=0\r\n{shown}"


def engine_of(world: int) -> int:
    """The process of the media engine that a world has started."""
    children = Path(f"/proc/{world}/task").glob("*/children")
    pids = {int(pid) for file in children for pid in file.read_text().split()}
    engines = [pid for pid in pids if b"backend.demo.live" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(engines) == 1
    return engines[0]


async def test_the_engine_never_outlives_a_world_that_was_killed(client: httpx.AsyncClient) -> None:
    free = [f"--{name}-port=0" for name in ("catalogue", "manager", "model", "retrieval", "control")]
    command = [sys.executable, "-m", "backend.demo", *free, "--instance-ports=auto", "--latency=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        manager = json.loads(process.stdout.readline())["manager"]
        start = {"avatar_id": "Ada Demo_user_1", "avatar_name": "Ada Demo"}
        data = (await client.post(f"{manager}/avatar/start", json=start)).json()["data"]
        async with watching(client, f"http://127.0.0.1:{data['port']}") as viewer:
            await viewer.until_frames(3)
            engine = engine_of(process.pid)
            process.kill()

            async def gone() -> bool:
                return not alive(engine)

            await until(gone)
    finally:
        process.kill()
        process.communicate()
