"""What little requests may cost: 10 KiB in never costs 1 MiB of memory."""

import asyncio
import contextlib
import json
from pathlib import Path

import psutil
import pytest

from tests.support.gateway import Spawned, spawned
from tests.support.processes import BOTH

SIZE = 10 * 1024
CONNECTIONS = 150
MOST_BYTES = 256 * 1024  # a quarter of what was promised
HEAD = b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def chunked(size: int) -> bytes:
    return b"1\r\n[\r\n" * (size // 6)


# Each has 10 KiB, give or take, and most lack their end: the server has to keep what came.
REQUESTS = {
    "a head of many names that does not end": b"GET / HTTP/1.1\r\n"
    + b"".join(b"n%d: \r\n" % number for number in range(SIZE // 9)),
    "a head of one name that does not end": b"GET / HTTP/1.1\r\nCookie: " + b"a=b; " * (SIZE // 5),
    "a target that does not end": b"GET /" + b"%61" * (SIZE // 3),
    "a body that does not end": HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + b"[" * (SIZE - 1),
    "a body in chunks of one byte": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(SIZE),
    "requests one behind another": b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n" * (SIZE // 37),
    "a body that is deep": HEAD + b"Content-Length: %d\r\n\r\n" % SIZE + b"[" * SIZE,
    "a body of many names": HEAD
    + b"Content-Length: %d\r\n\r\n" % len(json.dumps({f"{n}": 0 for n in range(1000)}))
    + json.dumps({f"{n}": 0 for n in range(1000)}).encode(),
    "an announced gigabyte": HEAD + b"Content-Length: 1000000000\r\n\r\n" + b"[" * SIZE,
}


def resident(gateway: Spawned) -> int:
    main = psutil.Process(gateway.process.pid)
    return max(one.memory_info().rss for one in [main, *main.children(recursive=True)])


@BOTH
@pytest.mark.asyncio
async def test_ten_kibibytes_in_never_cost_a_mebibyte(tmp_path: Path, server: str) -> None:
    with spawned(tmp_path, f"--server={server}") as gateway:
        port = gateway.port
        cost = {}
        for name, request in REQUESTS.items():
            assert len(request) < SIZE * 1.5
            before = resident(gateway)
            most = before
            writers = []
            for _ in range(CONNECTIONS):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                writers.append(writer)
            for _ in range(10):
                await asyncio.sleep(0.1)
                most = max(most, resident(gateway))
            for writer in writers:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            cost[name] = (most - before) // CONNECTIONS
        assert {name: each for name, each in cost.items() if each > MOST_BYTES} == {}
