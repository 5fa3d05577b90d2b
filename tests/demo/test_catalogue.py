from __future__ import annotations

import asyncio
import hashlib
import time

import httpx
import pytest

from backend.demo.settings import Settings
from backend.demo.world import World

from .conftest import LATENCY_SECONDS
from .sockets import PREVIEW, dial, hang_up

pytestmark = pytest.mark.asyncio


async def test_list_is_an_object_keyed_by_name(world: World, client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{world.catalogue_url}/avatar/get_avatars")).json()
    assert answer["status"] == "success"
    assert {"Tutor One", "Ada Demo", "Prof Chen", "Mei Lin"} <= answer["avatars"].keys()
    assert answer["avatars"]["Ada Demo"].keys() == {
        "tts_model",
        "timbre",
        "avatar_model",
        "description",
        "support_clone",
        "avatar_blur",
        "created_at",
        "status",
    }


async def test_the_name_the_old_video_button_asks_for_is_not_in_the_list(
    world: World, client: httpx.AsyncClient
) -> None:
    answer = (await client.get(f"{world.catalogue_url}/avatar/get_avatars")).json()
    assert "test_yongen" not in answer["avatars"]


async def test_list_can_take_the_older_form(world: World, client: httpx.AsyncClient) -> None:
    answer = (await client.get(f"{world.catalogue_url}/avatar/get_avatars?form=list")).json()
    assert isinstance(answer["avatars"], list)
    assert "Ada Demo" in answer["avatars"]


async def test_a_world_set_to_the_older_form_lists_names_without_being_asked(
    client: httpx.AsyncClient,
) -> None:
    async with World(Settings.free(list_form=True)) as world:
        answer = (await client.get(f"{world.catalogue_url}/avatar/get_avatars")).json()
    assert isinstance(answer["avatars"], list)


async def test_preview_is_a_png_after_the_latency(world: World, client: httpx.AsyncClient) -> None:
    begun = time.monotonic()
    answer = await client.post(f"{world.catalogue_url}/avatar/preview", data={"avatar_name": "Ada Demo"})
    assert time.monotonic() - begun >= LATENCY_SECONDS
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG\r\n\x1a\n")


async def test_preview_takes_a_multipart_form_too(world: World, client: httpx.AsyncClient) -> None:
    form = {"avatar_name": (None, "Ada Demo")}
    answer = await client.post(f"{world.catalogue_url}/avatar/preview", files=form)
    assert answer.status_code == 200


async def test_preview_of_an_unknown_avatar_is_404_with_detail(
    world: World, client: httpx.AsyncClient
) -> None:
    answer = await client.post(f"{world.catalogue_url}/avatar/preview", data={"avatar_name": "Nobody"})
    assert answer.status_code == 404
    assert isinstance(answer.json()["detail"], str)


async def test_preview_without_a_name_is_422_with_a_list(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{world.catalogue_url}/avatar/preview", data={"other": "x"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "avatar_name"]


async def test_added_avatar_is_listed_and_recorded(world: World, client: httpx.AsyncClient) -> None:
    video = bytes(range(256)) * 4096
    answer = await client.post(
        f"{world.catalogue_url}/avatar/add",
        data={"name": "New One", "ref_text": "hello", "prompt_voice": "", "support_clone": "true"},
        files={"prompt_face": ("face.MP4", video, "video/mp4")},
    )
    assert answer.json().keys() == {"status", "message", "image_path"}
    listed = (await client.get(f"{world.catalogue_url}/avatar/get_avatars")).json()["avatars"]
    assert listed["New One"]["support_clone"] is True

    (record,) = (await client.get(f"{world.control_url}/adds")).json()["adds"]
    assert record["fields"] == {
        "name": "New One",
        "ref_text": "hello",
        "prompt_voice": "",
        "support_clone": "true",
    }
    assert record["files"]["prompt_face"] == {
        "filename": "face.MP4",
        "content_type": "video/mp4",
        "size": len(video),
        "sha256": hashlib.sha256(video).hexdigest(),
    }


@pytest.mark.parametrize(
    ("filename", "content"), [("face.txt", b"x"), ("face.mp4", b"")], ids=["wrong suffix", "empty video"]
)
async def test_add_refuses_what_is_no_video(
    world: World, client: httpx.AsyncClient, filename: str, content: bytes
) -> None:
    answer = await client.post(
        f"{world.catalogue_url}/avatar/add",
        data={"name": "New One"},
        files={"prompt_face": (filename, content)},
    )
    assert answer.status_code == 400
    assert (await client.get(f"{world.control_url}/adds")).json() == {"adds": []}


async def test_add_without_a_video_is_422(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{world.catalogue_url}/avatar/add", files={"name": (None, "New One")})
    assert answer.status_code == 422


async def test_multipart_without_its_last_boundary_is_refused(
    world: World, client: httpx.AsyncClient
) -> None:
    answer = await client.post(
        f"{world.catalogue_url}/avatar/add",
        content=b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nNew',
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 400


async def test_delete_answers_200_whether_or_not_the_avatar_exists(
    world: World, client: httpx.AsyncClient
) -> None:
    first = await client.post(f"{world.catalogue_url}/avatar/delete", data={"name": "Ada Demo"})
    second = await client.post(f"{world.catalogue_url}/avatar/delete", data={"name": "Ada Demo"})
    assert (first.status_code, first.json()["status"]) == (200, "success")
    assert (second.status_code, second.json()["status"]) == (200, "error")


async def test_there_are_four_voice_models(world: World, client: httpx.AsyncClient) -> None:
    models = (await client.get(f"{world.catalogue_url}/tts/models")).json()
    assert models.keys() == {"edgeTTS", "tacotron", "sovits", "cosyvoice"}


async def test_unknown_route_is_404_with_detail(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{world.catalogue_url}/nowhere")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


async def test_three_hundred_previews_wait_together(world: World) -> None:
    # On raw sockets: the pool of an HTTP client takes longer over 300 connections than the world does.
    world.latency.seconds = 0.3

    async def preview() -> bytes:
        reader, writer = await dial(world.catalogue_url)
        writer.write(PREVIEW)
        seen = await reader.readuntil(b"IEND")
        await hang_up(writer)
        return seen

    begun = time.monotonic()
    seen = await asyncio.gather(*(preview() for _ in range(300)))
    took = time.monotonic() - begun
    assert {each[:15] for each in seen} == {b"HTTP/1.1 200 OK"}
    assert took < 9  # one after another: 90 s
