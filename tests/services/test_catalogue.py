import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backend.errors import NotFound, UpstreamBusy, UpstreamGarbage, UpstreamRejected
from backend.services.avatar_form import AvatarForm
from backend.services.catalogue import Catalogue
from backend.services.forwarding import Forwarder, Inbound, Upstream
from backend.services.headers import Origin
from tests.support.forms import MULTIPART, Part, Pieces, written
from tests.support.frontend import FILM
from tests.support.peer import JSON, Exchange, Peer, Script, until
from tests.support.upstream import client_of

ADA = {"Ada": {"description": "a", "support_clone": True}}
INBOUND = Inbound("POST", b"/", b"", (), None, Origin("192.0.2.7", "http", b"gw", "1.1", "0123456789"))


def listing(avatars: object) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(json.dumps({"status": "success", "avatars": avatars}).encode(), JSON)

    return script


@asynccontextmanager
async def catalogue_at(script: Script) -> AsyncIterator[tuple[Catalogue, Peer]]:
    async with Peer(script) as peer, client_of("reqwest") as client:
        upstream = Upstream.at("catalogue", peer.url)
        catalogue = Catalogue(Forwarder(client), upstream, stale_after_seconds=0.1)
        yield catalogue, peer
        await catalogue.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("avatars", "shown"),
    [
        (ADA, ["Ada"]),
        (["Ada", "Bo"], ["Ada", "Bo"]),
        ([{"name": "Ada", "description": "x"}, {"description": "no name"}, "Bo"], ["Ada", "Bo"]),
        ([None, 0, "", "Bo"], ["Bo"]),
        ({"Ada": {}, "Bo": None, "Cy": "text", "Di": []}, ["Ada"]),
        ({"token": {}, "Token": {}}, ["Token"]),
        ({}, []),
        ([], []),
    ],
)
async def test_every_form_of_the_list_becomes_objects_by_name(avatars: object, shown: list[str]) -> None:
    async with catalogue_at(listing(avatars)) as (catalogue, _):
        found, stale = await catalogue.avatars()
        assert (list(found), stale) == (shown, False)
        for entry in found.values():
            assert {"description", "status", "clone", "support_clone"} <= set(entry)
            assert entry["clone"] is entry["support_clone"]


@pytest.mark.asyncio
@pytest.mark.parametrize("avatars", [None, "Ada", 5, True])
async def test_list_of_another_kind_is_garbage(avatars: object) -> None:
    async with catalogue_at(listing(avatars)) as (catalogue, _):
        with pytest.raises(UpstreamGarbage):
            await catalogue.avatars()


@pytest.mark.asyncio
async def test_callers_at_the_same_time_share_one_call() -> None:
    async with catalogue_at(listing(ADA)) as (catalogue, peer):
        answers = await asyncio.gather(*(catalogue.avatars() for _ in range(50)))
        assert all(answer == answers[0] for answer in answers)
        assert len(peer.heads) == 1
        await catalogue.avatars()
        assert len(peer.heads) == 2


@pytest.mark.asyncio
async def test_callers_share_a_failure_too_and_the_next_one_asks_again() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            await exchange.reply(b"{}", status=b"500 No")
        else:
            await listing(ADA)(exchange)

    async with catalogue_at(script) as (catalogue, peer):
        failures = await asyncio.gather(*(catalogue.avatars() for _ in range(5)), return_exceptions=True)
        assert [type(failure) for failure in failures] == [UpstreamRejected] * 5
        assert len(peer.heads) == 1
        assert list((await catalogue.avatars())[0]) == ["Ada"]


@pytest.mark.asyncio
async def test_caller_who_leaves_does_not_take_the_list_from_the_others() -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await go.wait()
        await listing(ADA)(exchange)

    async with catalogue_at(script) as (catalogue, peer):
        leaver, stayer = (asyncio.create_task(catalogue.avatars()) for _ in range(2))
        await until(lambda: len(peer.heads) == 1)
        leaver.cancel()
        await asyncio.wait([leaver])
        go.set()
        assert list((await stayer)[0]) == ["Ada"]
        assert len(peer.heads) == 1


@pytest.mark.asyncio
async def test_slow_catalogue_gives_the_kept_list_and_its_answer_is_taken_later() -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if exchange.number > 1:
            await go.wait()
            await listing({"Bo": {}})(exchange)
        else:
            await listing(ADA)(exchange)

    async with catalogue_at(script) as (catalogue, peer):
        assert (await catalogue.avatars())[1] is False
        for _ in range(3):
            found, stale = await catalogue.avatars()
            assert (list(found), stale) == (["Ada"], True)
        # All three waited for one and the same call.
        assert len(peer.heads) == 2
        waiting = asyncio.create_task(catalogue.avatars())
        go.set()
        assert (list((await waiting)[0]), len(peer.heads)) == (["Bo"], 2)


@pytest.mark.asyncio
async def test_known_name_is_not_asked_for_again_and_an_unknown_one_is() -> None:
    async with catalogue_at(listing(ADA)) as (catalogue, peer):
        assert await catalogue.require("Ada") == "Ada"
        assert await catalogue.require("Ada") == "Ada"
        assert len(peer.heads) == 1
        with pytest.raises(NotFound, match="Bo"):
            await catalogue.require("Bo")
        assert len(peer.heads) == 2


@pytest.mark.asyncio
async def test_stale_list_does_not_prove_that_a_name_is_unknown() -> None:
    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            await listing(ADA)(exchange)
        else:
            await exchange.reply(b"{}", status=b"500 No")

    async with catalogue_at(script) as (catalogue, _):
        await catalogue.avatars()
        with pytest.raises(UpstreamBusy):
            await catalogue.require("Bo")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("avatars", "asked", "found"),
    [
        (["Ada", "Bo"], "test_yongen", "Ada"),
        (["Ada", "test_yongen"], "test_yongen", "test_yongen"),
        (["Ada", "Bo"], "Bo", "Bo"),
    ],
)
async def test_first_time_name_means_the_first_avatar(avatars: list[str], asked: str, found: str) -> None:
    async with catalogue_at(listing(avatars)) as (catalogue, _):
        assert await catalogue.resolve(asked) == found


@pytest.mark.asyncio
async def test_first_time_name_finds_nothing_where_nothing_is() -> None:
    async with catalogue_at(listing([])) as (catalogue, _):
        with pytest.raises(NotFound):
            await catalogue.resolve("test_yongen")


@pytest.mark.asyncio
async def test_deleted_name_is_gone_from_the_kept_list_and_asked_for_anew() -> None:
    async with catalogue_at(listing({"Ada": {}, "Bo": {}})) as (catalogue, peer):
        await catalogue.avatars()
        assert (await catalogue.delete(INBOUND, "Bo"))["status"] == "success"
        assert peer.heads[-1].target == b"/avatar/delete"
        assert await catalogue.require("Ada") == "Ada"
        assert peer.heads[-1].target == b"/avatar/get_avatars"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"status": "success", "message": "done", "image_path": "a.png"}, ("done", "a.png")),
        ({"status": "success", "token": "evil"}, ("", "")),
        ({"status": "success", "message": ["x"], "image_path": 5}, ("['x']", "5")),
    ],
)
async def test_added_avatar_is_told_with_texts_only(answer: dict[str, Any], shown: tuple[str, str]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(json.dumps(answer).encode(), JSON)

    form = written([Part("name", b"Ada"), Part("prompt_face", FILM, "a.mp4")])
    async with catalogue_at(script) as (catalogue, _):
        told = await catalogue.add(INBOUND, await AvatarForm(Pieces(form), MULTIPART).begun())
        assert told == {"status": "success", "message": shown[0], "image_path": shown[1]}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "content_type", "content", "error"),
    [
        (b"200 OK", b"application/json", b'{"status":"error"}', UpstreamRejected),
        (b"200 OK", b"application/json", b'{"status":"success"}', UpstreamGarbage),
        (b"200 OK", b"text/html", b"<html>", UpstreamGarbage),
        (b"200 OK", b"", b"", UpstreamGarbage),
        (b"404 Not Found", b"image/png", b"x", NotFound),
        (b"302 Found", b"image/png", b"x", UpstreamGarbage),
        (b"204 No Content", b"image/png", b"", UpstreamGarbage),
    ],
)
async def test_preview_that_is_no_picture_is_an_error(
    status: bytes, content_type: bytes, content: bytes, error: type[Exception]
) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.reply(content, (b"Content-Type", content_type), status=status)

    async with catalogue_at(script) as (catalogue, _):
        with pytest.raises(error):
            await catalogue.preview(INBOUND, "Ada")
