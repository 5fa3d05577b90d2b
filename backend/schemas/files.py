"""Uploads, lists of files, and their removal."""

from typing import Annotated, Literal

from pydantic import Field

from backend.schemas.base import Answer, Body, Moment

Binary = Annotated[str, Field(json_schema_extra={"format": "binary"})]
FileType = Literal["image", "audio", "document", "other"]


class Attachment(Body):
    file: Binary = Field(description="Documents up to 20 MB, pictures 10, recordings 50, films 100.")
    session_id: int | str | None = Field(None, description="An own conversation; unset: the latest one.")


class KnowledgeDocument(Body):
    file: Binary = Field(description="A document up to 100 MB.")


class AttachedFile(Answer):
    msg: str
    session_id: int
    message_id: int
    file_id: int
    file_path: str
    file_type: FileType
    filename: str
    rag_indexed: bool
    rag_error: str | None = Field(None, description="Why it was not indexed, where it should have been.")
    chunk_count: int | None = None


class OwnFile(Answer):
    id: int
    filename: str
    file_type: FileType
    file_path: str
    created_at: Moment
    session_id: int | None = None
    size: int = Field(description="Bytes.")


class OwnFiles(Answer):
    msg: str
    total: int
    files: list[OwnFile]


class PublicFiles(Answer):
    files: list[str]


class People(Answer):
    users: list[str]


class IndexedDocument(Answer):
    msg: str
    admin: bool
    user_id: str | None = None
    ingest_file: str
    page_collection: str | None = None
    chunk_collection: str | None = None
    page_count: int | None = None
    page_embs_num: int | None = None
    chunk_embs_num: int | None = None


class RemovedFile(Answer):
    msg: str
    deleted_page_embs: int
    deleted_chunks: int
