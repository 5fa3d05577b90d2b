from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import httpx
import pytest

from backend.demo.index import TEXT_BYTES_KEPT
from backend.demo.retrieval import ASKED
from backend.demo.settings import Settings
from backend.demo.world import World

from .conftest import LATENCY_SECONDS
from .sockets import dial, hang_up, until

pytestmark = pytest.mark.asyncio

ABOUT_TEAL = "Teal is the secret colour. 青色是秘密颜色。".encode()


async def uploaded(
    world: World,
    client: httpx.AsyncClient,
    user: str | None = "7",
    name: str = "colours.txt",
    text: bytes = ABOUT_TEAL,
) -> httpx.Response:
    path, fields = ("/admin/upload", {}) if user is None else ("/user/upload", {"user_id": user})
    return await client.post(f"{world.retrieval_url}{path}", data=fields, files={"file": (name, text)})


async def hits(
    world: World, client: httpx.AsyncClient, question: str, user: object = "7", **more: Any
) -> Any:
    fields = {"question": question, "user_id": user, "personal_k": 3, "public_k": 2, "final_k": 5, **more}
    answer = await client.post(f"{world.retrieval_url}/retriever", json=fields)
    assert (answer.status_code, answer.json().keys()) == (200, {"hits"})
    return answer.json()["hits"]


def failed(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    """What the service says of an error: never in a field called msg."""
    said: dict[str, Any] = answer.json()
    assert answer.status_code == status
    assert said["error"] is True
    assert isinstance(said["message"], str)
    assert said.keys() <= {"error", "message", "detail"}
    return said


async def test_upload_tells_where_it_went_and_in_how_many_pieces(
    world: World, client: httpx.AsyncClient
) -> None:
    begun = time.monotonic()
    own = (await uploaded(world, client)).json()
    assert time.monotonic() - begun >= LATENCY_SECONDS
    public = (await uploaded(world, client, user=None)).json()
    assert own == {
        "admin": False,
        "user_id": "7",
        "page_collection": "user_7_pages",
        "chunk_collection": "user_7_chunks",
        "ingest_file": "colours.txt",
        "page_count": 1,
        "page_embs_num": 1,
        "chunk_embs_num": 1,
    }
    assert public["admin"] is True
    assert public.keys() == own.keys() - {"user_id"}


async def test_document_is_taken_in_though_its_sender_has_left(
    world: World, client: httpx.AsyncClient
) -> None:
    world.latency.seconds = 0.3
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    form = head + ABOUT_TEAL + b"\r\n--b--\r\n"
    _, writer = await dial(world.retrieval_url)
    writer.write(
        b"POST /admin/upload HTTP/1.1\r\nHost: demo\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n\r\n" % len(form) + form
    )
    await until(lambda: world.ledger("retrieval").open == 1, seconds=10)
    await hang_up(writer)
    await until(lambda: world.ledger("retrieval").aborted == 1, seconds=10)
    url, files = f"{world.retrieval_url}/api/public_files", list[str]()
    async with asyncio.timeout(10):
        while "a.txt" not in files:
            await asyncio.sleep(0.02)
            files = (await client.get(url)).json()["files"]


async def test_world_ends_amid_an_upload(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(10):
        async with World(Settings.free(latency_seconds=60.0)) as world:
            upload = asyncio.create_task(uploaded(world, client))
            await until(lambda: world.ledger("retrieval").open == 1)
            await asyncio.sleep(0.05)
        with pytest.raises(httpx.TransportError):
            await upload


async def test_larger_file_takes_longer(world: World, client: httpx.AsyncClient) -> None:
    world.latency.seconds = 0.2
    begun = time.monotonic()
    await uploaded(world, client, name="large.pdf", text=b"%PDF" + bytes(10 * 1024 * 1024))
    assert time.monotonic() - begun >= 0.4


async def test_what_was_uploaded_is_found_by_its_owner_alone(world: World, client: httpx.AsyncClient) -> None:
    await uploaded(world, client)
    (hit,) = await hits(world, client, "Which colour is secret?")
    assert hit.keys() == {
        "text",
        "source",
        "page_num",
        "first_score",
        "second_score",
        "final_score",
        "knowledge_base",
    }
    assert (hit["source"], hit["page_num"], hit["knowledge_base"]) == ("colours.txt", 1, "personal")
    assert hit["text"] == ABOUT_TEAL.decode()
    assert [hit["source"] for hit in await hits(world, client, "秘密颜色是什么？")] == ["colours.txt"]
    assert await hits(world, client, "Which colour is secret?", user="8") == []


async def test_users_id_may_be_a_number(world: World, client: httpx.AsyncClient) -> None:
    await uploaded(world, client)
    assert await hits(world, client, "secret colour", user=7)


async def test_public_documents_are_found_by_everybody(world: World, client: httpx.AsyncClient) -> None:
    await uploaded(world, client, user=None)
    assert [hit["knowledge_base"] for hit in await hits(world, client, "secret colour", user="8")] == [
        "public"
    ]


@pytest.mark.parametrize(
    ("question", "said"),
    [("When are the office hours?", "Tuesday"), ("物理考试是什么时候？", "六月二十四日")],
)
async def test_demo_has_documents_of_its_own(
    world: World, client: httpx.AsyncClient, question: str, said: str
) -> None:
    assert said in (await hits(world, client, question))[0]["text"]


async def test_only_the_final_number_has_an_effect(world: World, client: httpx.AsyncClient) -> None:
    for number in range(4):
        await uploaded(world, client, name=f"{number}.txt")
    assert len(await hits(world, client, "secret colour", personal_k=0, public_k=0, threshold=0.99)) == 4
    assert len(await hits(world, client, "secret colour", final_k=2)) == 2


async def test_question_takes_a_tenth_of_the_latency(world: World, client: httpx.AsyncClient) -> None:
    world.latency.seconds = 1.0
    begun = time.monotonic()
    await hits(world, client, "anything")
    assert time.monotonic() - begun >= ASKED


async def test_retriever_with_pictures_names_one(world: World, client: httpx.AsyncClient) -> None:
    await uploaded(world, client)
    url, asked = f"{world.retrieval_url}/multimodal_retriever", {"question": "secret colour", "user_id": "7"}
    answer = (await client.post(url, json=asked)).json()
    assert answer.keys() == {"hits", "img_path"}
    assert "colours.txt" in answer["img_path"]
    assert (await client.post(url, json=asked | {"question": "zzz"})).json() == {"hits": [], "img_path": ""}


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"nonsense",
        b'{"question": "x"}',
        b'{"user_id": "7"}',
        b'{"question": "", "user_id": "7"}',
        b'{"question": ["x"], "user_id": "7"}',
        b'{"question": "x", "user_id": "7", "final_k": "many"}',
        b'{"question": "x", "user_id": "7", "final_k": null}',
        b'{"question": "x", "user_id": "7", "final_k": 1e999}',
    ],
)
async def test_bad_question_is_400(world: World, client: httpx.AsyncClient, body: bytes) -> None:
    failed(await client.post(f"{world.retrieval_url}/retriever", content=body))


async def test_lists_are_names(world: World, client: httpx.AsyncClient) -> None:
    for name in ("b.txt", "a b#1.txt"):
        await uploaded(world, client, name=name)
    await uploaded(world, client, user=None, name="public.md")

    async def listed(path: str) -> Any:
        return (await client.get(f"{world.retrieval_url}{path}")).json()

    assert await listed("/api/users") == {"users": ["7"]}
    assert await listed("/api/user_files?user_id=7") == {"files": ["a b#1.txt", "b.txt"]}
    assert await listed("/api/user_files?user_id=8") == {"files": []}
    assert "public.md" in (await listed("/api/public_files"))["files"]
    failed(await client.get(f"{world.retrieval_url}/api/user_files"))


async def test_deletion_counts_and_zero_is_no_error(world: World, client: httpx.AsyncClient) -> None:
    await uploaded(world, client)
    url, asked = f"{world.retrieval_url}/user/delete", {"user_id": "7", "source_name": "colours.txt"}
    first, second = [await client.post(url, data=asked) for _ in range(2)]
    assert first.json() == {"deleted_page_embs": 1, "deleted_chunks": 1}
    assert (second.status_code, second.json()) == (200, {"deleted_page_embs": 0, "deleted_chunks": 0})
    assert await hits(world, client, "secret colour") == []


async def test_public_documents_are_deleted_by_the_other_route(
    world: World, client: httpx.AsyncClient
) -> None:
    await uploaded(world, client, user=None)
    own, public = f"{world.retrieval_url}/user/delete", f"{world.retrieval_url}/admin/delete"
    asked = {"source_name": "colours.txt"}
    assert (await client.post(own, data=asked | {"user_id": "7"})).json()["deleted_chunks"] == 0
    assert (await client.post(public, data=asked)).json()["deleted_chunks"] == 1


@pytest.mark.parametrize("path", ["/user/delete", "/admin/delete", "/user/upload", "/admin/upload"])
async def test_form_without_its_fields_is_400(world: World, client: httpx.AsyncClient, path: str) -> None:
    failed(await client.post(f"{world.retrieval_url}{path}", data={"other": "x"}))
    if path.startswith("/user"):
        failed(await client.post(f"{world.retrieval_url}{path}", data={"user_id": "7"}))


@pytest.mark.parametrize("name", ["colours.exe", "colours", ".txt"])
async def test_only_some_kinds_of_files_are_taken(world: World, client: httpx.AsyncClient, name: str) -> None:
    failed(await uploaded(world, client, name=name))


@pytest.mark.parametrize("name", ["../up.txt", "folder/in.txt", "n" * 300 + ".txt"])
async def test_name_goes_into_a_path_as_it_came(world: World, client: httpx.AsyncClient, name: str) -> None:
    said = failed(await uploaded(world, client, name=name), 500)
    assert "/tmp/kb_uploads/" in said["detail"]  # noqa: S108
    assert (await client.get(f"{world.retrieval_url}/api/users")).json() == {"users": []}


async def test_quote_in_a_name_breaks_the_deletion(world: World, client: httpx.AsyncClient) -> None:
    asked = {"user_id": "7", "source_name": 'a" or source != "'}
    failed(await client.post(f"{world.retrieval_url}/user/delete", data=asked), 500)


async def test_file_without_letters_is_counted_in_pages_and_found_by_its_name(
    world: World, client: httpx.AsyncClient
) -> None:
    answer = (
        await uploaded(world, client, name="Teal lecture.pdf", text=b"%PDF-1.7" + bytes(200_000))
    ).json()
    assert (answer["page_count"], answer["chunk_embs_num"]) == (5, 1)
    assert [hit["source"] for hit in await hits(world, client, "the lecture on teal")] == ["Teal lecture.pdf"]


async def test_full_index_refuses_and_stays_as_it_was(
    world: World, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.demo.index.DOCUMENTS", 0)
    assert "full" in failed(await uploaded(world, client), 500)["detail"]
    assert (await client.get(f"{world.retrieval_url}/api/users")).json() == {"users": []}


async def test_upload_is_read_in_the_same_memory_whatever_its_size(world: World) -> None:
    world.latency.seconds = 0.0
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    size, block = 64 * 1024 * 1024, b"teal " * 13_000
    reader, writer = await dial(world.retrieval_url)
    length = len(head) + size // len(block) * len(block) + len(b"\r\n--b--\r\n")
    writer.write(
        b"POST /admin/upload HTTP/1.1\r\nHost: demo\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        b"Content-Length: %d\r\n\r\n" % length + head
    )
    tracemalloc.start()
    try:
        for _ in range(size // len(block)):
            writer.write(block)
            await writer.drain()
        writer.write(b"\r\n--b--\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        assert tracemalloc.get_traced_memory()[1] < 16 * TEXT_BYTES_KEPT
    finally:
        tracemalloc.stop()
    await hang_up(writer)


async def test_there_is_no_health(world: World, client: httpx.AsyncClient) -> None:
    answer = await client.get(f"{world.retrieval_url}/health")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    with pytest.raises(json.JSONDecodeError):
        answer.json()
