"""nginx in its three parts: the upstream of every case, the unbuffered proxy, and the door to HTTP/2."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import tool
from benchmarks.processes import Process, answering, free_port, running

# A reply as catalogue and session calls have it: a couple of hundred bytes.
SMALL = '{"avatars":[' + ",".join(f'{{"id":{n},"name":"avatar-{n}","ready":true}}' for n in range(5)) + "]}"
FILE_BYTES = 256 * 1024 * 1024
PIECE_BYTES = 8 * 1024 * 1024
# The usual default of servers, and of this one.
STREAMS = 100

FRAME = """
daemon off;
master_process off;
pid {folder}/{name}.pid;
error_log stderr warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 12288; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi;
    uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi;
    {servers}
}}
"""
FILES = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /small {{ default_type application/json; return 200 '{small}'; }}
        location / {{ root {files}; default_type application/octet-stream; }}
    }}
"""
PROXY = """
    upstream files {{ server {upstream}; keepalive 64; }}
    upstream sink {{ server {sink}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_request_buffering off;
        {more}
        location / {{ proxy_pass http://files; }}
        location = /sink {{ proxy_pass http://sink; }}
    }}
"""
# Unbuffered, nginx moves a page at a time; this is what it does with more room.
WIDE = """
        proxy_buffer_size 256k;
        proxy_buffers 8 256k;
        proxy_busy_buffers_size 512k;
        client_body_buffer_size 256k;
"""
SOCKETS = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout 300s;
            proxy_buffer_size {buffer};
            proxy_buffers 4 {buffer};
            proxy_busy_buffers_size {buffer};
        }}
    }}
"""
HTTP2 = """
    upstream slow {{ server {upstream}; keepalive 1024; }}
    server {{
        listen 127.0.0.1:{port} http2 backlog=4096;
        http2_max_concurrent_streams {streams};
        location / {{
            proxy_pass http://slow;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
"""


@contextlib.contextmanager
def files(folder: Path, core: int) -> Iterator[str]:
    """Serve /small, /file (256 MiB, sparse) and /piece (8 MiB); give the URL."""
    shelf = folder / "files"
    shelf.mkdir(exist_ok=True)
    for name, size in (("file", FILE_BYTES), ("piece", PIECE_BYTES)):
        with (shelf / name).open("wb") as file:
            file.truncate(size)
    port = free_port()
    server = FILES.format(port=port, small=SMALL, files=shelf)
    with _started("upstream", server, folder, core) as process:
        answering(process, f"http://127.0.0.1:{port}/small")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def proxy(
    name: str, folder: Path, core: int, upstream: str, sink: str, more: str = ""
) -> Iterator[tuple[Process, str]]:
    """Pass everything on to `upstream`, and /sink to `sink`; give the process and its URL."""
    port = free_port()
    server = PROXY.format(port=port, upstream=_authority(upstream), sink=_authority(sink), more=more)
    with _started(name, server, folder, core) as process:
        answering(process, f"http://127.0.0.1:{port}/small")
        yield process, f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def sockets(folder: Path, core: int, upstream: str, *, buffer: str = "4k") -> Iterator[tuple[Process, str]]:
    """Pass WebSockets on, through a buffer of this size each way; give the process and its URL."""
    port = free_port()
    server = SOCKETS.format(port=port, upstream=_authority(upstream), buffer=buffer)
    with _started(f"sockets-{buffer}", server, folder, core) as process:
        answering(process, f"http://127.0.0.1:{port}/")
        yield process, f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def http2(folder: Path, core: int, upstream: str) -> Iterator[str]:
    """Speak HTTP/2 without TLS in front of an upstream, `STREAMS` calls a connection; give the URL."""
    port = free_port()
    server = HTTP2.format(port=port, upstream=_authority(upstream), streams=STREAMS)
    with _started("http2", server, folder, core):
        yield f"http://127.0.0.1:{port}"


def _authority(url: str) -> str:
    return url.removeprefix("http://")


@contextlib.contextmanager
def _started(name: str, servers: str, folder: Path, core: int) -> Iterator[Process]:
    config = folder / f"{name}.conf"
    config.write_text(FRAME.format(folder=folder, name=name, servers=servers))
    command = [tool("nginx") or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
    with running(name, command, core=core, folder=folder) as process:
        yield process
