"""What keeps a gateway from working well, found before anybody calls, each with its remedy."""

import http.client
import os
import pwd
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import inspect, text

from backend.config import Settings
from backend.errors import GatewayError
from backend.services.database import Database
from backend.services.pings import PROBE_SECONDS, get_status, ping_redis

State = Literal["ok", "warning", "fault"]

# A waiting call holds two sockets. The gateway raises its own limit up to the hard one.
MANY_OPEN_FILES = 65_536
LEAST_OPEN_FILES = 4_096
LEAST_FREE_BYTES = 1 << 30
# Measured by `python -m benchmarks.websockets`, Granian 2.8.
GRANIAN_SOCKET_BYTES = 150 * 1024
# A certificate that ends so soon needs somebody's attention.
CERTIFICATE_DAYS = 14


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is, and what to do about it when it is not well."""

    what: str
    state: State
    told: str
    remedy: str = ""


def findings(settings: Settings, database: Database) -> list[Finding]:
    """Look at everything, side by side, each part for some seconds at most."""
    looks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _port(settings),
        _open_files,
        lambda: _loop(settings),
        lambda: _sockets(settings),
        lambda: _secrets(settings),
        lambda: _folders(settings),
        lambda: _database(settings, database),
        lambda: _redis(settings),
        lambda: _mail(settings),
        lambda: _certificate(settings),
        *(_upstream(*one) for one in _upstreams(settings)),
    ]
    with ThreadPoolExecutor(len(looks), thread_name_prefix="doctor") as threads:
        return [finding for found in threads.map(lambda look: list(look()), looks) for finding in found]


def _port(settings: Settings) -> Iterator[Finding]:
    where = f"{settings.host} port {settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
            yield Finding("port", "ok", f"{where} is free")
            return
        except OSError as exc:
            reason = exc.strerror
    if _gateway_serves(settings):
        yield Finding("port", "ok", f"a gateway serves on {where}")
    else:
        remedy = "Stop what listens there (`ss -ltnp` shows it), or set HOST and PORT to others."
        yield Finding("port", "fault", f"{where} cannot be had: {reason}", remedy)


def _gateway_serves(settings: Settings) -> bool:
    secure = settings.gateway_tls_cert is not None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        url = urlsplit(f"{'https' if secure else 'http'}://{host}:{settings.port}")
        return get_status(url, "/api/ping", verified=False) == 200
    except (OSError, http.client.HTTPException):
        return False


def _open_files() -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or most >= MANY_OPEN_FILES:
        yield Finding("open files", "ok", f"the hard limit is {most:,}")
        return
    yield Finding(
        "open files",
        "fault" if most < LEAST_OPEN_FILES else "warning",
        f"the hard limit is {most:,}: enough for some {most // 2:,} calls at a time",
        f"`ulimit -Hn {MANY_OPEN_FILES}` in the shell, or LimitNOFILE={MANY_OPEN_FILES} for systemd.",
    )


def _loop(settings: Settings) -> Iterator[Finding]:
    if find_spec("uvloop") is None:
        remedy = "Install it with `bash install_async_deps.sh`; everything works without it, more slowly."
        yield Finding("uvloop", "warning", "cannot be imported", remedy)
    elif not settings.gateway_uvloop:
        yield Finding("uvloop", "warning", "is switched off", "Unset GATEWAY_UVLOOP, or set it to true.")
    else:
        yield Finding("uvloop", "ok", "serves")


def _sockets(settings: Settings) -> Iterator[Finding]:
    """Granian reads each WebSocket into a buffer of its own, and cannot be told to take a smaller one."""
    most = sum(mount.max_sockets for mount in settings.gateway_mounts if mount.websocket)
    if not most or settings.server != "granian":
        return
    megabytes = most * GRANIAN_SOCKET_BYTES / (1 << 20)
    yield Finding(
        "WebSockets",
        "warning",
        f"an idle one takes {GRANIAN_SOCKET_BYTES >> 10} KB on Granian: "
        f"{megabytes:,.0f} MB a worker for the {most:,} that mounts allow",
        "Serve with SERVER=hypercorn, where it takes a tenth, or lower `max_sockets` in GATEWAY_MOUNTS.",
    )


def _secrets(settings: Settings) -> Iterator[Finding]:
    if settings.jwt_secret_key is not None:
        yield Finding("signing key", "ok", "is set by JWT_SECRET_KEY")
    elif settings.database_url.get_secret_value().startswith("postgres"):
        remedy = "Set JWT_SECRET_KEY to the same 32 bytes or more on every machine that shares the database."
        yield Finding("signing key", "warning", "is this machine's own, the database may be shared", remedy)
    else:
        yield Finding("signing key", "ok", "is kept under the instance folder, for its owner alone")


def _folders(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("instance folder", settings.gateway_instance_dir), ("files", settings.files_dir)):
        there = _nearest(folder)
        if not os.access(there, os.W_OK | os.X_OK):
            remedy = f"Give the gateway's user the folder: `chown {_user()} {there}`."
            yield Finding(name, "fault", f"{folder} cannot be written to", remedy)
            continue
        free = shutil.disk_usage(there).free
        if free < LEAST_FREE_BYTES:
            remedy = "Make room, or set GATEWAY_FILES_DIR to a larger disk."
            yield Finding(name, "fault", f"{folder} has {free / (1 << 20):,.0f} MB left", remedy)
        else:
            yield Finding(name, "ok", f"{folder} has {free / (1 << 30):,.0f} GB left")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's number without a name
        return str(os.getuid())


def _nearest(folder: Path) -> Path:
    """Return the folder, or what of its path exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _database(settings: Settings, database: Database) -> Iterator[Finding]:
    kind = settings.database_url.get_secret_value().partition(":")[0]
    try:
        with database.transaction() as session:
            made = inspect(session.connection()).has_table("alembic_version")
            version = (
                session.execute(text("SELECT version_num FROM alembic_version")).scalar() if made else None
            )
    except GatewayError:
        remedy = "Start the database, or correct DATABASE_URL and its rights."
        yield Finding("database", "fault", f"{kind} does not answer", remedy)
        return
    if version is None:
        yield Finding("database", "ok", f"{kind}, empty: the first start makes the tables")
    else:
        yield Finding("database", "ok", f"{kind}, tables of revision {version}")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url is None:
        if settings.workers > 1:
            remedy = "Set REDIS_URL where limits shall count for all workers together."
            yield Finding("redis", "ok", "is not set: limits count per worker", remedy)
        else:
            yield Finding("redis", "ok", "is not set, and not needed with one worker")
        return
    parts = urlsplit(settings.redis_url.get_secret_value())
    try:
        answer = ping_redis(parts)
    except OSError as exc:
        remedy = "Start Redis, or correct REDIS_URL; without it the gateway works, and counts per worker."
        yield Finding("redis", "fault", f"does not answer: {exc.strerror or type(exc).__name__}", remedy)
        return
    if answer.startswith(b"+PONG"):
        yield Finding("redis", "ok", "answers")
    else:
        yield Finding("redis", "fault", "refuses the gateway", "Correct user and password in REDIS_URL.")


def _mail(settings: Settings) -> Iterator[Finding]:
    if settings.smtp_url is None:
        if settings.loopback:
            yield Finding("mail", "ok", "is not set: codes are written to the log")
        else:
            remedy = "Set SMTP_URL, or make accounts with `flask --app run:flask_app users create`."
            yield Finding("mail", "warning", "is not set: nobody can register", remedy)
        return
    parts = urlsplit(settings.smtp_url.get_secret_value())
    port = parts.port or (465 if parts.scheme == "smtps" else 587)
    try:
        socket.create_connection((parts.hostname or "", port), PROBE_SECONDS).close()
    except OSError as exc:
        remedy = "Start the mail server, or correct SMTP_URL."
        yield Finding("mail", "fault", f"does not answer: {exc.strerror or type(exc).__name__}", remedy)
    else:
        yield Finding("mail", "ok", "answers")


def _certificate(settings: Settings) -> Iterator[Finding]:
    if settings.gateway_tls_cert is None:
        where = "loopback only" if settings.loopback else "plain HTTP: have a proxy in front that speaks TLS"
        yield Finding("TLS", "ok", f"is not set; {where}")
        return
    days = _days_left(settings.gateway_tls_cert)
    if days < CERTIFICATE_DAYS:
        told = f"ends in {days:.0f} days" if days > 0 else "has ended"
        yield Finding("TLS", "fault", f"the certificate {told}", "Renew it, and restart the gateway.")
    else:
        yield Finding("TLS", "ok", f"the certificate is good for {days:.0f} days")


def _days_left(file: Path) -> float:
    # The standard library reads a certificate that nobody presented by no public name.
    found = ssl._ssl._test_decode_cert(str(file))  # type: ignore[attr-defined]
    return (ssl.cert_time_to_seconds(found["notAfter"]) - time.time()) / 86_400


def _upstreams(settings: Settings) -> Iterator[tuple[str, str, str, str, State]]:
    """Yield name, URL, path to ask, setting, and what it means when nobody answers."""
    for url in settings.avatar_service_url:
        yield "catalogue", url, "/avatar/get_avatars", "AVATAR_SERVICE_URL", "fault"
    for url in settings.avatar_manager_url:
        yield "manager", url, "/health", "AVATAR_MANAGER_URL", "fault"
    for url in settings.llm_url:
        yield "chat model", url, "/health", "LLM_URL", "fault"
    for url in settings.rag_url:
        # Answers are given without it, too.
        yield "retrieval", url, "/api/public_files", "RAG_URL", "warning"


def _upstream(name: str, url: str, path: str, setting: str, worst: State) -> Callable[[], Iterator[Finding]]:
    def look() -> Iterator[Finding]:
        remedy = f"Start it, or correct {setting}."
        try:
            status = get_status(urlsplit(url), path)
        except (OSError, http.client.HTTPException) as exc:
            reason = getattr(exc, "strerror", None) or type(exc).__name__
            yield Finding(name, worst, f"{url} does not answer: {reason}", remedy)
            return
        if status >= 500:
            yield Finding(name, worst, f"{url} answers {status}", f"Look at its log; {setting} leads there.")
        else:
            yield Finding(name, "ok", f"{url} answers")

    return look
