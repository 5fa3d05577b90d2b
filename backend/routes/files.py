"""Files: attached to conversations, in knowledge bases, listed, loaded and removed."""

from urllib.parse import quote, unquote

from flask import Blueprint

from backend.context import body, caller, gateway, inbound, tutor
from backend.errors import GatewayError
from backend.operations import Raw, operation
from backend.responses import GatewayResponse, StreamedResponse, answer
from backend.schemas.base import StrayTimeout
from backend.schemas.files import (
    AttachedFile,
    Attachment,
    IndexedDocument,
    KnowledgeDocument,
    OwnFile,
    OwnFiles,
    People,
    PublicFiles,
    RemovedFile,
)
from backend.services.file_kinds import MEGABYTE
from backend.services.file_records import Record
from backend.services.files import Asker, kind_of
from backend.services.headers import first
from backend.services.indexing import Outcome
from backend.services.tokens import Principal
from backend.services.uploads import Sent
from backend.shortcut import direct

files = Blueprint("files", __name__, url_prefix="/api")

# The largest file that any of the forms takes, and room for the form around it.
MOST_BODY = 101 * MEGABYTE
LATER = "The file is kept and will be indexed as soon as that is possible."


@files.post("/chat/upload")
@operation(
    "Attach a file to a conversation; documents are indexed.",
    tag="chat",
    form=Attachment,
    answers={200: AttachedFile},
    errors=(400, 404, 408, 413, 415, 429, 503, 507),
)
@direct
async def attach() -> GatewayResponse:
    principal = await caller()
    attached = await gateway().files.attach(principal.user_id, _sent())
    record, outcome = attached.record, attached.outcome
    return _said(
        AttachedFile(
            msg=f"{record.name} was uploaded.",
            session_id=attached.session_id,
            message_id=attached.message_id,
            file_id=record.id,
            file_path=record.address,
            file_type=kind_of(record).shown,
            filename=record.name,
            rag_indexed=outcome is not None and outcome.error is None,
            rag_error=_problem(outcome),
            chunk_count=None
            if outcome is None or outcome.ingested is None
            else outcome.ingested.chunk_embs_num,
        )
    )


@files.get("/user_files")
@operation(
    "List the caller's own files.",
    tag="knowledge",
    answers={200: OwnFiles},
    query=StrayTimeout,
    errors=(503,),
)
@direct
async def own_files() -> GatewayResponse:
    principal = await caller()
    records = await gateway().files.of_person(principal.user_id)
    shown = [_own_file(record) for record in records]
    return _said(OwnFiles(msg="Your files.", total=len(shown), files=shown))


@files.get("/files/<file_id>")
@operation(
    "Load a file.",
    tag="knowledge",
    answers={200: Raw(("*/*",), {"type": "string", "format": "binary"})},
    errors=(404, 503),
)
@direct
async def load(file_id: str) -> GatewayResponse:
    record, content = await gateway().files.load(_asker(await caller()), file_id)
    headers = [
        (b"content-type", kind_of(record).media_type.encode("ascii")),
        (b"content-length", str(content.size).encode("ascii")),
        (
            b"content-disposition",
            f"attachment; filename*=UTF-8''{quote(record.name, safe='')}".encode("ascii"),
        ),
        # What somebody uploaded is never run as a page of this origin.
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        (b"cache-control", b"private, no-store"),
    ]
    return StreamedResponse(200, headers, content)


@files.post("/upload")
@operation(
    "Add a document: a tutor's to everybody's knowledge base, a student's to their own.",
    tag="knowledge",
    form=KnowledgeDocument,
    answers={200: IndexedDocument},
    # 404: the file was removed while it was being indexed.
    errors=(400, 404, 408, 413, 415, 429, 502, 503, 504, 507),
)
@direct
async def teach() -> GatewayResponse:
    principal = await caller()
    record, ingested = await gateway().files.teach(_asker(principal), _sent())
    return _said(
        IndexedDocument(
            msg=f"{record.name} was added.",
            admin=record.public,
            user_id=None if record.public else str(record.owner_id),
            ingest_file=record.name,
            page_collection=ingested.page_collection,
            chunk_collection=ingested.chunk_collection,
            page_count=ingested.page_count,
            page_embs_num=ingested.page_embs_num,
            chunk_embs_num=ingested.chunk_embs_num,
        )
    )


@files.delete("/upload/<path:name>")
@operation(
    "Remove a file by its name.",
    tag="knowledge",
    answers={200: RemovedFile},
    errors=(404, 409, 502, 503, 504),
    description="The frontend does not encode names: one that ends at a # or ? still finds its file.",
)
@direct
async def delete(name: str) -> GatewayResponse:
    principal = await caller()
    removed = await gateway().files.delete(_asker(principal), _names(name, inbound().query))
    return _said(RemovedFile(msg="Removed.", deleted_page_embs=removed.pages, deleted_chunks=removed.chunks))


@files.get("/upload/users")
@operation(
    "List who has documents of their own in the index.",
    tag="knowledge",
    access="tutor",
    answers={200: People},
    errors=(502, 503, 504),
)
@direct
async def people() -> GatewayResponse:
    await tutor()
    return _said(People(users=await gateway().files.people()))


@files.get("/public_files")
@operation(
    "List the documents of everybody's knowledge base.",
    tag="knowledge",
    access="tutor",
    answers={200: PublicFiles},
    query=StrayTimeout,
    errors=(502, 503, 504),
)
@direct
async def public_files() -> GatewayResponse:
    await tutor()
    return _said(PublicFiles(files=await gateway().files.public_names()))


def _sent() -> Sent:
    arriving = inbound()
    content_type = first(arriving.headers, b"content-type") or b""
    return Sent(body(MOST_BODY), content_type, arriving.content_length)


def _asker(principal: Principal) -> Asker:
    return Asker(principal.user_id, principal.is_tutor)


def _names(name: str, query: bytes) -> list[str]:
    """Return what a name may have been before a browser took its `?` for the end of the path."""
    whole = unquote(query.decode("ascii")) if query else ""
    return [f"{name}?{whole}", name] if query else [name]


def _own_file(record: Record) -> OwnFile:
    return OwnFile(
        id=record.id,
        filename=record.name,
        file_type=kind_of(record).shown,
        file_path=record.address,
        created_at=record.created_at,
        session_id=record.session_id,
        size=record.size,
    )


def _problem(outcome: Outcome | None) -> str | None:
    error: GatewayError | None = None if outcome is None else outcome.error
    if outcome is None or error is None:
        return None
    return f"{error.msg} {LATER}" if outcome.later else error.msg


def _said(
    model: AttachedFile | OwnFiles | IndexedDocument | RemovedFile | People | PublicFiles,
) -> GatewayResponse:
    return answer(model.model_dump(mode="json", exclude_none=True))
