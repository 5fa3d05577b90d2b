"""A small request costs little: 10 KiB in never costs a megabyte of memory, nor much processor time."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.demo import Demo, demo
from tests.support.wire import Caller, calling

SMALL_BYTES = 10 * 1024
CALLS = 60
AT_ONCE = 20
MOST_PROCESSOR_SECONDS = 0.02
MEBIBYTE = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Bomb:
    """Ten kilobytes that are meant to cost more than they look."""

    name: str
    content: bytes
    content_type: bytes = b"application/json"
    headers: tuple[Pair, ...] = ()
    chunked: bool = False

    def __str__(self) -> str:
        return self.name

    def request(self, route: str, token: bytes) -> bytes:
        lines = [b"POST " + route.encode() + b" HTTP/1.1", b"Host: x", b"Authorization: Bearer " + token]
        lines += [b"Content-Type: " + self.content_type]
        lines += [name + b": " + value for name, value in self.headers]
        body = self.content
        if self.chunked:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        else:
            lines.append(b"Content-Length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def filled(unit: bytes, size: int = SMALL_BYTES) -> bytes:
    return unit * (size // len(unit))


FORM = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data; boundary=b"
DISPOSITION = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n\r\n'
PART_OF_HEADERS = b'--b\r\nContent-Disposition: form-data; name="a"%b\r\n\r\n1\r\n--b--\r\n'

BODIES = (
    Bomb("deep JSON", filled(b"[")),
    Bomb("deep JSON objects", filled(b'{"a":')),
    Bomb("JSON of many keys", json.dumps({f"{n:x}": 0 for n in range(1000)}).encode()),
    Bomb("JSON number", b'{"email":' + filled(b"9") + b"}"),
    Bomb("JSON escapes", b'{"email":"' + filled(b"\\u0000", 6000) + b'","password":""}'),
    Bomb("many fields", filled(b"a=1&"), FORM),
    Bomb("empty fields", filled(b"&"), FORM),
    Bomb("escaped fields", filled(b"%41=%C3%A9&"), FORM),
    Bomb("broken escapes", b"avatar_name=" + filled(b"%"), FORM),
    Bomb("many parts", filled(DISPOSITION % b"a") + b"--b--\r\n", MULTIPART),
    Bomb("part without a name", filled(b"--b\r\n\r\n\r\n") + b"--b--\r\n", MULTIPART),
    Bomb("almost boundaries", DISPOSITION[:-2] % b"a" + filled(b"\r\n--"), MULTIPART),
    Bomb("part of parameters", PART_OF_HEADERS % filled(b"; a=b", 8000), MULTIPART),
    Bomb("part of semicolons", PART_OF_HEADERS % filled(b";", 8000), MULTIPART),
    Bomb("part of quotes", PART_OF_HEADERS % (b'; x="' + filled(b'\\"', 8000)), MULTIPART),
    Bomb("part of numbered parameters", PART_OF_HEADERS % filled(b"; a*1*=''%41", 8000), MULTIPART),
    Bomb("part of header lines", b"--b\r\n" + filled(b"a:b\r\n", 8000) + b"\r\n1\r\n--b--\r\n", MULTIPART),
    Bomb("long boundary", b"--" + filled(b"b"), b"multipart/form-data; boundary=" + filled(b"b", 5000)),
    Bomb("type of parameters", b"", b"multipart/form-data" + filled(b"; a=b")),
    Bomb("type of semicolons", b"", b"multipart/form-data" + filled(b";")),
    Bomb("type of quotes", b"", b'multipart/form-data; boundary="' + filled(b'\\"')),
    Bomb("many chunks", filled(b"a=1&", 2000), FORM, chunked=True),
    Bomb("many headers", b"", headers=tuple((b"a%d" % n, b"") for n in range(1000))),
    Bomb("one header often", b"", headers=tuple((b"a", b"b") for n in range(2000))),
    Bomb("many cookies", b"", headers=((b"Cookie", filled(b"a=b; ")),)),
    Bomb("cookie of escapes", b"", headers=((b"Cookie", b'a="' + filled(b"\\012")),)),
    Bomb("many addresses", b"", headers=((b"X-Forwarded-For", filled(b"1,")),)),
    Bomb("many hops", b"", headers=((b"Connection", filled(b"a,")),)),
    Bomb("many types", b"", headers=((b"Accept", filled(b"a/b;q=0.1,")),)),
    Bomb("many languages", b"", headers=((b"Accept-Language", filled(b"a-a,")),)),
    Bomb("many ranges", b"", headers=((b"Range", b"bytes=" + filled(b"0-,")),)),
    Bomb("long origin", b"", headers=((b"Origin", b"http://" + filled(b"a.")),)),
    Bomb("token of dots", b"", headers=((b"X-Token", filled(b".")),)),
)
ROUTES = (
    "/api/login",
    "/api/avatar/add",
    "/api/avatar/preview",
    "/api/avatar/delete",
    "/api/avatar/start",
    "/api/webrtc/offer",
    "/api/logout",
    "/api/nothing/here",
)


class Costs:
    """What one process used, as Linux tells it."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def processor_seconds(self) -> float:
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def forget_peak(self) -> None:
        (self._folder / "clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        return self._bytes("VmHWM")

    def resident_bytes(self) -> int:
        return self._bytes("VmRSS")

    def _bytes(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


@contextlib.asynccontextmanager
async def signed_in(tmp_path: Path, server: str) -> AsyncIterator[tuple[Demo, bytes]]:
    async with demo(tmp_path, f"--server={server}", "--demo-latency=0.01") as running:
        account = {"email": "tutor@demo.local", "password": "Demo-pass1!"}
        answer = await running.http.post("/api/login", json=account)
        yield running, answer.json()["token"].encode()


async def sent(port: int, request: bytes, times: int) -> set[int]:
    statuses = set()
    for _ in range(times):
        async with calling(port) as caller:
            await caller.say(request)
            statuses.add((await caller.reply()).status)
    return statuses


@pytest.mark.parametrize("server", ["hypercorn"])
@pytest.mark.asyncio
async def test_no_small_request_costs_much(tmp_path: Path, server: str) -> None:
    async with signed_in(tmp_path, server) as (running, token):
        costs = Costs(running.gateway.process.pid)
        rows = []
        for bomb in BODIES:
            for route in ROUTES:
                request = bomb.request(route, token)
                await sent(running.port, request, 2)
                costs.forget_peak()
                memory, before = costs.resident_bytes(), costs.processor_seconds()
                statuses = await asyncio.gather(
                    *(sent(running.port, request, CALLS // AT_ONCE) for _ in range(AT_ONCE))
                )
                used = (costs.processor_seconds() - before) / CALLS
                grown = (costs.peak_bytes() - memory) / AT_ONCE
                rows.append((used * 1000, grown / 1024, bomb.name, route, set().union(*statuses)))
        rows.sort(reverse=True)
        for row in rows[:40]:
            print("%.2f ms %.0f KB %s %s %s" % row)
        rows.sort(key=lambda r: -r[1])
        for row in rows[:10]:
            print("%.2f ms %.0f KB %s %s %s" % row)
