"""Who is measured: the gateway on both servers, and its peers."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks import gateway, nginx, upstream
from benchmarks.machine import Cores
from benchmarks.processes import Process, answering, free_port, running


@dataclass(frozen=True)
class Stage:
    """What every subject finds: a folder, two cores, the upstreams, an account for the gateway."""

    folder: Path
    cores: Cores
    files: str
    sink: str
    account: gateway.Account

    @classmethod
    @contextlib.contextmanager
    def set_up(cls, folder: Path) -> Iterator[Self]:
        cores = Cores.here()
        account = gateway.Account.made(folder)
        with nginx.files(folder, cores.load) as files, upstream.served(folder, cores.load) as sink:
            yield cls(folder, cores, files, sink, account)


@dataclass(frozen=True)
class Running:
    """A subject that answers: where calls, downloads and uploads go, and the headers they need."""

    process: Process | None
    files: str
    sink: str
    headers: Mapping[str, str] = field(default_factory=dict)


Start = Callable[[Stage], AbstractContextManager[Running]]


@dataclass(frozen=True)
class Subject:
    name: str
    start: Start
    packages: tuple[str, ...] = ()


def _gateway(server: str) -> Start:
    @contextlib.contextmanager
    def start(stage: Stage) -> Iterator[Running]:
        with gateway.served(
            server, stage.account, stage.folder, stage.cores.measured, stage.files, stage.sink
        ) as it:
            yield Running(it.process, it.url + gateway.FILES, it.url + gateway.SINK, it.headers)

    return start


def _peer(module: str, *arguments: str) -> Start:
    @contextlib.contextmanager
    def start(stage: Stage) -> Iterator[Running]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", f"benchmarks.peers.{module}", str(port), stage.files, *arguments]
        name = "-".join((module, *arguments))
        with running(name, command, core=stage.cores.measured, folder=stage.folder) as process:
            answering(process, f"{url}/small")
            yield Running(process, url, url)

    return start


def _nginx(name: str, more: str = "") -> Start:
    @contextlib.contextmanager
    def start(stage: Stage) -> Iterator[Running]:
        with nginx.proxy(name, stage.folder, stage.cores.measured, stage.files, stage.sink, more) as it:
            process, url = it
            yield Running(process, url, url)

    return start


@contextlib.contextmanager
def _direct(stage: Stage) -> Iterator[Running]:
    yield Running(None, stage.files, stage.sink)


GRANIAN, HYPERCORN = "granian", "hypercorn"
AIOHTTP, NULL_HYPERCORN, NULL_GRANIAN = "aiohttp", "null-hypercorn", "null-granian"
STARLETTE, LITERAL, PROXY_LIB = "starlette", "literal", "proxy-lib"
NGINX, NGINX_WIDE, DIRECT = "nginx", "nginx-wide", "direct"

SUBJECTS: Mapping[str, Subject] = {
    GRANIAN: Subject("gateway on Granian", _gateway("granian")),
    HYPERCORN: Subject("gateway on Hypercorn", _gateway("hypercorn")),
    AIOHTTP: Subject("aiohttp proxy by hand", _peer("aiohttp_proxy"), ("aiohttp",)),
    NULL_HYPERCORN: Subject("null app on Hypercorn", _peer("null_app", "hypercorn")),
    NULL_GRANIAN: Subject("null app on Granian", _peer("null_app", "granian")),
    STARLETTE: Subject(
        "Starlette + httpx on uvicorn", _peer("starlette_httpx"), ("starlette", "uvicorn", "httptools")
    ),
    LITERAL: Subject("Hypercorn + WsgiToAsgi + httpx", _peer("literal_flask")),
    PROXY_LIB: Subject(
        "fastapi-proxy-lib on uvicorn",
        _peer("proxy_lib"),
        ("fastapi", "fastapi-proxy-lib", "uvicorn", "httptools"),
    ),
    NGINX: Subject("nginx unbuffered", _nginx("nginx")),
    NGINX_WIDE: Subject("nginx unbuffered, 256 KiB buffers", _nginx("nginx-wide", nginx.WIDE)),
    DIRECT: Subject("upstream itself", _direct),
}
