"""The retrieval service as an index of documents: adding, removing, listing. It knows them by name alone."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from backend.errors import (
    BadRequest,
    GatewayError,
    TooLarge,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRejected,
)
from backend.services.dialects import json_object, read_answer
from backend.services.forwarding import Forwarder, Upstream
from backend.services.headers import PSEUDONYM, Pair
from backend.services.policies import Timeouts
from backend.services.streams import ByteStream
from backend.services.transports import UpstreamCall

# It embeds page by page before it answers: minutes for a thick book.
ADD_TIMEOUTS = Timeouts(first_byte=300, idle=60, total=420)
REMOVE_TIMEOUTS = Timeouts(first_byte=15, idle=10, total=30)
LIST_TIMEOUTS = Timeouts(first_byte=15, idle=10, total=30)

UNREADABLE = "The document index could not read this file."
# Its status -> what that means: it answers 400 and 500 for whatever goes wrong with a document.
OTHERWISE: Mapping[int, type[GatewayError]] = {
    404: UpstreamGarbage,  # of a path: something else lives there
    429: UpstreamBusy,
    503: UpstreamBusy,
    504: UpstreamFirstByteTimeout,
}
OF_A_DOCUMENT: Mapping[int, type[GatewayError]] = {
    **OTHERWISE,
    400: BadRequest,
    413: TooLarge,
    415: BadRequest,
    422: BadRequest,
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """Whose documents: one person's, or everybody's for None."""

    user_id: int | None

    @property
    def path(self) -> str:
        return "/admin" if self.user_id is None else "/user"

    @property
    def fields(self) -> dict[str, str]:
        return {} if self.user_id is None else {"user_id": str(self.user_id)}


PUBLIC = Shelf(None)


@dataclass(frozen=True, slots=True)
class Document:
    """A document to be added, under the name that it will be removed by."""

    name: str
    media_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Ingested:
    """What the index tells of a document that it took; it does not always tell everything."""

    page_collection: str | None = None
    chunk_collection: str | None = None
    page_count: int | None = None
    page_embs_num: int | None = None
    chunk_embs_num: int | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """How much of a document was in the index; nothing is no failure."""

    pages: int = 0
    chunks: int = 0


class Library:
    """Asks the retrieval service. Raises UpstreamError with words that speak of a document index."""

    def __init__(self, forwarder: Forwarder, upstream: Upstream) -> None:
        self._forwarder = forwarder
        self._upstream = upstream

    async def add(self, shelf: Shelf, document: Document, content: ByteStream) -> Ingested:
        """Stream a document to the index and wait until it can be found. Takes minutes.

        Raises BadRequest when the index cannot read it.
        """
        form = Form(shelf.fields, document, content)
        headers = [(b"content-type", form.content_type), (b"content-length", b"%d" % form.size)]
        answer = await self._post(shelf.path + "/upload", headers, form, ADD_TIMEOUTS, OF_A_DOCUMENT)
        return Ingested(
            page_collection=_word(answer, "page_collection"),
            chunk_collection=_word(answer, "chunk_collection"),
            page_count=_count(answer, "page_count"),
            page_embs_num=_count(answer, "page_embs_num"),
            # A former service says it so.
            chunk_embs_num=_count(answer, "chunk_embs_num") or _count(answer, "chunk_count"),
        )

    async def remove(self, shelf: Shelf, name: str) -> Removed:
        """Remove every trace of a document."""
        body = urlencode({**shelf.fields, "source_name": name}).encode("ascii")
        headers = [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", b"%d" % len(body)),
        ]
        path = shelf.path + "/delete"
        try:
            answer = await self._post(path, headers, body, REMOVE_TIMEOUTS)
        except UpstreamBroken:  # the usual cause is a kept connection; removing twice is removing
            answer = await self._post(path, headers, body, REMOVE_TIMEOUTS)
        return Removed(_count(answer, "deleted_page_embs") or 0, _count(answer, "deleted_chunks") or 0)

    async def names(self, shelf: Shelf) -> list[str]:
        """Return the names of what is in the index, each once."""
        path = "/api/public_files"
        if shelf.user_id is not None:
            path = f"/api/user_files?user_id={quote(str(shelf.user_id))}"
        return await self._listed(path, "files")

    async def users(self) -> list[str]:
        """Return the ids of those who have documents of their own."""
        return await self._listed("/api/users", "users")

    async def _listed(self, path: str, key: str) -> list[str]:
        try:
            answer = await self._forwarder.ask("GET", self._upstream, path, LIST_TIMEOUTS)
            items = _checked(answer.status, answer.content, OTHERWISE).get(key)
        except GatewayError as error:
            raise of_the_index(error) from error
        if not isinstance(items, list):
            raise of_the_index(UpstreamGarbage())
        # A former service lists objects, and numbers for users.
        named = (item.get("source") if isinstance(item, dict) else item for item in items)
        return list(dict.fromkeys(str(name) for name in named if isinstance(name, str | int) and name != ""))

    async def _post(
        self,
        path: str,
        headers: list[Pair],
        body: bytes | ByteStream,
        timeouts: Timeouts,
        by_status: Mapping[int, type[GatewayError]] = OTHERWISE,
    ) -> dict[str, Any]:
        call = UpstreamCall(
            method="POST",
            origin=self._upstream.origins[0],
            target=self._upstream.base_path + path.encode("ascii"),
            headers=(*headers, (b"user-agent", PSEUDONYM)),
            body=body,
            timeouts=timeouts,
        )
        try:
            forwarded = await self._forwarder.send(call, self._upstream)
            return _checked(forwarded.status, await read_answer(forwarded.body), by_status)
        except GatewayError as error:
            raise of_the_index(error) from error


def of_the_index(error: GatewayError) -> GatewayError:
    """Return another error in words of its own: it is no avatar service that failed."""
    if isinstance(error, BadRequest):
        return BadRequest(UNREADABLE)
    if isinstance(error, UpstreamRejected):
        return UpstreamRejected("The document index failed to do this.")
    msg = error.msg.replace("avatar service", "document index")
    return type(error)(msg, retry_after_seconds=error.retry_after_seconds)


def _checked(status: int, content: bytes, by_status: Mapping[int, type[GatewayError]]) -> dict[str, Any]:
    answer = json_object(status, content, by_status)
    if answer.get("error"):
        raise UpstreamRejected
    return answer


def _count(answer: Mapping[str, Any], name: str) -> int | None:
    value = answer.get(name)
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def _word(answer: Mapping[str, Any], name: str) -> str | None:
    value = answer.get(name)
    plain = isinstance(value, str) and len(value) <= 100 and value.replace("-", "_").isidentifier()
    return value if plain else None


class Form:
    """The form of one document as a body: the file streams from where it lies, nothing is held."""

    def __init__(self, fields: Mapping[str, str], document: Document, content: ByteStream) -> None:
        boundary = secrets.token_hex(16)
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        # Names of stored files hold nothing that would have to be escaped here.
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{document.name}"\r\n'
            f"Content-Type: {document.media_type}\r\n\r\n"
        )
        self._head = head.encode("utf-8")
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        self._content = content
        self._ended = False
        self.content_type = f"multipart/form-data; boundary={boundary}".encode("ascii")
        self.size = len(self._head) + document.size + len(self._tail)

    async def read(self) -> bytes:
        if head := self._head:
            self._head = b""
            return head
        if self._ended:
            return b""
        if chunk := await self._content.read():
            return chunk
        self._ended = True
        return self._tail

    async def aclose(self) -> None:
        await self._content.aclose()
