"""A retrieval service for tests: keeps what it is given by name, fails as it is told to."""

import asyncio
import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.forms import parsed
from tests.support.peer import JSON, Exchange, Peer

EVERYBODY = ""


@dataclass
class Index:
    """`shelves` maps a user id, or EVERYBODY, to names and the hash of each content.

    `answers` maps a path to the status and body that it is answered with instead; `mute` are paths that get
    no answer before `speak` is set, which is after the work was done; `resets` are cut after it.
    """

    shelves: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    mute: set[str] = field(default_factory=set)
    resets: set[str] = field(default_factory=set)
    speak: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    peer: Peer | None = None

    @property
    def url(self) -> str:
        assert self.peer is not None
        return self.peer.url

    @property
    def public(self) -> dict[str, str]:
        return self.shelves[EVERYBODY]

    def private(self, user_id: int) -> dict[str, str]:
        return self.shelves[str(user_id)]

    async def script(self, exchange: Exchange) -> None:
        target = urlsplit(exchange.head.target.decode("ascii"))
        self.asked.append(target.path)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await self._answer(exchange, target.path, parse_qs(target.query))
        finally:
            self._now -= 1

    async def _answer(self, exchange: Exchange, path: str, query: dict[str, list[str]]) -> None:
        body = await exchange.body()
        if path in self.answers:
            status, answer = self.answers[path]
        else:
            content_type = exchange.head.get(b"content-type") or b""
            status, answer = 200, self._done(path, query, content_type, body)
        if path in self.resets:
            exchange.reset()
            return
        if path in self.mute:
            await self.speak.wait()
        await exchange.reply(json.dumps(answer).encode(), JSON, status=b"%d Said" % status)

    def _done(self, path: str, query: dict[str, list[str]], content_type: bytes, body: bytes) -> object:
        match path:
            case "/user/upload" | "/admin/upload":
                return self._take(content_type, body)
            case "/user/delete" | "/admin/delete":
                form = parse_qs(body.decode("ascii"), keep_blank_values=True)
                gone = self.shelves[form.get("user_id", [EVERYBODY])[0]].pop(form["source_name"][0], None)
                return {"deleted_page_embs": int(gone is not None), "deleted_chunks": 3 * (gone is not None)}
            case "/api/public_files":
                return {"files": list(self.public)}
            case "/api/user_files":
                return {"files": list(self.shelves[query["user_id"][0]])}
            case "/api/users":
                return {"users": [user for user, shelf in self.shelves.items() if user and shelf]}
        raise AssertionError(path)

    def _take(self, content_type: bytes, body: bytes) -> object:
        fields = {part.name: part for part in parsed(content_type, body)}
        user = fields["user_id"].content.decode() if "user_id" in fields else EVERYBODY
        file = fields["file"]
        assert file.filename is not None
        # The name is taken as it is sent, and a second document of that name is added to the first.
        assert file.filename not in self.shelves[user], f"{file.filename} is twice in the index"
        self.shelves[user][file.filename] = hashlib.sha256(file.content).hexdigest()
        return {
            "admin": user == EVERYBODY,
            "page_collection": "pages",
            "chunk_collection": "chunks",
            "ingest_file": f"/srv/rag/{file.filename}",
            "page_count": 1,
            "page_embs_num": 1,
            "chunk_embs_num": 3,
        }


@contextlib.asynccontextmanager
async def indexing() -> AsyncIterator[Index]:
    index = Index()
    async with Peer(index.script) as peer:
        index.peer = peer
        yield index
