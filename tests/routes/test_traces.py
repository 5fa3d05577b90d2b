"""Spans from the client to the upstream, in the forms that others read. Needs requirements-trace.txt."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="bash install_async_deps.sh --trace")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="bash install_async_deps.sh --trace")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from backend.config import Settings
from backend.services.span_export import TraceFile
from tests.support.disk import small_disk
from tests.support.frontend import Frontend, good
from tests.support.gateway import mount, serving, settings_for, spawned
from tests.support.peer import Exchange, Peer, until
from tests.support.ports import free_port

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "rojo=1"}


async def reply(exchange: Exchange) -> None:
    if exchange.head.target == b"/cut":
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await asyncio.sleep(0.05)
        exchange.reset()
    else:
        await exchange.reply(b"{}", status=b"503 Busy" if exchange.head.target == b"/503" else b"200 OK")


def sent(peer: Peer, name: bytes) -> list[str]:
    return [value.decode() for key, value in peer.heads[-1].headers if key.lower() == name]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.asyncio
async def test_client_gateway_and_upstream_are_one_trace(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "traces.jsonl"
    async with Peer(reply) as peer:
        both = mount("/m", peer.url, methods=["GET", "POST"])
        over = {"gateway_traces": f"file:{file}", "gateway_mounts": [both]}
        async with serving(settings_for(tmp_path, **over)) as served:
            await served.http.get("/m/x?token=geheim", headers=PARENT)
            [traceparent] = sent(peer, b"traceparent")
            assert sent(peer, b"tracestate") == ["rojo=1"]
            await served.http.post("/m/503", headers=PARENT)
            with pytest.raises(httpx.RemoteProtocolError):
                await served.http.get("/m/cut", headers=PARENT)
            await served.http.get("/nothing", headers=PARENT)
    spans = [span for span in lines(file) if span["context"]["trace_id"] == f"0x{TRACE}"]
    call, request, refused, _, cut, broken, unmatched = spans
    assert (call["kind"], request["kind"]) == ("SpanKind.CLIENT", "SpanKind.SERVER")
    assert traceparent == f"00-{TRACE}-{call['context']['span_id'][2:]}-01"
    assert call["parent_id"] == request["context"]["span_id"]
    assert request["parent_id"] == f"0x{SPAN}"
    assert request["name"] == "GET /m/<anything:rest>"
    assert request["attributes"]["http.response.status_code"] == 200
    assert request["attributes"]["gateway.request_id"]
    assert request["start_time"] <= call["start_time"] <= call["end_time"] <= request["end_time"]
    assert (refused["status"]["status_code"], refused["attributes"]["error.type"]) == ("ERROR", "503")
    assert cut["attributes"]["error.type"] == broken["attributes"]["error.type"] == "upstream_broken"
    assert (unmatched["name"], unmatched["status"]["status_code"]) == ("GET unmatched", "UNSET")
    assert "geheim" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("hostile", ["nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "é"])
@pytest.mark.asyncio
async def test_a_hostile_parent_is_replaced(tmp_path: Path, hostile: str) -> None:
    file = tmp_path / "traces.jsonl"
    async with Peer(reply) as peer:
        over = {"gateway_traces": f"file:{file}", "gateway_mounts": [mount("/m", peer.url)]}
        async with serving(settings_for(tmp_path, **over)) as served:
            headers = {"traceparent": hostile.encode(), "tracestate": b"rojo=1"}
            await served.http.get("/m/x", headers=headers)
            [traceparent] = sent(peer, b"traceparent")
            assert sent(peer, b"tracestate") == []
    *_, call, request = lines(file)
    assert request["parent_id"] is None
    assert traceparent == f"00-{call['context']['trace_id'][2:]}-{call['context']['span_id'][2:]}-01"


@pytest.mark.asyncio
async def test_what_is_not_followed_passes_as_it_is(tmp_path: Path) -> None:
    async with Peer(reply) as peer:
        over = {"gateway_traces": f"file:{tmp_path / 't'}", "gateway_mounts": [mount("/m", peer.url)]}
        async with serving(settings_for(tmp_path, **over)) as served:
            unsampled = PARENT["traceparent"][:-1] + "0"
            await served.http.get("/m/x", headers={"traceparent": unsampled})
            assert sent(peer, b"traceparent") == [unsampled]


@pytest.mark.asyncio
async def test_calls_that_several_wait_for_belong_to_who_asked_first(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    file = tmp_path / "traces.jsonl"
    async with serving(settings(gateway_traces=f"file:{file}")) as served:
        student = Frontend(served.http, await served.token())
        good(await served.http.get("/api/avatar/list", headers=student.headers | PARENT))
    spans = [span for span in lines(file) if span["context"]["trace_id"] == f"0x{TRACE}"]
    [call] = [span for span in spans if span["name"] == "GET catalogue"]
    [request] = [span for span in spans if span["name"] == "GET /api/avatar/list"]
    assert call["parent_id"] == request["context"]["span_id"]


class Collected:
    """A collector of the OTLP kind."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.hang = False

    async def __call__(self, exchange: Exchange) -> None:
        body = await exchange.body()
        if self.hang:
            await asyncio.sleep(30)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.names += [span.name for span in scope.spans]
        await exchange.reply(b"", (b"Content-Type", b"application/x-protobuf"))


@pytest.mark.asyncio
async def test_a_collector_gets_them_by_otlp(tmp_path: Path) -> None:
    collected = Collected()
    async with Peer(collected) as collector, Peer(reply) as peer:
        over = {"gateway_traces": f"{collector.url}/v1/traces", "gateway_mounts": [mount("/m", peer.url)]}
        async with serving(settings_for(tmp_path, **over)) as served:
            await served.http.get("/m/x")
            await until(lambda: "GET mount /m" in collected.names, seconds=20)
            assert collector.heads[-1].target == b"/v1/traces"


@pytest.mark.parametrize("how", ["away", "hanging"])
@pytest.mark.asyncio
async def test_a_collector_that_does_not_answer_holds_up_neither_calls_nor_the_end(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    collected = Collected()
    collected.hang = True  # longer than anybody waits
    loop = asyncio.get_running_loop()
    async with Peer(collected) as collector, Peer(reply) as peer:
        url = collector.url if how == "hanging" else f"http://127.0.0.1:{free_port()}"
        over = {"gateway_traces": f"{url}/v1/traces", "gateway_mounts": [mount("/m", peer.url)]}
        async with serving(settings_for(tmp_path, **over)) as served:
            for _ in range(20):
                assert (await served.http.get("/m/x")).status_code == 200
            if how == "away":
                await until(lambda: served.gateway.watching.face.tracer.lost > 0, seconds=30)  # type: ignore[union-attr]
                assert (await served.http.get("/api/stats")).json()["lost_spans"] > 0
                assert "gateway_spans_lost" in (await served.http.get("/metrics")).text
                assert caplog.text.count("cannot be delivered") == 1
            began = loop.time()
        assert loop.time() - began < 25


def test_they_come_on_the_terminal(tmp_path: Path) -> None:
    with spawned(tmp_path, GATEWAY_TRACES="console") as gateway:
        httpx.get(f"{gateway.url}/api/ping", headers=PARENT, trust_env=False)
        assert gateway.stop() == 0
        assert gateway.process.stdout is not None
        spans = [json.loads(line) for line in gateway.process.stdout if line.startswith("{")]
    assert f"0x{TRACE}" in {span["context"]["trace_id"] for span in spans}


def test_a_full_file_makes_room_for_a_new_one(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    one, other = TraceFile(file, most_bytes=100), TraceFile(file, most_bytes=100)
    for _ in range(50):
        one.write(b"x" * 39 + b"\n")
        other.write(b"y" * 39 + b"\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["traces.jsonl", "traces.jsonl.1"]
    assert file.stat().st_size <= 120
    assert {line[0] for line in (tmp_path / "traces.jsonl.1").read_text().splitlines()} == {"x", "y"}


def test_a_full_disk_takes_whole_lines_or_none(tmp_path: Path) -> None:
    """A part of what was written stayed, was taken for the whole, and spoiled the line behind it."""
    with small_disk(tmp_path / "disk", "64k") as mounted:
        if not mounted:
            pytest.skip("a small disk needs root and the right to mount one")
        file = tmp_path / "disk" / "traces.jsonl"
        traces = TraceFile(file)
        traces.write(b"x" * 49_999 + b"\n")
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                traces.write(b"y" * 39_999 + b"\n")
        traces.write(b"z" * 999 + b"\n")
        assert [line[0] + str(len(line)) for line in file.read_text().splitlines()] == ["x49999", "z999"]


@pytest.mark.asyncio
async def test_spans_that_a_full_disk_does_not_take_are_counted_and_hold_up_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    async with Peer(reply) as peer:
        over = {"gateway_traces": f"file:{tmp_path / 'full'}", "gateway_mounts": [mount("/m", peer.url)]}
        async with serving(settings_for(tmp_path, **over)) as served:
            for _ in range(20):
                assert (await served.http.get("/m/x")).status_code == 200
            tracer = served.gateway.watching.face.tracer
            assert tracer is not None
            assert tracer._thread is not None
            await until(lambda: tracer.lost > 0, seconds=30)
            assert (await served.http.get("/api/stats")).json()["lost_spans"] > 0
            thread = tracer._thread.ident
    # The thread of an earlier test's gateway may still have something to say.
    said = [record.message for record in caplog.records if record.thread == thread]
    assert ["cannot be delivered" in message for message in said] == [True]
