"""Options as the kernel has them on live sockets, not as they were meant."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import psutil
import pytest

from backend.services import sockets
from tests.support.gateway import mount, serving, settings_for, spawned
from tests.support.peer import Exchange, Peer, until

TCP = socket.IPPROTO_TCP
NOTICES_THE_DEAD = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (TCP, socket.TCP_NODELAY): 1,
    (TCP, socket.TCP_KEEPIDLE): 60,
    (TCP, socket.TCP_KEEPINTVL): 15,
    (TCP, socket.TCP_KEEPCNT): 4,
}
TRANSPORTS = pytest.mark.parametrize("transport", ["direct", "reqwest"])


def options_of(sock: socket.socket) -> dict[tuple[int, int], int]:
    return {key: sock.getsockopt(*key) for key in NOTICES_THE_DEAD}


@contextlib.contextmanager
def connected_to(pid: int, *, local: int | None = None, remote: int | None = None) -> Iterator[socket.socket]:
    """Another look at a socket that a process holds, by its own or its peer's port."""
    for held in psutil.Process(pid).net_connections("tcp"):
        if held.status == psutil.CONN_ESTABLISHED and (
            held.laddr.port == local or (held.raddr and held.raddr.port == remote)
        ):
            with contextlib.closing(_taken(pid, held.fd)) as sock:
                yield sock
            return
    raise AssertionError("no such connection")


def _taken(pid: int, descriptor: int) -> socket.socket:
    if pid == os.getpid():
        return socket.socket(fileno=os.dup(descriptor))
    pidfd = os.pidfd_open(pid)
    try:
        return socket.socket(fileno=_pidfd_getfd(pidfd, descriptor))
    finally:
        os.close(pidfd)


def _pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """The system call of that name, which Python does not have; needs the right to trace the process."""
    import ctypes

    taken = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, descriptor, 0)
    if taken < 0:
        pytest.skip(f"this system does not let one look: {os.strerror(ctypes.get_errno())}")
    return int(taken)


@pytest.mark.parametrize("options", [["--workers=1"], ["--workers=2"], ["--server=granian"]], ids=str)
@pytest.mark.asyncio
async def test_connections_of_clients_notice_a_dead_peer(tmp_path: Path, options: list[str]) -> None:
    with spawned(tmp_path, *options) as gateway:
        port = gateway.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"pong")
        main = psutil.Process(gateway.process.pid)
        holders = [
            process.pid
            for process in [main, *main.children(recursive=True)]
            if any(held.raddr and held.laddr.port == port for held in process.net_connections("tcp"))
        ]
        assert len(holders) == 1
        with connected_to(holders[0], local=port) as sock:
            assert options_of(sock) == NOTICES_THE_DEAD
            assert sock.getsockopt(TCP, socket.TCP_USER_TIMEOUT) == 120_000
        writer.close()


@TRANSPORTS
@pytest.mark.asyncio
async def test_connections_to_upstreams_notice_a_dead_peer(tmp_path: Path, transport: str) -> None:
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await go.wait()
        await exchange.reply()

    async with Peer(script) as peer:
        mounts = (mount("/m", peer.url),)
        settings = settings_for(tmp_path, gateway_mounts=mounts, upstream_transport=transport)
        async with serving(settings) as served:
            call = asyncio.create_task(served.http.get("/m/x"))
            await until(lambda: len(peer.heads) == 1)
            with connected_to(os.getpid(), remote=peer.port) as sock:
                assert options_of(sock) == NOTICES_THE_DEAD
            go.set()
            assert (await call).status_code == 200


class Refusing:
    """A socket of a system that knows the names and refuses them."""

    def setsockopt(self, *_: int) -> None:
        raise OSError(92, "Protocol not available")


def test_an_option_that_the_system_refuses_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sockets, "_refused", set())
    for _ in range(3):
        sockets.tune(cast(socket.socket, Refusing()), [("TCP_NODELAY", TCP, 1), ("SO_UNHEARD_OF", 0, 1)])
    assert [record.getMessage() for record in caplog.records] == [
        "TCP_NODELAY cannot be set here: [Errno 92] Protocol not available"
    ]
