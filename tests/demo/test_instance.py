from __future__ import annotations

import httpx
import pytest
import pytest_asyncio

from backend.demo.world import World

pytestmark = pytest.mark.asyncio

IN_SESSION = ["human", "interrupt_talk", "is_speaking", "record", "set_audiotype"]


@pytest_asyncio.fixture
async def session(instance_url: str, client: httpx.AsyncClient) -> int:
    answer = await client.post(f"{instance_url}/offer", json={"sdp": "v=0", "type": "offer"})
    number = answer.json()["sessionid"]
    assert isinstance(number, int)
    return number


async def test_offer_is_answered_with_sdp_and_a_six_digit_session(
    instance_url: str, client: httpx.AsyncClient
) -> None:
    answer = (await client.post(f"{instance_url}/offer", json={"sdp": "v=0", "type": "offer"})).json()
    assert answer["type"] == "answer"
    assert answer["sdp"].startswith("v=0\r\n")
    assert 100_000 <= answer["sessionid"] <= 999_999


@pytest.mark.parametrize("body", [b"{}", b'{"sdp": ""}', b"not json"])
async def test_offer_without_sdp_is_200_with_code_minus_one(
    instance_url: str, client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post(f"{instance_url}/offer", content=body)
    assert answer.status_code == 200
    assert answer.json()["code"] == -1
    assert "sdp" not in answer.json()


@pytest.mark.parametrize("verb", IN_SESSION)
async def test_known_session_is_served(
    instance_url: str, client: httpx.AsyncClient, session: int, verb: str
) -> None:
    fields = {"sessionid": session, "type": "echo", "text": "hello"}
    answer = await client.post(f"{instance_url}/{verb}", json=fields)
    assert (answer.status_code, answer.json()["code"]) == (200, 0)


@pytest.mark.parametrize("verb", IN_SESSION)
async def test_unknown_session_is_404(
    instance_url: str, client: httpx.AsyncClient, session: int, verb: str
) -> None:
    answer = await client.post(f"{instance_url}/{verb}", json={"sessionid": 1, "text": "hello"})
    assert (answer.status_code, answer.json()["code"]) == (404, -1)


async def test_session_given_as_text_is_never_found(
    instance_url: str, client: httpx.AsyncClient, session: int
) -> None:
    answer = await client.post(f"{instance_url}/human", json={"sessionid": str(session), "text": "hello"})
    assert answer.status_code == 404


async def test_human_without_text_is_200_with_code_minus_one(
    instance_url: str, client: httpx.AsyncClient, session: int
) -> None:
    answer = await client.post(f"{instance_url}/human", json={"sessionid": session})
    assert (answer.status_code, answer.json()["code"]) == (200, -1)


async def test_interrupt_ends_the_speech(instance_url: str, client: httpx.AsyncClient, session: int) -> None:
    async def speaking() -> bool:
        answer = await client.post(f"{instance_url}/is_speaking", json={"sessionid": session})
        return bool(answer.json()["data"])

    assert not await speaking()
    await client.post(f"{instance_url}/human", json={"sessionid": session, "text": "a" * 1000})
    assert await speaking()
    await client.post(f"{instance_url}/interrupt_talk", json={"sessionid": session})
    assert not await speaking()


async def test_human_audio_takes_the_session_as_a_form_field(
    instance_url: str, client: httpx.AsyncClient, session: int
) -> None:
    async def send(number: int) -> int:
        form, voice = {"sessionid": str(number)}, {"file": ("voice.wav", b"RIFF" * 1000)}
        return (await client.post(f"{instance_url}/humanaudio", data=form, files=voice)).status_code

    assert await send(session) == 200
    assert await send(1) == 404


async def test_health_counts_the_sessions(instance_url: str, client: httpx.AsyncClient, session: int) -> None:
    answer = (await client.get(f"{instance_url}/health")).json()
    assert answer["sessions"] == 1
    assert answer["max_sessions"] > 1


async def test_instances_do_not_know_each_others_sessions(
    world: World, instance_url: str, client: httpx.AsyncClient
) -> None:
    start = {"avatar_id": "Mei Lin_user_2", "avatar_name": "Mei Lin"}
    started = (await client.post(f"{world.manager_url}/avatar/start", json=start)).json()
    second = started["data"]["webrtc_url"]
    answer = await client.post(f"{instance_url}/offer", json={"sdp": "v=0", "type": "offer"})
    fields = {"sessionid": answer.json()["sessionid"], "text": "hello"}
    assert (await client.post(f"{second}/human", json=fields)).status_code == 404
