"""`python -m benchmarks.uploads`: what many large files at once cost a gateway in memory.

Documents go to the disk, from there to an index in this process, and a film goes to the disk alone; all are
under way at the same time. The gateway's memory is read before, and its peak after.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from benchmarks import command, gateway, report, usage
from benchmarks.machine import reserved
from benchmarks.processes import Failure, free_port

VERSIONS = ("flask", "hypercorn", "granian", "uvloop", "python-multipart")
MEGABYTE = 1024 * 1024
DOCUMENT_BYTES = 20 * MEGABYTE
FILM_BYTES = 100 * MEGABYTE
SLICE = bytes(256 * 1024)
MOST_GROWTH_MB = 32.0
CALL_SECONDS = 300.0
PDF, FILM = b"%PDF-1.7\n", b"\x00\x00\x00\x18ftypmp42"
TAKEN = b'{"page_count":1,"page_embs_num":1,"chunk_embs_num":1}'


@dataclass(frozen=True)
class Uploaded:
    """One gateway after its files: memory before, and its peak."""

    server: str
    files: int
    megabytes: int
    seconds: float
    before_mb: float
    peak_mb: float
    indexed_mb: int

    @property
    def growth_mb(self) -> float:
        return max(0.0, self.peak_mb - self.before_mb)

    @property
    def verdict(self) -> str:
        return "ok" if self.growth_mb < MOST_GROWTH_MB else "short"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.uploads", "Upload many large files at once and watch the memory.")
    parser.add_argument(
        "--documents", type=command.whole(1, 30), default=20, metavar="N", help="of 20 MB each, at once"
    )
    parser.add_argument(
        "--rounds", type=command.whole(1, 20), default=2, metavar="N", help="one after another"
    )
    parser.add_argument("--server", choices=gateway.SERVERS, help="this one alone")
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, folder: Path) -> int:
    cores, machine = reserved(VERSIONS)
    account = gateway.Account.made(folder)
    measured = []
    for server in [asked.server] if asked.server else gateway.SERVERS:
        port = free_port()
        nobody = "http://127.0.0.1:9"
        settings = {
            "RAG_URL": f"http://127.0.0.1:{port}",
            "GATEWAY_FILES_DIR": str(folder / server),
            "GATEWAY_QUOTA_MB": "20000",
        }
        with gateway.served(server, account, folder, cores.measured, nobody, nobody, **settings) as served:
            report.progress(f"gateway on {server}")
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                measured += runner.run(_rounds(server, served, port, asked))
    table = _table(measured)
    notes = [
        f"At once: documents of {DOCUMENT_BYTES // MEGABYTE} MB, which also go to the index, and a film of "
        f"{FILM_BYTES // MEGABYTE} MB. The peak may be {MOST_GROWTH_MB:g} MB above what was resident before."
    ]
    report.show(machine, [table], notes)
    report.save(asked.markdown, report.markdown(machine, [table], notes))
    report.save(asked.json, {"machine": machine, "uploaded": [asdict(one) for one in measured]})
    return command.SHORT if any(one.verdict == "short" for one in measured) else command.FINE


async def _rounds(
    server: str, served: gateway.Served, port: int, asked: argparse.Namespace
) -> list[Uploaded]:
    measured = []
    async with Index.listening(port) as index:
        # Threads and connections to the database come with the first that needs them, and stay.
        small = (Sent(f"small {number}.pdf", PDF, len(PDF)) for number in range(asked.documents))
        await asyncio.gather(*(upload(served, sent) for sent in small))
        for _ in range(asked.rounds):
            before = index.count
            usage.forget_peak(served.process)
            resident = usage.largest_resident_bytes(served.process) / MEGABYTE
            files = [Sent(f"{number}.pdf", PDF, DOCUMENT_BYTES) for number in range(asked.documents)]
            files.append(Sent("film.mp4", FILM, FILM_BYTES))
            began = time.monotonic()
            indexed = await asyncio.gather(*(upload(served, sent) for sent in files))
            seconds = time.monotonic() - began
            if sum(indexed) != asked.documents:
                raise Failure(f"{asked.documents - sum(indexed)} documents were not indexed")
            measured.append(
                Uploaded(
                    server,
                    len(files),
                    sum(sent.size for sent in files) // MEGABYTE,
                    seconds,
                    resident,
                    usage.largest_peak_bytes(served.process) / MEGABYTE,
                    (index.count - before) // MEGABYTE,
                )
            )
    return measured


@dataclass(frozen=True)
class Sent:
    """A file made of its first bytes and zeros."""

    name: str
    begins: bytes
    size: int

    def form(self) -> tuple[bytes, Iterator[bytes], int]:
        """Return the content type, the pieces and the length of the form around it."""
        boundary = secrets.token_hex(16)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{self.name}"\r\n\r\n'
        ).encode() + self.begins
        tail = f"\r\n--{boundary}--\r\n".encode()

        def pieces() -> Iterator[bytes]:
            yield head
            left = self.size - len(self.begins)
            while left:
                piece = SLICE[:left]
                left -= len(piece)
                yield piece
            yield tail

        length = len(head) - len(self.begins) + self.size + len(tail)
        return f"multipart/form-data; boundary={boundary}".encode(), pieces(), length


async def upload(served: gateway.Served, sent: Sent) -> bool:
    """Upload a file on a connection of its own; tell whether it was indexed. Raises Failure."""
    parts = urlsplit(served.url)
    kind, pieces, length = sent.form()
    head = [b"POST /api/chat/upload HTTP/1.1", b"Host: gateway.test", b"Content-Type: " + kind]
    head += [f"{name}: {value}".encode() for name, value in served.headers.items()]
    head += [b"Connection: close", b"Content-Length: %d" % length]
    async with asyncio.timeout(CALL_SECONDS):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(b"\r\n".join(head) + b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise Failure(f"an upload was answered with {answer[:60]!r}: {body[:200]!r}")
    return bool(json.loads(body)["rag_indexed"])


class Index:
    """Takes documents and keeps none; `count` is how many bytes came."""

    def __init__(self) -> None:
        self.count = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def listening(cls, port: int) -> AsyncIterator["Index"]:
        index = cls()
        server = await asyncio.start_server(index._talk, "127.0.0.1", port)
        try:
            yield index
        finally:
            server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                left = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                while left:
                    chunk = await reader.read(min(left, len(SLICE)))
                    if not chunk:
                        return
                    left -= len(chunk)
                    self.count += len(chunk)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(TAKEN), TAKEN))
        writer.close()


def _table(measured: Sequence[Uploaded]) -> report.Table:
    rows = [
        (
            one.server,
            str(one.files),
            f"{one.megabytes:,} MB",
            f"{one.indexed_mb:,} MB",
            f"{one.seconds:.1f} s",
            f"{one.before_mb:.1f} MB",
            f"{one.peak_mb:.1f} MB",
            f"+{one.growth_mb:.1f} MB",
            one.verdict,
        )
        for one in measured
    ]
    columns = ("server", "files", "sent", "to the index", "time", "before", "peak", "growth", "")
    return report.Table("Uploads at once", columns, tuple(rows))


if __name__ == "__main__":
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
