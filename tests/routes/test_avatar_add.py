import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from tests.routes.conftest import Stage
from tests.support.frontend import FILM, VOICE, Frontend, form_of, good, refused
from tests.support.gateway import Served, raw, serving, spawned
from tests.support.peer import Exchange, Peer, until

MEGABYTE = 1 << 20
BOUNDARY = "----WebKitFormBoundaryAbCdEf0123456789"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"
ADDED = b'{"status":"success","message":"Avatar New One created","image_path":"avatars/New One/image.png"}'


def part(name: str, content: bytes = b"", filename: str | None = None) -> bytes:
    """One part as a browser writes it, with its leading boundary."""
    file = "" if filename is None else f'; filename="{filename}"\r\nContent-Type: application/octet-stream'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
TEXTS = b"".join(part(name, value.encode()) for name, value in form_of().items())


async def chunked(*pieces: bytes, repeat: tuple[bytes, int] | None = None) -> AsyncIterator[bytes]:
    """The pieces of a body; `repeat` goes between the first and the rest."""
    first, *rest = pieces
    yield first
    content, times = repeat or (b"", 0)
    for _ in range(times):
        yield content
    for piece in rest:
        yield piece


async def post(frontend: Frontend, content: Any, content_type: str = MULTIPART) -> httpx.Response:
    headers = frontend.headers | {"Content-Type": content_type}
    return await frontend.http.post("/api/avatar/add", content=content, headers=headers)


async def adds(world: World, http: httpx.AsyncClient) -> list[dict[str, Any]]:
    added: list[dict[str, Any]] = (await http.get(f"{world.control_url}/adds")).json()["adds"]
    return added


@pytest.mark.asyncio
async def test_every_field_and_file_arrives_at_the_catalogue(tutor: Frontend, world: World) -> None:
    form = form_of() | {"description": 'Says "hi"; twice\r\n', "support_clone": "true"}
    del form["prompt_voice"]
    answer = good(await tutor.add(form, prompt_face=("my film.MP4", FILM), prompt_voice=("voice.wav", VOICE)))
    assert answer == {
        "status": "success",
        "message": "Avatar New One created",
        "image_path": "avatars/New One/image.png",
    }
    (added,) = await adds(world, tutor.http)
    assert added["fields"] == form
    assert {
        name: (file["filename"], file["size"], file["sha256"]) for name, file in added["files"].items()
    } == {
        "prompt_face": ("my film.MP4", len(FILM), hashlib.sha256(FILM).hexdigest()),
        "prompt_voice": ("voice.wav", len(VOICE), hashlib.sha256(VOICE).hexdigest()),
    }


@pytest.mark.asyncio
async def test_form_without_a_voice_arrives_without_the_empty_field(tutor: Frontend, world: World) -> None:
    good(await tutor.add(form_of(), prompt_face=("a.mp4", FILM)))
    (added,) = await adds(world, tutor.http)
    assert "prompt_voice" not in added["fields"]
    assert set(added["files"]) == {"prompt_face"}
    # `null` is what the frontend's form says for "no".
    assert added["fields"]["support_clone"] == "false"
    assert added["fields"]["ref_text"] == "你好, welcome"
    assert "New One" in good(await tutor.get("/api/avatar/list"))


@pytest.mark.asyncio
async def test_new_avatar_can_be_used_at_once(tutor: Frontend) -> None:
    good(await tutor.get("/api/avatar/list"))
    good(await tutor.add(form_of(), prompt_face=("a.mp4", FILM)))
    assert (await tutor.multipart("/api/avatar/preview", avatar_name="New One")).status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(("role", "status"), [("student", 403), ("nobody", 401)])
async def test_others_than_tutors_are_refused_before_the_body_is_read(
    served: Served, world: World, role: str, status: int
) -> None:
    token = await served.token(role) if role == "student" else "null"
    head = (
        f"POST /api/avatar/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {MULTIPART}\r\nContent-Length: 104857600\r\n\r\n"
    )
    answer = await raw(served.port, head.encode(), read=12)
    assert answer == f"HTTP/1.1 {status}".encode()
    assert world.ledger("catalogue").calls == 0


@pytest.mark.asyncio
async def test_refusal_reaches_a_client_that_sends_its_whole_body_first(
    student: Frontend, world: World
) -> None:
    film = part("prompt_face", FILM + bytes(20 * MEGABYTE), "a.mp4")
    refused(await post(student, chunked(TEXTS, film, END)), 403, "not_allowed")
    assert world.ledger("catalogue").calls == 0


@pytest.mark.asyncio
async def test_film_passes_on_while_it_arrives(settings: Callable[..., Settings]) -> None:
    arrived = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        seen = b""
        while FILM not in seen:
            seen += await exchange.chunk()
        arrived.set()
        while chunk := await exchange.chunk():
            seen += chunk
        await exchange.reply(ADDED, (b"Content-Type", b"application/json"))

    async def body() -> AsyncIterator[bytes]:
        yield TEXTS
        yield part("prompt_face", FILM, "a.mp4")[:-2]
        await asyncio.wait_for(arrived.wait(), 10)
        yield b"the rest\r\n" + END

    async with Peer(script) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        tutor = Frontend(served.http, await served.token("tutor"))
        assert good(await post(tutor, body()))["status"] == "success"
        assert peer.heads[0].get(b"authorization") is None
        assert BOUNDARY.encode() not in (peer.heads[0].get(b"content-type") or b"")


FACE = part("prompt_face", FILM, "a.mp4")
FORMS: dict[str, tuple[bytes, int]] = {
    "no name": (FACE + END, 400),
    "empty name": (part("name") + FACE + END, 400),
    "no film": (TEXTS + END, 400),
    "film as text": (part("name", b"A") + part("prompt_face", b"x") + END, 400),
    "empty film field": (part("name", b"A") + part("prompt_face") + END, 400),
    "no file chosen": (part("name", b"A") + part("prompt_face", b"", "") + END, 400),
    "name twice": (part("name", b"A") + TEXTS + FACE + END, 400),
    "film twice": (TEXTS + part("prompt_face", FILM, "a.mp4") * 2 + END, 400),
    "name in disguise": (TEXTS + part("x/name", b"../..") + FACE + END, 400),
    "film in disguise": (
        TEXTS + part("x\\prompt_face", b"y") + part("prompt_face", FILM, "a.mp4") + END,
        400,
    ),
    "bad flag": (part("name", b"A") + part("avatar_blur", b"yes") + END, 400),
    "bad model": (part("name", b"A") + part("avatar_model", b"Other") + END, 400),
    "not UTF-8": (part("name", b"A") + part("description", b"\xff") + END, 400),
    "no parts": (END, 400),
    "no end": (TEXTS + part("prompt_face", FILM, "a.mp4"), 400),
    "no multipart": (b"name=A", 400),
    "part without a name": (f"--{BOUNDARY}\r\n\r\nx\r\n".encode() + END, 400),
    "too many parts": (b"".join(part(f"f{n}") for n in range(80)) + END, 400),
    "long field": (part("name", b"A") + part("ref_text", b"x" * 70_000) + END, 413),
    "other suffix": (TEXTS + part("prompt_face", FILM, "a.mp4.exe") + END, 415),
    "no suffix": (TEXTS + part("prompt_face", FILM, "mp4") + END, 415),
    "no film inside": (TEXTS + part("prompt_face", b"MZ" + bytes(64), "a.mp4") + END, 415),
    "page for a film": (TEXTS + part("prompt_face", b"<html>" + bytes(64), "a.mp4") + END, 415),
    "short film": (TEXTS + part("prompt_face", FILM[:11], "a.mp4") + END, 415),
    "film for a voice": (
        part("name", b"A") + part("prompt_voice", FILM, "a.wav") + part("prompt_face", FILM, "a.mp4") + END,
        415,
    ),
    "file elsewhere": (TEXTS + part("other", FILM, "a.mp4") + END, 415),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", FORMS)
async def test_wrong_form_is_refused_and_never_looks_whole_to_the_catalogue(stage: Stage, form: str) -> None:
    content, status = FORMS[form]
    before = await adds(stage.world, stage.tutor.http)
    refused(await post(stage.tutor, content), status)
    assert await adds(stage.world, stage.tutor.http) == before
    await until(lambda: stage.served.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", ["no end", "no suffix", "film twice", "name in disguise"])
async def test_form_that_turns_out_wrong_midway_is_refused_in_any_pieces(stage: Stage, form: str) -> None:
    content, status = FORMS[form]

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 100):
            yield content[start : start + 100]

    before = await adds(stage.world, stage.tutor.http)
    refused(await post(stage.tutor, pieces()), status)
    assert await adds(stage.world, stage.tutor.http) == before


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("suffix", ["mp4", "AVI", "mov", "mkv"])
async def test_films_of_every_kind_are_taken(stage: Stage, suffix: str) -> None:
    heads = {"mkv": b"\x1a\x45\xdf\xa3" + bytes(20), "AVI": b"RIFF\x00\x00\x00\x00AVI LIST"}
    good(await stage.tutor.add(form_of(), prompt_face=(f"a.{suffix}", heads.get(suffix, FILM))))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "x" * 300, 400),
        ("multipart/mixed; boundary=b", 415),
    ],
)
async def test_content_type_that_is_no_form_is_refused(stage: Stage, content_type: str, status: int) -> None:
    refused(await post(stage.tutor, TEXTS, content_type), status)


@pytest.mark.asyncio(loop_scope="module")
async def test_body_without_bytes_is_400(stage: Stage) -> None:
    refused(await post(stage.tutor, b""), 400)


@pytest.mark.asyncio
async def test_form_declared_too_large_is_413_at_once(served: Served, world: World) -> None:
    head = (
        f"POST /api/avatar/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {await served.token('tutor')}\r\n"
        f"Content-Type: {MULTIPART}\r\nContent-Length: {160 * MEGABYTE + 1}\r\n\r\n"
    )
    assert await raw(served.port, head.encode(), read=12) == b"HTTP/1.1 413"
    assert world.ledger("catalogue").calls == 0


@pytest.mark.asyncio
async def test_film_over_its_limit_is_413_and_added_nowhere(tutor: Frontend, world: World) -> None:
    film = part("prompt_face", FILM, "a.mp4")[:-2]
    body = chunked(TEXTS + film, b"\r\n" + END, repeat=(bytes(MEGABYTE), 101))
    assert "100 MB" in refused(await post(tutor, body), 413, "too_large")["msg"]
    assert await adds(world, tutor.http) == []
    await until(lambda: world.ledger("catalogue").open == 0)


@pytest.mark.asyncio
async def test_whole_form_over_its_limit_is_413_wherever_the_bytes_are(tutor: Frontend, world: World) -> None:
    whole = TEXTS + part("prompt_face", FILM, "a.mp4") + END
    body = chunked(whole, b"", repeat=(bytes(MEGABYTE), 161))
    refused(await post(tutor, body), 413, "too_large")
    assert await adds(world, tutor.http) == []


@pytest.mark.asyncio
async def test_client_that_leaves_midway_ends_the_call_and_adds_nothing(
    served: Served, tutor: Frontend, world: World
) -> None:
    started = TEXTS + part("prompt_face", FILM + bytes(MEGABYTE), "a.mp4")
    head = (
        f"POST /api/avatar/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tutor.token}\r\n"
        f"Content-Type: {MULTIPART}\r\nContent-Length: {len(started) + 1000}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head.encode() + started)
    await until(lambda: world.ledger("catalogue").open == 1)
    writer.close()
    await until(lambda: world.ledger("catalogue").open == 0)
    assert world.ledger("catalogue").aborted == 1
    assert await adds(world, tutor.http) == []
    await until(lambda: served.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
async def test_catalogue_that_refuses_early_is_heard(tutor: Frontend, world: World) -> None:
    await world.control.put(Switch("catalogue", "reset", "/avatar/add"))
    film = part("prompt_face", FILM + bytes(5 * MEGABYTE), "a.mp4")
    refused(await post(tutor, chunked(TEXTS, film, END)), 502, "upstream_broken")


@pytest.mark.asyncio
async def test_catalogue_that_answers_without_reading_is_heard(settings: Callable[..., Settings]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.reply(b'{"detail":"disk full"}', status=b"507 Insufficient Storage")
        await exchange.client_left()

    async with Peer(script) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        tutor = Frontend(served.http, await served.token("tutor"))
        film = part("prompt_face", FILM + bytes(20 * MEGABYTE), "a.mp4")
        shown = refused(await post(tutor, chunked(TEXTS, film, END)), 502)
        assert shown["code"] in ("upstream_rejected", "upstream_broken")
        await until(lambda: served.gateway.client.slots.in_use == 0)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "status"), [("400 Bad Request", 400), ("422 No", 400), ("413 Large", 413)]
)
async def test_refusal_of_the_catalogue_keeps_its_meaning(
    settings: Callable[..., Settings], answer: str, status: int
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(b'{"detail":"/srv/secret"}', status=answer.encode())

    async with Peer(script) as peer, serving(settings(avatar_service_url=peer.url)) as served:
        tutor = Frontend(served.http, await served.token("tutor"))
        refused(await tutor.add(form_of(), prompt_face=("a.mp4", FILM)), status)


def test_upload_of_a_whole_film_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    def pieces() -> Any:
        yield TEXTS + part("prompt_face", FILM, "a.mp4")[:-2]
        for _ in range(95):
            yield bytes(MEGABYTE)
        yield b"\r\n" + END

    with (
        spawned(tmp_path, "--demo", "--demo-latency=0.01") as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=60) as http,
    ):
        login = {"email": "tutor@demo.local", "password": "Demo-pass1!"}
        token = http.post("/api/login", json=login).json()["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": MULTIPART}
        process = psutil.Process(gateway.process.pid)
        before = process.memory_info().rss
        answer = http.post("/api/avatar/add", content=pieces(), headers=headers)
        assert answer.status_code == 200, answer.text
        peak = max(before, _peak(gateway.process.pid))
        assert peak - before < 32 * MEGABYTE


def _peak(pid: int) -> int:
    """The most memory a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
