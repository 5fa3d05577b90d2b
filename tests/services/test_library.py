import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from backend.errors import (
    BadRequest,
    GatewayError,
    TooLarge,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamRejected,
)
from backend.services import library as library_module
from backend.services.forwarding import Forwarder, Upstream
from backend.services.library import PUBLIC, Document, Form, Library, Removed, Shelf
from backend.services.policies import Timeouts
from tests.support.documents import TEXT
from tests.support.forms import Part, Pieces, parsed
from tests.support.index import Index, indexing
from tests.support.ports import free_port
from tests.support.upstream import client_of

ADA = Shelf(7)
NOTES = Document("notes.txt", "text/plain", len(TEXT))


@dataclass
class Desk:
    index: Index
    library: Library


@pytest_asyncio.fixture
async def desk() -> AsyncIterator[Desk]:
    async with indexing() as index, client_of("direct") as client:
        yield Desk(index, Library(Forwarder(client), Upstream.at("index", index.url)))


@pytest.mark.asyncio
async def test_document_is_added_listed_and_removed_by_one_name(desk: Desk) -> None:
    for shelf in (ADA, PUBLIC):
        document = Document("光速 b#1.txt", "text/plain", len(TEXT))
        taken = await desk.library.add(shelf, document, Pieces(TEXT[:5], TEXT[5:]))
        assert (taken.page_collection, taken.page_count, taken.chunk_embs_num) == ("pages", 1, 3)
        assert await desk.library.names(shelf) == ["光速 b#1.txt"]
        assert await desk.library.remove(shelf, "光速 b#1.txt") == Removed(pages=1, chunks=3)
        assert await desk.library.names(shelf) == []
        # What is not there is no failure.
        assert await desk.library.remove(shelf, "光速 b#1.txt") == Removed()


@pytest.mark.asyncio
async def test_shelves_of_two_people_and_of_everybody_are_apart(desk: Desk) -> None:
    for shelf in (ADA, Shelf(8), PUBLIC):
        await desk.library.add(shelf, NOTES, Pieces(TEXT))
    await desk.library.remove(ADA, "notes.txt")
    assert await desk.library.names(ADA) == []
    assert await desk.library.names(Shelf(8)) == await desk.library.names(PUBLIC) == ["notes.txt"]
    assert await desk.library.users() == ["8"]


@pytest.mark.asyncio
async def test_form_is_as_long_as_it_says_and_holds_nothing() -> None:
    form = Form({"user_id": "7"}, Document("a.txt", "text/plain", 300_000), Pieces(*[b"x" * 1000] * 300))
    chunks = []
    while chunk := await form.read():
        chunks.append(chunk)
    assert await form.read() == b""
    assert max(map(len, chunks)) <= 1000
    whole = b"".join(chunks)
    assert len(whole) == form.size
    assert parsed(form.content_type, whole) == [Part("user_id", b"7"), Part("file", b"x" * 300_000, "a.txt")]


ADDING: list[tuple[int, object, type[GatewayError]]] = [
    (400, {"error": True, "message": "/srv/rag: bad file"}, BadRequest),
    (415, {"error": True}, BadRequest),
    (413, {"error": True}, TooLarge),
    (500, {"error": True, "message": "CUDA"}, UpstreamRejected),
    (200, {"error": True, "message": "CUDA"}, UpstreamRejected),
    (404, "no such page", UpstreamGarbage),
    (429, {}, UpstreamBusy),
    (503, {}, UpstreamBusy),
    (504, {}, UpstreamFirstByteTimeout),
    (302, {}, UpstreamGarbage),
    (200, [], UpstreamGarbage),
    (200, None, UpstreamGarbage),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("status", "answer", "error"), ADDING)
async def test_answers_that_have_no_msg_are_put_into_words(
    desk: Desk, status: int, answer: object, error: type[GatewayError]
) -> None:
    desk.index.answers["/user/upload"] = status, answer
    with pytest.raises(error) as caught:
        await desk.library.add(ADA, NOTES, Pieces(TEXT))
    assert type(caught.value) is error
    assert caught.value.__cause__ is not caught.value  # whoever walks along the causes would never end
    assert "avatar" not in caught.value.msg
    assert "srv" not in caught.value.msg


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_failure_to_remove_or_list_is_never_the_callers_fault(desk: Desk, status: int) -> None:
    for path in ("/admin/delete", "/api/public_files", "/api/users"):
        desk.index.answers[path] = status, {"error": True, "message": "x"}
    for call in (
        lambda: desk.library.remove(PUBLIC, "a"),
        lambda: desk.library.names(PUBLIC),
        lambda: desk.library.users(),
    ):
        with pytest.raises(GatewayError) as caught:
            await call()
        assert caught.value.status in (502, 503)
        assert "document index" in caught.value.msg


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ({"files": [{"source": "a.pdf", "chunk_count": 3}, {"source": "b.pdf"}]}, ["a.pdf", "b.pdf"]),
        ({"files": ["a", "a", "", None, 7, {}, ["x"], True]}, ["a", "7", "True"]),
        ({"files": []}, []),
    ],
)
async def test_lists_of_former_services_are_read_too(desk: Desk, answer: object, names: list[str]) -> None:
    desk.index.answers["/api/public_files"] = 200, answer
    assert await desk.library.names(PUBLIC) == names


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [{}, {"files": None}, {"files": "abc"}, {"files": {"a": 1}}, []])
async def test_list_that_is_none_makes_no_sense(desk: Desk, answer: object) -> None:
    desk.index.answers["/api/public_files"] = 200, answer
    with pytest.raises(UpstreamGarbage, match="document index"):
        await desk.library.names(PUBLIC)


@pytest.mark.asyncio
async def test_counts_and_names_of_collections_are_believed_only_in_their_form(desk: Desk) -> None:
    odd = {"page_count": -1, "page_embs_num": "3", "chunk_embs_num": True, "page_collection": "/srv/x"}
    desk.index.answers["/user/upload"] = 200, odd
    taken = await desk.library.add(ADA, NOTES, Pieces(TEXT))
    assert taken == library_module.Ingested()
    desk.index.answers["/user/upload"] = 200, {"file_id": 3, "chunk_count": 9}
    assert (await desk.library.add(ADA, NOTES, Pieces(TEXT))).chunk_embs_num == 9


@pytest.mark.asyncio
async def test_index_that_is_not_running_cannot_have_got_anything() -> None:
    async with client_of("direct") as client:
        library = Library(Forwarder(client), Upstream.at("index", f"http://127.0.0.1:{free_port()}"))
        with pytest.raises(UpstreamRefused, match="document index") as caught:
            await library.add(ADA, NOTES, Pieces(TEXT))
        assert not caught.value.sent


@pytest.mark.asyncio
async def test_index_that_breaks_off_or_is_silent_may_have_got_everything(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.index.resets.add("/user/upload")
    with pytest.raises(UpstreamBroken, match="document index"):
        await desk.library.add(ADA, NOTES, Pieces(TEXT))
    desk.index.resets.clear()
    desk.index.mute.add("/user/upload")
    await desk.library.remove(ADA, NOTES.name)
    monkeypatch.setattr(library_module, "ADD_TIMEOUTS", Timeouts(first_byte=0.2))
    with pytest.raises(UpstreamFirstByteTimeout, match="timeout: the document index"):
        await desk.library.add(ADA, NOTES, Pieces(TEXT))
    assert desk.index.private(7).keys() == {"notes.txt"}
    desk.index.speak.set()


@pytest.mark.asyncio
async def test_base_path_of_the_index_is_kept(desk: Desk) -> None:
    async with client_of("direct") as client:
        library = Library(Forwarder(client), Upstream.at("index", desk.index.url + "/rag/"))
        desk.index.answers["/rag/admin/delete"] = 200, json.loads('{"deleted_chunks": 2}')
        assert await library.remove(PUBLIC, "a") == Removed(chunks=2)
