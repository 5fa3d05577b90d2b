"""Several workers as processes: their deaths, their ends, and what their clients notice of it."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from backend.supervisor import StopSignals
from benchmarks.workers import Load
from tests.support.demo import Demo, demo
from tests.support.gateway import Spawned, spawned
from tests.support.mail import receiving
from tests.support.peer import until
from tests.support.processes import BOTH, clean, ended, refuses, workers_of

PING = b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n"


def everybody(gateway: Spawned) -> list[psutil.Process]:
    main = psutil.Process(gateway.process.pid)
    return [main, *main.children(recursive=True)]


def serves(worker: psutil.Process, port: int) -> bool:
    """Whether it holds an established connection of a client."""
    with contextlib.suppress(psutil.Error):
        return any(
            held.status == psutil.CONN_ESTABLISHED and held.laddr.port == port
            for held in worker.net_connections("tcp")
        )
    return False


async def serving(gateway: Spawned, wanted: int = 2) -> list[psutil.Process]:
    """Wait until so many workers have each accepted a connection and answered on it."""
    port = gateway.port
    async with asyncio.timeout(60):
        while True:
            probes: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    while len(probes) < 6:
                        probes.append(await asyncio.open_connection("127.0.0.1", port))
                    for reader, writer in probes:
                        writer.write(PING)
                        await reader.readuntil(b"pong")
                    found = [worker for worker in workers_of(gateway) if serves(worker, port)]
                    if len(found) == wanted:
                        return found
            finally:
                for _, writer in probes:
                    writer.transport.abort()
            await asyncio.sleep(0.1)


def stands_still(process: psutil.Process) -> bool:
    """Whether each of its threads has stopped: the signal asks one, and that one the others."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/stat")
    return {thread.read_text().rpartition(")")[2].split()[0] for thread in threads} == {"T"}


def gone(processes: Sequence[psutil.Process], seconds: float = 20) -> bool:
    return psutil.wait_procs(processes, seconds)[1] == []


def two_workers(
    tmp_path: Path, server: str, **environment: str
) -> "contextlib.AbstractContextManager[Spawned]":
    return spawned(tmp_path, "--workers=2", f"--server={server}", **environment)


def worker_demo(
    tmp_path: Path, server: str, *arguments: str, **environment: str
) -> "contextlib.AbstractAsyncContextManager[Demo]":
    return demo(tmp_path, "--workers=2", f"--server={server}", *arguments, **environment)


# Death


@BOTH
@pytest.mark.asyncio
async def test_a_killed_worker_costs_its_clients_few_calls_and_is_replaced(
    tmp_path: Path, server: str
) -> None:
    with two_workers(tmp_path, server) as gateway:
        before = await serving(gateway)
        address = ("127.0.0.1", gateway.port)
        async with Load(address, PING, rate=40, connections=8) as load:
            await until(lambda: load.calls >= 40, 30)
            before[0].kill()
            assert await asyncio.to_thread(gone, before[:1])
            after = await serving(gateway)
            calls = load.calls
            await until(lambda: load.calls >= calls + 40, 30)
            # A call is in flight on each connection at most; on the dead worker's these are lost.
            assert len(load.lost) <= 8
            assert all(began < time.monotonic() - 0.5 for began in load.lost)  # and later ones are not
        assert before[1] in after
        assert before[0] not in after
        assert await asyncio.to_thread(gateway.stop) == 0
        assert gone(after)
    assert f"worker {before[0].pid} ended with -9" in gateway.log.read_text()
    assert clean(gateway.log)


@pytest.mark.asyncio
async def test_mail_of_killed_workers_is_sent_by_their_successors(tmp_path: Path) -> None:
    """The code was promised to somebody who waits for it."""
    async with receiving() as mailbox:
        mailbox.go.clear()
        smtp = f"smtp://127.0.0.1:{mailbox.port}"
        with spawned(tmp_path, "--workers=2", SMTP_URL=smtp) as gateway:
            workers = await serving(gateway)
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as http:
                account = {"email": "ann@school.example", "password": "Secret-pass1!"}
                asked = await http.post("/api/send_verification", json={"email": account["email"]})
                assert asked.status_code == 200
                await until(lambda: mailbox.tried > 0, 20)
                for worker in workers:
                    worker.kill()
                mailbox.go.set()
                account["code"] = await mailbox.code()
            await serving(gateway)
            # The client above may hold a connection to a worker that is dead.
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=20) as http:
                assert (await http.post("/api/register", json=account)).status_code == 201
            assert await asyncio.to_thread(gateway.stop) == 0
        assert len(mailbox.mails) == 1


@BOTH
@pytest.mark.asyncio
async def test_workers_may_die_again_and_again(tmp_path: Path, server: str) -> None:
    with two_workers(tmp_path, server) as gateway:
        for _ in range(3):
            workers = await serving(gateway)
            for worker in workers:
                worker.kill()
            assert await asyncio.to_thread(gone, workers)
        await serving(gateway)
        assert await asyncio.to_thread(gateway.stop) == 0


@BOTH
@pytest.mark.asyncio
async def test_a_connection_that_waits_while_all_workers_are_dead_is_answered_by_the_next(
    tmp_path: Path, server: str
) -> None:
    """The supervisor holds the socket, too: what waits in its queue dies with nobody."""
    with two_workers(tmp_path, server) as gateway:
        workers = await serving(gateway)
        for worker in workers:
            worker.suspend()
        await until(lambda: all(map(stands_still, workers)))
        port = gateway.port
        waiting = socket.create_connection(("127.0.0.1", port), 30)
        waiting.sendall(PING)
        for worker in workers:
            worker.kill()
        answer = await asyncio.to_thread(waiting.recv, 4096)
        waiting.close()
        assert answer.startswith(b"HTTP/1.1 200")
        assert await asyncio.to_thread(gateway.stop) == 0


@BOTH
@pytest.mark.asyncio
async def test_a_worker_that_hangs_takes_no_new_clients_and_is_replaced(tmp_path: Path, server: str) -> None:
    with two_workers(tmp_path, server, GATEWAY_HANG_SECONDS="3") as gateway:
        workers = await serving(gateway)
        workers[0].suspend()
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=10) as http:
            for _ in range(20):
                answer = await http.get("/api/ping", headers={"Connection": "close"})
                assert answer.status_code == 200
        assert await asyncio.to_thread(gone, workers[:1], 40)
        assert workers[1] in await serving(gateway)
        assert await asyncio.to_thread(gateway.stop) == 0
    assert f"worker {workers[0].pid} hangs" in gateway.log.read_text()


@BOTH
@pytest.mark.asyncio
async def test_workers_that_work_are_never_taken_for_hanging(tmp_path: Path, server: str) -> None:
    with two_workers(tmp_path, server, GATEWAY_HANG_SECONDS="3") as gateway:
        workers = await serving(gateway)
        everyone = everybody(gateway)
        for process in everyone:  # as Ctrl-Z does, or a machine that sleeps
            process.suspend()
        await asyncio.sleep(5)
        for process in everyone:
            process.resume()
        await asyncio.sleep(2)
        assert await serving(gateway) == workers
        assert await asyncio.to_thread(gateway.stop) == 0
    assert "hangs" not in gateway.log.read_text()


@BOTH
@pytest.mark.asyncio
async def test_workers_finish_their_calls_and_end_when_their_supervisor_was_killed(
    tmp_path: Path, server: str
) -> None:
    # The demo's world would end with the supervisor: the call that is under way is an unfinished upload.
    with two_workers(tmp_path, server) as gateway:
        workers = await serving(gateway)
        port = gateway.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = b'{"email":"nobody@test.local","password":"x"}'
        writer.write(
            b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        await until(lambda: any(serves(worker, port) for worker in workers), 20)
        await asyncio.sleep(0.5)
        os.kill(gateway.process.pid, signal.SIGKILL)
        await until(lambda: refuses(port), 20)
        writer.write(body)
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)).startswith(b"HTTP/1.1 401")
        writer.close()
        assert await asyncio.to_thread(gone, workers)


@BOTH
@pytest.mark.asyncio
async def test_a_hanging_call_keeps_no_worker_whose_supervisor_was_killed(
    tmp_path: Path, server: str
) -> None:
    with two_workers(tmp_path, server, GATEWAY_DRAIN_SECONDS="0.5") as gateway:
        workers = await serving(gateway)
        port = gateway.port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /api/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        await until(lambda: any(serves(worker, port) for worker in workers), 20)
        os.kill(gateway.process.pid, signal.SIGKILL)
        assert await asyncio.to_thread(gone, workers, 30)
        writer.close()


# A clean end


@BOTH
@pytest.mark.asyncio
async def test_several_workers_finish_their_calls_after_sigterm(tmp_path: Path, server: str) -> None:
    async with worker_demo(tmp_path, server, "--demo-latency=8", GATEWAY_DRAIN_SECONDS="60") as world:
        await serving(world.gateway)
        calls = [asyncio.create_task(world.preview()) for _ in range(100)]
        await world.until_open(100)
        world.gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(world.port), 10)
        answers = await asyncio.gather(*calls)
        assert [answer.status_code for answer in answers] == [200] * 100
        assert {answer.content[:4] for answer in answers} == {b"\x89PNG"}
        assert await ended(world.gateway) == 0
    assert clean(world.gateway.log)


@BOTH
@pytest.mark.asyncio
async def test_a_call_that_hangs_in_a_worker_is_cut_after_the_grace(tmp_path: Path, server: str) -> None:
    async with worker_demo(tmp_path, server, "--demo-latency=0", GATEWAY_DRAIN_SECONDS="0.5") as world:
        await serving(world.gateway)
        hanging = await world.hang()
        began = time.monotonic()
        world.gateway.process.send_signal(signal.SIGTERM)
        assert await ended(world.gateway) == 0
        assert 0.5 <= time.monotonic() - began < 15
        with pytest.raises(httpx.HTTPError):
            (await hanging).raise_for_status()


@BOTH
@pytest.mark.asyncio
async def test_a_second_sigterm_ends_every_worker_at_once(tmp_path: Path, server: str) -> None:
    async with worker_demo(tmp_path, server, "--demo-latency=0", GATEWAY_DRAIN_SECONDS="60") as world:
        await serving(world.gateway)
        hanging = await world.hang()
        everyone = everybody(world.gateway)
        world.gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: refuses(world.port), 10)
        began = time.monotonic()
        world.gateway.process.send_signal(signal.SIGTERM)
        assert await ended(world.gateway) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 15
        with pytest.raises(httpx.HTTPError):
            (await hanging).raise_for_status()
        assert await asyncio.to_thread(gone, everyone)


@BOTH
@pytest.mark.asyncio
async def test_sigterm_while_a_worker_is_being_replaced_ends_everything(tmp_path: Path, server: str) -> None:
    with two_workers(tmp_path, server) as gateway:
        for delay in (0.0, 0.05):
            workers = await serving(gateway)
            workers[0].kill()
            await asyncio.sleep(delay)
        everyone = everybody(gateway)
        assert await asyncio.to_thread(gateway.stop, 20) == 0
        assert await asyncio.to_thread(gone, everyone)
    assert clean(gateway.log)


@pytest.mark.parametrize("options", [[], ["--workers=2"], ["--server=granian"]], ids=str)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.asyncio
async def test_a_signal_of_the_terminal_finishes_the_calls_and_leaves_no_process(
    tmp_path: Path, options: list[str], number: signal.Signals
) -> None:
    """Ctrl-C, or the window closed: every process of the group gets it, not only the first."""
    async with demo(tmp_path, "--demo-latency=4", *options, GATEWAY_DRAIN_SECONDS="60") as world:
        calls = [asyncio.create_task(world.preview()) for _ in range(10)]
        await world.until_open(10)
        everyone = everybody(world.gateway)
        os.killpg(world.gateway.process.pid, number)
        assert [answer.status_code for answer in await asyncio.gather(*calls)] == [200] * 10
        assert await ended(world.gateway) == 0
        assert await asyncio.to_thread(gone, everyone)
    assert clean(world.gateway.log)
    assert "KeyboardInterrupt" not in world.gateway.log.read_text()


@pytest.mark.parametrize("options", [[], ["--workers=2"]], ids=str)
def test_a_signal_amid_the_start_ends_it_without_a_word(tmp_path: Path, options: list[str]) -> None:
    for pause in (0.0, 0.3, 0.8):
        with spawned(tmp_path, *options, answering=False) as gateway:
            time.sleep(pause)
            everyone = everybody(gateway)
            os.killpg(gateway.process.pid, signal.SIGINT)
            assert gateway.process.wait(30) is not None
            assert gone(everyone)


# Which signals say what


def received(*numbers: signal.Signals) -> StopSignals:
    signals = StopSignals()
    for number in numbers:
        signals.receive(number)
    return signals


@pytest.mark.parametrize(
    ("numbers", "stop", "at_once"),
    [
        ((), False, None),
        ((signal.SIGTERM,), True, None),
        ((signal.SIGHUP, signal.SIGHUP), True, None),
        ((signal.SIGTERM, signal.SIGHUP), True, None),
        ((signal.SIGINT, signal.SIGINT), True, 130),
        ((signal.SIGHUP, signal.SIGTERM), True, 143),
    ],
)
def test_the_first_signal_asks_and_the_second_insists(
    numbers: tuple[signal.Signals, ...], stop: bool, at_once: int | None
) -> None:
    signals = received(*numbers)
    assert (signals.stop, signals.at_once) == (stop, at_once)


def test_under_nohup_a_closed_terminal_is_not_heard() -> None:
    before: Callable[..., object] | int | None = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert StopSignals.heard() == [signal.SIGTERM, signal.SIGINT]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in StopSignals.heard()
