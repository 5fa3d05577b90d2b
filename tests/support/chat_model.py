"""Scripted chat model, retrieval service and avatar instance, on real sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .peer import Exchange, Peer

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FINISHED: dict[str, Any] = {"status": "finished", "timestamp": 1.5, "total_time": 2.0, "ttft": 0.9}

Part = bytes | dict[str, Any] | str | float


def event(content: object) -> bytes:
    """One event as the model writes it: characters unescaped."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode("utf-8", "surrogatepass")


def chunk(text: str) -> dict[str, Any]:
    return {"chunk": text, "status": "streaming", "timestamp": 1.25}


@dataclass
class ChatModel:
    """Answers with parts: text or an object as one event, bytes as they are, a number as seconds of silence.

    `then` is what follows: `end`, `hold` the stream open, `reset` or `cut` it. A `status` other than 200
    answers with `body`. `go` holds every answer back until it is set.
    """

    parts: Sequence[Part] = ("Hello ", "there.", FINISHED)
    then: str = "end"
    status: bytes = b"200 OK"
    body: bytes = b'{"error":"no such model at 10.1.2.3"}'
    kind: bytes = b"application/json"
    asked: list[dict[str, Any]] = field(default_factory=list)
    targets: list[bytes] = field(default_factory=list)
    left: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go.set()

    async def __call__(self, exchange: Exchange) -> None:
        self.asked.append(json.loads(await exchange.body() or b"{}"))
        self.targets.append(exchange.head.target)
        if not await self._may_go(exchange):
            return
        if self.status != b"200 OK" or exchange.head.target != b"/chat/stream":
            await exchange.reply(self.body, (b"Content-Type", self.kind), status=self.status)
            return
        await self.tell(exchange)

    async def tell(self, exchange: Exchange) -> None:
        """Answer a question that was read already."""
        await exchange.send(EVENT_STREAM)
        for part in self.parts:
            if isinstance(part, float):
                await asyncio.sleep(part)
                continue
            raw = part if isinstance(part, bytes) else event(chunk(part) if isinstance(part, str) else part)
            await exchange.send(b"%x\r\n%b\r\n" % (len(raw), raw))
        await self._end(exchange)

    async def _may_go(self, exchange: Exchange) -> bool:
        """Wait for `go`; False when the caller left first."""
        if self.go.is_set():
            return True
        waiting = [asyncio.ensure_future(self.go.wait()), asyncio.ensure_future(exchange.client_left())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not self.go.is_set():
            self.left += 1
        return self.go.is_set()

    async def _end(self, exchange: Exchange) -> None:
        if self.then == "end":
            await exchange.send(b"0\r\n\r\n")
        elif self.then == "hold":
            await exchange.client_left()
            self.left += 1
            exchange.writer.close()
        elif self.then == "reset":
            await asyncio.sleep(0.05)  # a reset overtakes what was sent
            exchange.reset()
        else:
            exchange.writer.close()


@dataclass
class Instance:
    """An avatar instance that notes what it is told to say; `answer` replaces its good answer."""

    session: object = 123456
    answer: Callable[[Exchange], Awaitable[None]] | None = None
    said: list[dict[str, Any]] = field(default_factory=list)
    others: list[tuple[bytes, Any]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [said["text"] for said in self.said]

    async def __call__(self, exchange: Exchange) -> None:
        content = await exchange.body()
        json_type = (b"Content-Type", b"application/json")
        if exchange.head.target == b"/offer":
            answer = {"sdp": "v=0\r\n", "type": "answer", "sessionid": self.session}
            await exchange.reply(json.dumps(answer).encode(), json_type)
            return
        fields = json.loads(content or b"{}")
        if exchange.head.target == b"/human":
            self.said.append(fields)
        else:
            self.others.append((exchange.head.target, fields))
        if self.answer is not None:
            await self.answer(exchange)
            return
        await exchange.reply(b'{"code":0,"msg":"ok"}', json_type)


@dataclass
class Retriever:
    """A retrieval service with fixed hits."""

    hits: Sequence[object] = ()
    answer: Callable[[Exchange], Awaitable[None]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        self.asked.append(json.loads(await exchange.body()))
        if self.answer is not None:
            await self.answer(exchange)
            return
        await exchange.reply(
            json.dumps({"hits": list(self.hits)}).encode(), (b"Content-Type", b"application/json")
        )


@dataclass
class Cast:
    """Everybody behind a gateway that chats; `settings` lead there."""

    model: ChatModel
    retriever: Retriever
    instance: Instance
    peers: dict[str, Peer]

    @property
    def settings(self) -> dict[str, Any]:
        instance = self.peers["instance"].port
        return {
            "llm_url": self.peers["model"].url,
            "rag_url": self.peers["retriever"].url,
            "avatar_service_url": self.peers["catalogue"].url,
            "avatar_manager_url": self.peers["manager"].url,
            "avatar_instance_ports": f"{instance}-{instance}",
            "gateway_chat_limit": "100000/minute",
        }


@contextlib.asynccontextmanager
async def cast() -> AsyncIterator[Cast]:
    """Open every peer on a free port."""
    model, retriever, instance = ChatModel(), Retriever(), Instance()
    json_type = (b"Content-Type", b"application/json")

    async def catalogue(exchange: Exchange) -> None:
        await exchange.body()
        content = {"status": "success", "avatars": {"Ada": {"description": "x"}}}
        await exchange.reply(json.dumps(content).encode(), json_type)

    async with Peer(model) as model_peer, Peer(retriever) as retriever_peer, Peer(instance) as instance_peer:

        async def manager(exchange: Exchange) -> None:
            await exchange.body()
            info = {
                "avatar_id": "Ada_user_1",
                "real_avatar_name": "Ada",
                "port": instance_peer.port,
                "running": True,
            }
            await exchange.reply(json.dumps({"status": "success", "data": info}).encode(), json_type)

        async with Peer(catalogue) as catalogue_peer, Peer(manager) as manager_peer:
            peers = {
                "model": model_peer,
                "retriever": retriever_peer,
                "instance": instance_peer,
                "catalogue": catalogue_peer,
                "manager": manager_peer,
            }
            yield Cast(model, retriever, instance, peers)


def understood(reads: Sequence[bytes]) -> tuple[str, bool]:
    """Read a stream as the frontend does, without a buffer between reads: the text, and whether it finished.

    An event that is split over two reads is lost.
    """
    text, finished = "", False
    for read in reads:
        for line in read.decode("utf-8", "replace").split("\n"):
            if not line.startswith("data: ") or finished:
                continue
            try:
                content = json.loads(line[6:])
            except ValueError:
                continue
            if content.get("chunk"):
                text += content["chunk"]
            finished = finished or content.get("status") == "finished"
    return text, finished
