"""The retrieval service: takes documents in, finds passages in them, and errs in its own way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePath

from backend.demo.answers import Answer, as_json
from backend.demo.forms import Form, Upload, read_form
from backend.demo.index import PUBLIC, TEXT_BYTES_KEPT, Document, Hit, Index, IndexFull, decoded
from backend.demo.service import Latency, Routes
from backend.demo.wire import Exchange

LIBRARY = Path(__file__).with_name("library.json")
TEXTS = frozenset({".txt", ".md"})
# The demo reads no letters out of these: they are counted, and found by their name.
OPAQUE = frozenset({".pdf", ".docx"})
BYTES_OF_A_PAGE = 50_000
NAME_BYTES = 255

# Shares of the world's latency: a page is embedded as picture and as text, a question only as text.
ASKED = 0.1
INGESTED = 1.0
INGESTED_BYTES = 10 * 1024 * 1024  # take as long again
MOST_SHARES = 20.0


class Retrieval:
    """One public collection and one for each user."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self._index = Index()
        self._ingesting: set[asyncio.Task[Answer]] = set()
        for entry in json.loads(LIBRARY.read_text("utf-8")):
            self._index.put(PUBLIC, Document.of_text(entry["source"], entry["text"]))

    def __repr__(self) -> str:
        return f"<Retrieval {self._index!r}>"

    def routes(self) -> Routes:
        # There is no /health.
        return {
            ("POST", "/user/upload"): self.user_upload,
            ("POST", "/admin/upload"): self.admin_upload,
            ("POST", "/user/delete"): _with_form(self.user_delete),
            ("POST", "/admin/delete"): _with_form(self.admin_delete),
            ("POST", "/retriever"): self.retrieve,
            ("POST", "/multimodal_retriever"): self.retrieve_with_pictures,
            ("GET", "/api/users"): self.users,
            ("GET", "/api/user_files"): self.user_files,
            ("GET", "/api/public_files"): self.public_files,
        }

    async def user_upload(self, exchange: Exchange) -> Answer:
        return await _with_form(self._user_upload, TEXT_BYTES_KEPT)(exchange)

    async def admin_upload(self, exchange: Exchange) -> Answer:
        return await _with_form(lambda form: self._ingest(form, PUBLIC), TEXT_BYTES_KEPT)(exchange)

    async def user_delete(self, form: Form) -> Answer:
        owner = form.fields.get("user_id", "")
        return self._delete(form, owner) if owner else _failed("user_id is required")

    async def admin_delete(self, form: Form) -> Answer:
        return self._delete(form, PUBLIC)

    async def retrieve(self, exchange: Exchange) -> Answer:
        return await self._retrieve(exchange, pictures=False)

    async def retrieve_with_pictures(self, exchange: Exchange) -> Answer:
        return await self._retrieve(exchange, pictures=True)

    async def users(self, exchange: Exchange) -> Answer:
        return as_json({"users": self._index.owners()})

    async def user_files(self, exchange: Exchange) -> Answer:
        owner = exchange.query.get("user_id", "")
        return as_json({"files": self._index.sources(owner)}) if owner else _failed("user_id is required")

    async def public_files(self, exchange: Exchange) -> Answer:
        return as_json({"files": self._index.sources(PUBLIC)})

    async def _user_upload(self, form: Form) -> Answer:
        owner = form.fields.get("user_id", "")
        return await self._ingest(form, owner) if owner else _failed("user_id is required")

    async def close(self) -> None:
        for work in list(self._ingesting):
            work.cancel()
        await asyncio.gather(*self._ingesting, return_exceptions=True)

    async def _ingest(self, form: Form, owner: str) -> Answer:
        """Finish what has begun though the caller leaves, as a server with a thread per request does."""
        work = asyncio.create_task(self._ingested(form, owner))
        self._ingesting.add(work)
        work.add_done_callback(self._ingesting.discard)
        return await asyncio.shield(work)

    async def _ingested(self, form: Form, owner: str) -> Answer:
        file = form.files.get("file")
        if file is None or not file.filename:
            return _failed("file is required")
        if (suffix := PurePath(file.filename).suffix.lower()) not in TEXTS | OPAQUE:
            return _failed(f"unsupported file type: {suffix}")
        if reason := _unwritable(file.filename):
            return _failed("ingestion failed", 500, reason)
        await self._latency.wait(min(INGESTED + file.size / INGESTED_BYTES, MOST_SHARES))
        document = await asyncio.to_thread(_document, file, form.begins["file"], suffix)
        try:
            self._index.put(owner, document)
        except IndexFull:
            return _failed("ingestion failed", 500, "the collection is full")
        return as_json(_ingested(document, owner))

    def _delete(self, form: Form, owner: str) -> Answer:
        source = form.fields.get("source_name", "")
        if not source:
            return _failed("source_name is required")
        if '"' in source or "\\" in source:
            # The name stands in a filter expression, unescaped.
            return _failed("deletion failed", 500, f'cannot parse expression: source == "{source}"')
        document = self._index.take(owner, source)
        pages, chunks = (document.pages, len(document.chunks)) if document else (0, 0)
        return as_json({"deleted_page_embs": pages, "deleted_chunks": chunks})

    async def _retrieve(self, exchange: Exchange, *, pictures: bool) -> Answer:
        try:
            fields = await exchange.read_object()
            question, owner, most = fields["question"], str(fields["user_id"]), int(fields.get("final_k", 5))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            return _failed("bad request", 400, repr(error))
        if not isinstance(question, str) or not question.strip() or not owner:
            return _failed("question and user_id are required")
        await self._latency.wait(ASKED)
        # personal_k, public_k and threshold are taken and have no effect.
        hits = self._index.find(question, owner, most)
        picture = {"img_path": f"page_images/{hits[0].source}/{hits[0].chunk.page}.png" if hits else ""}
        return as_json({"hits": [_described(hit) for hit in hits], **(picture if pictures else {})})


def _with_form(
    act: Callable[[Form], Awaitable[Answer]], keep_bytes: int = 0
) -> Callable[[Exchange], Awaitable[Answer]]:
    async def handler(exchange: Exchange) -> Answer:
        try:
            form = await read_form(exchange, keep_bytes)
        except ValueError as error:
            return _failed("bad request", 400, str(error))
        return await act(form)

    return handler


def _unwritable(name: str) -> str | None:
    """What the disk would say: the name is joined to a folder as it came."""
    path = f"/tmp/kb_uploads/{name}"  # noqa: S108 - nothing is written; such a path is what an error shows
    if "\0" in name:
        return "ValueError: embedded null byte"
    if "/" in name:
        return f"[Errno 2] No such file or directory: '{path}'"
    if len(name.encode()) > NAME_BYTES:
        return f"[Errno 36] File name too long: '{path}'"
    return None


def _document(file: Upload, begin: bytes, suffix: str) -> Document:
    if suffix in TEXTS:
        return Document.of_text(file.filename, decoded(begin))
    named = Document.of_text(file.filename, PurePath(file.filename).stem)
    return Document(named.source, 1 + file.size // BYTES_OF_A_PAGE, named.letters, named.chunks)


def _ingested(document: Document, owner: str) -> dict[str, object]:
    collection = f"user_{owner}" if owner else "public"
    return {
        "admin": not owner,
        **({"user_id": owner} if owner else {}),
        "page_collection": f"{collection}_pages",
        "chunk_collection": f"{collection}_chunks",
        "ingest_file": document.source,
        "page_count": document.pages,
        "page_embs_num": document.pages,
        "chunk_embs_num": len(document.chunks),
    }


def _described(hit: Hit) -> dict[str, object]:
    return {
        "text": hit.chunk.text,
        "source": hit.source,
        "page_num": hit.chunk.page,
        "first_score": round(hit.likeness, 4),
        "second_score": round(hit.likeness**2, 4),
        "final_score": round((hit.likeness + hit.likeness**2) / 2, 4),
        "knowledge_base": "public" if hit.public else "personal",
    }


def _failed(message: str, status: int = 400, detail: str | None = None) -> Answer:
    return as_json(
        {"error": True, "message": message, **({} if detail is None else {"detail": detail})}, status
    )
