"""`python -m benchmarks.sockets`: what are TCP options worth, on loopback and over a line with delay?

Plain sockets, no gateway: bodies in one direction with the kernel's own buffers and with fixed ones, and
small exchanges with and without TCP_NODELAY and TCP_QUICKACK. The line with delay is made of two tunnel
devices in network namespaces of their own, which needs root; without, it is left out.
"""

import argparse
import array
import collections
import contextlib
import ctypes
import fcntl
import functools
import multiprocessing
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import command, report
from benchmarks.machine import described

MEGABYTE = 1024 * 1024
BUFFER_BYTES = 256 * 1024
LOOPBACK_MB, LINE_MB = 512, 24
EXCHANGES = 300
# Large enough that a forwarder in Python keeps up.
MTU = 9000
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
MAKE_TUNNEL, TUNNEL, NO_INFORMATION = 0x400454CA, 0x0001, 0x1000  # TUNSETIFF, IFF_TUN, IFF_NO_PI

Options = Mapping[tuple[int, int], int]
TCP = socket.IPPROTO_TCP
NODELAY, QUICKACK = (TCP, socket.TCP_NODELAY), (TCP, 12)
FIXED: Options = {
    (socket.SOL_SOCKET, socket.SO_SNDBUF): BUFFER_BYTES,
    (socket.SOL_SOCKET, socket.SO_RCVBUF): BUFFER_BYTES,
}
BODIES: Mapping[str, Options] = {"the kernel's buffers": {}, "256 KiB buffers": FIXED}
SMALL: Mapping[str, Options] = {
    "Nagle": {NODELAY: 0},
    "TCP_NODELAY": {NODELAY: 1},
    "TCP_NODELAY, TCP_QUICKACK": {NODELAY: 1, QUICKACK: 1},
}


@dataclass(frozen=True)
class Place:
    """Where a peer listens, and in which network namespace each side lives (None: this one)."""

    address: str
    enter_server: Callable[[], None] | None = None
    enter_client: Callable[[], None] | None = None


def tuned(sock: socket.socket, options: Options) -> socket.socket:
    for (level, name), value in options.items():
        sock.setsockopt(level, name, value)
    return sock


def serve(listener: socket.socket, options: Options) -> None:
    """Swallow a body whole and say so; or answer small questions, each of them in two parts."""
    while True:
        sock = tuned(listener.accept()[0], {key: options[key] for key in (NODELAY,) if key in options})
        with sock:
            kind = sock.recv(1)
            if kind == b"b":
                (size,) = struct.unpack("!Q", _exactly(sock, 8))
                buffer = bytearray(MEGABYTE)
                while size > 0:
                    size -= sock.recv_into(buffer)
                sock.sendall(b".")
            while kind == b"s" and len(_exactly(sock, 200)) == 200:
                if QUICKACK in options:
                    sock.setsockopt(*QUICKACK, 1)
                sock.sendall(bytes(150))  # a head
                sock.sendall(bytes(150))  # a body


def _exactly(sock: socket.socket, size: int) -> bytes:
    whole = b""
    while len(whole) < size:
        piece = sock.recv(size - len(whole))
        if not piece:
            return b""
        whole += piece
    return whole


def body_rate(address: tuple[str, int], options: Options, megabytes: int) -> float:
    """MB/s of one body."""
    with socket.socket() as sock:
        tuned(sock, options).connect(address)
        piece = bytes(MEGABYTE)
        start = time.perf_counter()
        sock.sendall(b"b" + struct.pack("!Q", megabytes * MEGABYTE))
        for _ in range(megabytes):
            sock.sendall(piece)
        sock.recv(1)
        return megabytes / (time.perf_counter() - start)


def exchange_ms(address: tuple[str, int], options: Options) -> float:
    """Milliseconds of a small exchange, a question in two parts and an answer in two."""
    with socket.socket() as sock:
        tuned(sock, options).connect(address)
        sock.sendall(b"s")
        start = time.perf_counter()
        for _ in range(EXCHANGES):
            sock.sendall(bytes(100))
            sock.sendall(bytes(100))
            _exactly(sock, 300)
            if QUICKACK in options:
                sock.setsockopt(*QUICKACK, 1)
        return (time.perf_counter() - start) / EXCHANGES * 1000


@contextlib.contextmanager
def serving(address: str, options: Options, enter: int | None) -> Iterator[tuple[str, int]]:
    """Run the peer in a process of its own, in the network namespace `enter` if there is one."""
    told, tell = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        _enter(enter)
        listener = tuned(socket.socket(), {key: value for key, value in options.items() if key != QUICKACK})
        listener.bind((address, 0))
        listener.listen()
        tell.send(listener.getsockname())
        serve(listener, options)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    try:
        yield told.recv()
    finally:
        process.kill()
        process.join()


def measured(
    measure: Callable[[tuple[str, int], Options], float],
    cases: Mapping[str, Options],
    rounds: int,
    address: str = "127.0.0.1",
    networks: tuple[int | None, int | None] = (None, None),
) -> dict[str, float]:
    """The middle of so many rounds for each case, taken in turns."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, options in cases.items():
            with serving(address, options, networks[0]) as where:
                seen[name].append(_inside(networks[1], functools.partial(measure, where, options)))
    return {name: median(values) for name, values in seen.items()}


def _inside(network: int | None, measure: Callable[[], float]) -> float:
    if network is None:
        return measure()
    told, tell = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        _enter(network)
        tell.send(measure())

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    return float(told.recv())


def _enter(network: int | None) -> None:
    if network is not None and ctypes.CDLL(None, use_errno=True).setns(network, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


class Line:
    """Two hosts and between them a wire that takes its time: each way half of `round_trip_seconds`."""

    SERVER, CLIENT = "10.199.0.1", "10.199.0.2"

    def __init__(self, round_trip_seconds: float) -> None:
        self._delay = round_trip_seconds / 2
        (self.server, one), (self.client, other) = self._host(self.SERVER), self._host(self.CLIENT)
        for source, target in ((one, other), (other, one)):
            threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _host(self, address: str) -> tuple[int, int]:
        """A network namespace with one device; returns both as descriptors."""
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            if ctypes.CDLL(None).unshare(NEW_NETWORK):
                os._exit(1)
            tunnel = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(tunnel, MAKE_TUNNEL, struct.pack("16sH22x", b"line", TUNNEL | NO_INFORMATION))
            for words in (f"addr add {address}/24 dev line", f"link set line mtu {MTU} txqueuelen 10000 up"):
                subprocess.run(["ip", *words.split()], check=True)
            network = os.open("/proc/self/ns/net", os.O_RDONLY)
            theirs.sendmsg(
                [b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [network, tunnel]))]
            )
            os._exit(0)
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 2)
        os.wait()
        return descriptors[0], descriptors[1]

    def _carry(self, source: int, target: int) -> None:
        under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        os.set_blocking(source, False)
        while True:
            wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
            if select.select([source], [], [], wait)[0]:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        under_way.append((time.monotonic() + self._delay, os.read(source, MTU + 100)))
            while under_way and under_way[0][0] <= time.monotonic():
                os.write(target, under_way.popleft()[1])


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command.parser("benchmarks.sockets", "Measure TCP options.")
    parser.add_argument("--rounds", type=command.whole(1, 100), default=3, metavar="N", help="of each case")
    parser.add_argument(
        "--round-trip",
        type=command.between(0.001, 1),
        default=0.04,
        metavar="S",
        help="of the line with delay",
    )
    return parser.parse_args(arguments)


def main(asked: argparse.Namespace, _folder: Path) -> int:
    rows: list[tuple[str, ...]] = []

    def add(where: str, what: str, unit: str, seen: Mapping[str, float]) -> None:
        rows.extend((where, what, name, report.with_unit(value, unit)) for name, value in seen.items())

    add("loopback", "small exchange", "ms", measured(exchange_ms, SMALL, asked.rounds))
    add(
        "loopback",
        f"body of {LOOPBACK_MB} MiB",
        "MB/s",
        measured(lambda w, o: body_rate(w, o, LOOPBACK_MB), BODIES, asked.rounds),
    )
    if os.geteuid() == 0:
        line = Line(asked.round_trip)
        where, networks = f"{asked.round_trip * 1000:g} ms away", (line.server, line.client)
        add(where, "small exchange", "ms", measured(exchange_ms, SMALL, 1, line.SERVER, networks))
        add(
            where,
            f"body of {LINE_MB} MiB",
            "MB/s",
            measured(lambda w, o: body_rate(w, o, LINE_MB), BODIES, asked.rounds, line.SERVER, networks),
        )
    else:
        report.progress("the line with delay needs root and is left out")
    machine = described(())
    tables = [report.Table("TCP options", ("peer", "work", "options", "result"), tuple(rows), left=3)]
    report.show(machine, tables)
    report.save(asked.markdown, report.markdown(machine, tables))
    report.save(asked.json, {"machine": machine, "rows": rows})
    return command.FINE


if __name__ == "__main__":
    if not sys.platform.startswith("linux"):
        sys.exit("Linux alone")
    _asked = options()
    command.run(lambda folder: main(_asked, folder))
