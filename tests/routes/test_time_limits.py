"""Every remote call of every route against a service that stalls, at every stage, with short limits."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import httpx
import pytest

import backend.services
from backend.config import Settings
from backend.services.policies import Timeouts
from backend.services.signalling import ALLOWED
from tests.support.frontend import FILM, Frontend, form_of, good, refused
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.instance import OFFER
from tests.support.peer import Exchange, Peer, Script, until
from tests.support.wire import calling, unanswering

pytestmark = pytest.mark.asyncio

SHORT = Timeouts(first_byte=0.8, idle=0.8, total=2.4, upload_idle=0.8)
# Far more than the short limits, far less than the real ones.
IN_TIME_SECONDS = 10.0
OK = b"HTTP/1.1 200 OK\r\n"


def modules() -> list[ModuleType]:
    return [
        import_module(f"backend.services.{found.name}") for found in iter_modules(backend.services.__path__)
    ]


def limits() -> dict[tuple[ModuleType, str], Timeouts]:
    """Every set of limits that a service defines."""
    return {
        (module, name): value
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, Timeouts)
    }


async def dribble(exchange: Exchange, start: bytes, piece: bytes) -> None:
    await exchange.send(start)
    while not exchange.writer.is_closing():
        await asyncio.sleep(0.1)
        await exchange.send(piece)


STAGES: Mapping[str, Script] = {
    "silent": lambda exchange: exchange.client_left(),
    "half a head": lambda exchange: _stop(exchange, OK + b"Content-Le"),
    "dribbled head": lambda exchange: dribble(exchange, OK, b"X-A: b\r\n"),
    "dribbled interim answers": lambda exchange: dribble(exchange, b"", b"HTTP/1.1 103 Early\r\n\r\n"),
    "head and no more": lambda exchange: _stop(exchange, OK + b"Content-Length: 100\r\n\r\n"),
    "half a body": lambda exchange: _stop(exchange, OK + b'Content-Length: 100\r\n\r\n{"a":'),
    "dribbled body": lambda exchange: dribble(exchange, OK + b"Content-Length: 100000\r\n\r\n{", b" "),
}


async def _stop(exchange: Exchange, raw: bytes) -> None:
    await exchange.send(raw)
    await exchange.client_left()


SESSION = 123456


@dataclass
class World:
    """Services that work, but for one path, which does what the present stage says."""

    stalls: bytes = b""
    stage: Script = STAGES["silent"]
    instance_port: int = 0

    async def __call__(self, exchange: Exchange) -> None:
        path = exchange.head.target
        if path == self.stalls:
            await self.stage(exchange)
            return
        await exchange.body()
        if path == b"/avatar/get_avatars":
            answer: object = {"avatars": {"Ada": {}}}
        elif path == b"/avatar/start":
            answer = {"code": 0, "data": {"avatar_id": "Ada_user_1", "port": self.instance_port}}
        elif path == b"/offer":
            answer = OFFER | {"type": "answer", "sessionid": SESSION}
        else:
            answer = {"code": 0, "status": "success", "data": {}}
        await exchange.reply(json.dumps(answer).encode())


async def recorded(frontend: Frontend) -> httpx.Response:
    """A recording for the session that an offer brought."""
    form = {"sessionid": (None, str(SESSION)), "file": ("a.wav", b"RIFF\x24\0\0\0WAVEfmt ")}
    return await frontend.http.post("/api/webrtc/humanaudio", files=form, headers=frontend.headers)


@dataclass(frozen=True)
class Route:
    call: Callable[[Frontend], Awaitable[httpx.Response]]
    path: bytes

    async def prepare(self, frontend: Frontend) -> None:
        """Do what comes before the call, while everything works."""
        if self.path != b"/avatar/get_avatars":
            good(await frontend.get("/api/avatar/list"))
        if self.path.count(b"/") == 1:  # an instance's own call needs an instance
            good(await frontend.urlencoded("/api/avatar/start", avatar_name="Ada"))
        if self.path == b"/humanaudio":
            good(await frontend.json("/api/webrtc/offer", OFFER))


ROUTES: Mapping[str, Route] = {
    "list": Route(lambda f: f.get("/api/avatar/list"), b"/avatar/get_avatars"),
    "preview": Route(lambda f: f.multipart("/api/avatar/preview", avatar_name="Ada"), b"/avatar/preview"),
    "delete": Route(lambda f: f.multipart("/api/avatar/delete", name="Ada"), b"/avatar/delete"),
    "start": Route(lambda f: f.urlencoded("/api/avatar/start", avatar_name="Ada"), b"/avatar/start"),
    "add": Route(lambda f: f.add(form_of(), prompt_face=("a.mp4", FILM)), b"/avatar/add"),
    **{
        name: Route(
            (lambda f, name=name: f.get(f"/api/webrtc/{name}"))
            if method == "GET"
            else (lambda f, name=name: f.json(f"/api/webrtc/{name}", OFFER)),
            b"/" + name.encode(),
        )
        for name, (method, _) in ALLOWED.items()
    },
    "humanaudio": Route(lambda f: recorded(f), b"/humanaudio"),
}


Shorten = Callable[[Timeouts], None]


@pytest.fixture
def shorten(monkeypatch: pytest.MonkeyPatch) -> Shorten:
    """Return what puts short limits in the place of every service's own."""

    def put(timeouts: Timeouts) -> None:
        for module, name in limits():
            monkeypatch.setattr(module, name, timeouts)
        for name, (method, rules) in ALLOWED.items():
            monkeypatch.setitem(ALLOWED, name, (method, replace(rules, timeouts=timeouts)))  # type: ignore[arg-type]

    return put


@asynccontextmanager
async def world(folder: Path, **over: Any) -> AsyncIterator[tuple[World, Peer, Served]]:
    """Run services and a gateway in front of them."""
    known = World()
    async with Peer(known) as peer, serving(settings_at(folder, peer, **over)) as served:
        known.instance_port = peer.port
        yield known, peer, served


def settings_at(folder: Path, peer: Peer, **over: Any) -> Settings:
    services = {"avatar_service_url": peer.url, "avatar_manager_url": peer.url}
    limits = {"avatar_instance_ports": "1024-65535", "gateway_connect_seconds": 0.5}
    return settings_for(folder, **(services | limits | over))


async def in_time(answering: Awaitable[httpx.Response]) -> httpx.Response:
    began = time.monotonic()
    answer = await answering
    assert time.monotonic() - began < IN_TIME_SECONDS
    return answer


async def idle(served: Served) -> None:
    await until(lambda: served.gateway.client.slots.in_use == 0)


async def test_every_limit_of_every_service_is_complete() -> None:
    assert len(limits()) >= 8
    for (_, name), timeouts in limits().items():
        assert timeouts.total is not None, f"{name} could be drawn out for ever"
    for path, (_, rules) in ALLOWED.items():
        assert rules.timeouts.total is not None, path


@pytest.mark.parametrize("stage", STAGES)
async def test_stalling_service_is_a_timeout_on_every_route(
    shorten: Shorten, tmp_path: Path, stage: str
) -> None:
    """Each route has a gateway and services of its own, so that all can wait together."""
    async with AsyncExitStack() as worlds:
        waiting = []
        for name, route in ROUTES.items():
            folder = tmp_path / name
            folder.mkdir()
            known, peer, served = await worlds.enter_async_context(world(folder))
            tutor = Frontend(served.http, await served.token("tutor"))
            await route.prepare(tutor)
            known.stalls, known.stage = route.path, STAGES[stage]
            waiting.append((route, peer, served, tutor))
        shorten(SHORT)
        answers = await asyncio.gather(*(in_time(route.call(tutor)) for route, _, _, tutor in waiting))
        for (_, peer, served, _), answer in zip(waiting, answers, strict=True):
            refused(answer, 504)
            await idle(served)
            await until(lambda peer=peer: peer.open <= 1)


async def test_service_that_takes_no_connection_is_a_timeout(tmp_path: Path) -> None:
    with unanswering() as port:
        async with world(tmp_path, avatar_service_url=f"http://127.0.0.1:{port}") as (_, _, served):
            tutor = Frontend(served.http, await served.token("tutor"))
            refused(await in_time(tutor.get("/api/avatar/list")), 504, "upstream_connect_timeout")
            await idle(served)


async def test_released_instance_is_gone_even_when_its_manager_hangs(
    shorten: Shorten, tmp_path: Path
) -> None:
    async with world(tmp_path) as (known, _, served):
        student = Frontend(served.http, await served.token())
        good(await student.urlencoded("/api/avatar/start", avatar_name="Ada"))
        known.stalls = b"/avatar/disconnect"
        shorten(SHORT)
        good(await in_time(student.json("/api/avatar/disconnect")))
        await idle(served)


async def test_mount_with_a_total_ends_a_stream_that_never_does(tmp_path: Path) -> None:
    async def stream(exchange: Exchange) -> None:
        await dribble(exchange, OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")

    async with Peer(stream) as peer:
        mounts = [mount("/m", peer.url, total=0.8)]
        async with (
            serving(settings_for(tmp_path, gateway_mounts=mounts)) as served,
            calling(served.port) as caller,
        ):
            await caller.ask(b"/m/x")
            reply = await caller.reply()
            assert (reply.status, reply.complete) == (200, False)
            await until(lambda: peer.open == 0)


# The client's side of a call: it holds an upstream connection, too.


async def test_upload_that_stalls_is_408_and_lets_go_of_the_upstream(
    shorten: Shorten, tmp_path: Path
) -> None:
    """The add route streams: its client says half of what it declared, and then nothing."""
    async with world(tmp_path) as (known, peer, served), calling(served.port) as caller:
        known.stalls, known.stage = b"/avatar/add", STAGES["silent"]
        # All others are far off, so that a machine that pauses reaches none of them first.
        shorten(Timeouts(first_byte=60, idle=60, total=60, upload_idle=0.4))
        token = await served.token("tutor")
        request = httpx.Request(
            "POST",
            "http://x/",
            files={**{k: (None, v) for k, v in form_of().items()}, "prompt_face": ("a.mp4", FILM * 100)},
        )
        body = request.read()
        await caller.say(
            b"POST /api/avatar/add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token.encode() + b"\r\n",
            b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n",
            b"Content-Length: %d\r\n\r\n" % len(body),
            body[: len(body) // 2],
        )
        reply = await caller.reply()
        assert (reply.status, json.loads(reply.body)["code"]) == (408, "upload_stalled")
        assert b"/avatar/add" in [head.target for head in peer.heads]
        await idle(served)
        await until(lambda: peer.open == 0)


async def test_client_that_takes_nothing_is_cut_off_and_lets_go_of_the_upstream(tmp_path: Path) -> None:
    async def flood(exchange: Exchange) -> None:
        await exchange.send(OK + b"Content-Length: 1000000000\r\n\r\n")
        while not exchange.writer.is_closing():
            await exchange.send(bytes(65536))

    async with (
        Peer(flood) as peer,
        serving(settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url)])) as served,
    ):
        served.application.asgi.stall_seconds = 0.4
        async with calling(served.port, receive_buffer=4096) as caller:
            await caller.ask(b"/m/x")
            assert (await caller.head()).status == 200
            await until(lambda: served.gateway.client.slots.in_use == 0, 15)
            await until(lambda: peer.open == 0)
