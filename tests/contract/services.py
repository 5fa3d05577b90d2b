"""The services behind the gateway that the demo world leaves out here: chat model and retrieval, scripted."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header

from tests.support.peer import JSON, Exchange

WORDS = ("Light ", "bends ", "in glass: ", "光会弯曲。")


@dataclass
class Model:
    """Streams `words`; `mode` says how it fails. Never closes a stream by itself, as the original one."""

    words: tuple[str, ...] = WORDS
    mode: str = "answers"
    pause_seconds: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def script(self, exchange: Exchange) -> None:
        body = await exchange.body()
        if exchange.head.target.startswith(b"/health"):
            await exchange.reply(b'{"status":"ok"}', JSON)
        elif exchange.head.target == b"/activate_model":
            await exchange.reply(b'{"message":"Model is active."}', JSON)
        elif exchange.head.target == b"/chat/stream":
            self.asked.append(json.loads(body))
            await self._stream(exchange)
        else:
            await exchange.reply(b"{}", JSON, status=b"404 Not Found")

    async def _stream(self, exchange: Exchange) -> None:
        if self.mode == "refuses":
            await exchange.reply(b'{"error":"no GPU at 10.1.2.3"}', JSON, status=b"500 Internal Server Error")
            return
        await exchange.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        if self.mode == "error first":
            await _event(exchange, {"status": "error", "error": "Traceback: no GPU at 10.1.2.3"})
            await exchange.client_left()
            return
        for number, word in enumerate(self.words):
            await asyncio.sleep(self.pause_seconds)
            await _event(exchange, {"chunk": word, "status": "streaming"})
            if self.mode == "breaks" and number == 1:
                exchange.reset()
                return
        if self.mode == "silent":
            await exchange.client_left()
            return
        await _event(exchange, {"status": "finished", "total_time": 0.1})
        await exchange.client_left()


async def _event(exchange: Exchange, content: dict[str, Any]) -> None:
    text = f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
    await exchange.send(b"%x\r\n%s\r\n" % (len(text), text))


@dataclass
class Index:
    """Keeps names of documents by owner; the public base belongs to nobody."""

    names: dict[str, list[str]] = field(default_factory=lambda: {"": ["Syllabus.pdf"]})
    calls: list[str] = field(default_factory=list)
    mode: str = "answers"

    async def script(self, exchange: Exchange) -> None:
        body = await exchange.body()
        path = exchange.head.target.decode().partition("?")[0]
        self.calls.append(path)
        fields = form_of(exchange.head.get(b"content-type") or b"", body)
        if self.mode == "fails":
            problem = {"error": True, "message": "milvus at 10.1.2.3 failed", "detail": "Traceback"}
            await exchange.reply(json.dumps(problem).encode(), JSON, status=b"500 Internal Server Error")
            return
        answer = self._answer(path, fields)
        await exchange.reply(json.dumps(answer).encode(), JSON)

    def _answer(self, path: str, fields: dict[str, str]) -> dict[str, Any]:
        owner = "" if path.startswith("/admin") else fields.get("user_id", "")
        held = self.names.setdefault(owner, [])
        if path.endswith("/upload"):
            held.append(fields["file"])
            return {"admin": not owner, "user_id": owner, "ingest_file": fields["file"], "page_count": 1} | {
                "page_collection": "p", "chunk_collection": "c", "page_embs_num": 1, "chunk_embs_num": 2,
            }  # fmt: skip
        if path.endswith("/delete"):
            count = held.count(fields["source_name"])
            self.names[owner] = [name for name in held if name != fields["source_name"]]
            return {"deleted_page_embs": count, "deleted_chunks": 2 * count}
        if path == "/retriever":
            return {"hits": []}
        if path == "/api/users":
            return {"users": sorted(owner for owner in self.names if owner)}
        return {"files": self.names[""]}


def form_of(content_type: bytes, body: bytes) -> dict[str, str]:
    """Read a form; of a file its name."""
    kind, options = parse_options_header(content_type)
    if kind == b"application/x-www-form-urlencoded":
        return dict(parse_qsl(body.decode()))
    if kind != b"multipart/form-data":
        return {}
    fields = {}
    for part in body.split(b"--" + options[b"boundary"])[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        line = next(row for row in head.split(b"\r\n") if row.lower().startswith(b"content-disposition"))
        _, said = parse_options_header(line.partition(b":")[2])
        fields[said[b"name"].decode()] = said.get(b"filename", content[:-2]).decode()
    return fields
