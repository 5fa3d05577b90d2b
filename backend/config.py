"""Settings: read once from the environment and `.env`, validated together, frozen."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from backend.forms import (
    BaseUrls,
    CheckSeconds,
    HttpVersion,
    HttpVersions,
    Origins,
    PortRange,
    RateLimit,
    Seconds,
    SigningKey,
    TraceOutlet,
    address,
    check_mail_server,
    check_pair,
    check_sender,
    is_loopback,
    redis_url,
    secrets_of,
)
from backend.mount import Mount as Mount

PREFIX = "GATEWAY_"


class SettingsError(Exception):
    """Every bad setting at once, one line each: name, problem, allowed form; never a secret value."""


class Settings(BaseModel):
    """What the gateway can be told; field names in capitals are the environment's names.

    The comments beside the fields are the manual: `docs/configuration.md` is generated from them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8203, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(1, ge=1, le=64, description="Worker processes.")
    server: Literal["hypercorn", "granian"] = Field("hypercorn", description="ASGI server.")

    avatar_service_url: BaseUrls = Field(
        ("http://127.0.0.1:8606",),
        description="Avatar catalogue; several addresses with commas, which share their avatars.",
    )
    avatar_manager_url: BaseUrls = Field(
        ("http://127.0.0.1:8607",), description="Instance manager; several addresses with commas."
    )
    avatar_instance_host: str = Field("127.0.0.1", description="The one host where instances may live.")
    avatar_instance_ports: PortRange = Field(
        (8615, 8714), description="Ports where instances may live; nothing else is ever dialled."
    )
    avatar_kind: Literal["managed", "livetalking"] = Field(
        "managed",
        description="Who runs the instances: a manager at AVATAR_MANAGER_URL, or nobody (`livetalking`): "
        "then one may stand at each of AVATAR_INSTANCE_PORTS, and the gateway counts who is where.",
    )
    gateway_instance_sessions: int = Field(
        1, ge=1, le=10_000, description="Users that an instance without a manager takes, unless it says so."
    )
    gateway_offer_seconds: Seconds = Field(
        60.0, description="How long an avatar waits for its user's connection before it is let go of."
    )
    gateway_avatar_idle_seconds: Seconds = Field(
        1800.0, description="How long an avatar is kept for a user who says nothing to it."
    )
    gateway_avatar_waiting: int = Field(
        100, ge=0, le=100_000, description="People who may stand in line while every avatar is taken."
    )
    gateway_avatar_wait_seconds: Seconds = Field(
        60.0, description="Longest wait in line within one call, for those who ask to wait."
    )
    llm_url: BaseUrls = Field(
        ("http://127.0.0.1:8611",),
        description="Chat model; several addresses with commas, each conversation stays at one.",
    )
    rag_url: BaseUrls = Field(
        ("http://127.0.0.1:8602",),
        description="Retrieval service; several addresses with commas, which share one index.",
    )
    gateway_check_seconds: CheckSeconds = Field(
        2.0, description="Time between health checks, where a service has several addresses or one is out."
    )

    upstream_transport: Literal["direct", "reqwest", "httpx"] = Field(
        "direct",
        description="Client below both doors: `direct` (own connections, HTTP/1.1 and HTTP/2), "
        "`reqwest` (the Rust client for everything) or `httpx` (httpx's own).",
    )
    upstream_http_version: HttpVersion = Field(
        "auto", description="`auto` negotiates by ALPN, `2` is prior knowledge on http:// too."
    )
    upstream_max_connections: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Calls that one upstream may leave unanswered at once. Ten times as many may be in "
        "flight in a worker, answers that still arrive included, and half of those to one upstream.",
    )
    gateway_http_versions: HttpVersions = Field(
        (),
        description="Upstreams that differ from UPSTREAM_HTTP_VERSION: `http://127.0.0.1:8611=2`, several "
        "with commas; `direct` alone looks at it, and at `http_version` of a mount.",
    )
    gateway_http2_connections: int = Field(
        100, ge=1, le=10_000, description="HTTP/2 connections to one upstream address at most."
    )
    gateway_ping_seconds: Seconds = Field(
        10.0,
        description="After so long a silence an HTTP/2 upstream is asked whether it is there; without an "
        "answer in the same time again its connection gets no new calls.",
    )
    upstream_max_keepalive: int = Field(200, ge=0, le=100_000, description="Idle connections kept per host.")
    upstream_keepalive_seconds: Seconds = Field(30.0, description="Life of an idle upstream connection.")

    gateway_mounts: tuple[Mount, ...] = Field(
        (),
        description='JSON list of pass-through mounts: {"prefix":"/api/live","upstream":"http://127.0.0.1:8606",'
        '"auth":"required","methods":["GET","POST"],"max_body_mb":100,"timeout":60}; '
        "`auth` is required, optional or none. `max_calls`, where the upstream's capacity is known: calls "
        "that it gets at once.",
    )

    database_url: SecretStr = Field(
        SecretStr("sqlite:///instance/gateway.db"), description="SQLAlchemy URL; SQLite and PostgreSQL."
    )
    redis_url: SecretStr | None = Field(
        None,
        description="`redis://:password@host:6379/0`, `rediss://` for TLS: limits count for all processes "
        "together, and ended sign-ins are known everywhere at once; without it, limits count per worker.",
    )
    jwt_secret_key: SigningKey | None = Field(
        None, description="Signing key, 32 bytes or more; unset: made once under instance/, mode 0600."
    )
    cors_origins: Origins = Field(
        (), description="Origins that may call from a browser, with commas; unset: same host, any port."
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="`smtp://user:password@host:587` (STARTTLS where offered) or `smtps://…:465` for "
        "verification mail; unset: a gateway on loopback logs the codes, others send none.",
    )
    gateway_mail_from: str = Field("avatar-gateway@localhost", description="Sender of verification mail.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged.")
    slow_request_seconds: Seconds = Field(1.0, description="What takes so long is a warning in the log.")
    gateway_log_format: Literal["text", "json"] = Field(
        "text", description="Form of log lines: text for people, or one JSON object a line."
    )
    gateway_figures: bool = Field(True, description="Count requests, and tell of times in Server-Timing.")
    gateway_run_dir: Path | None = Field(
        None,
        description="Folder where workers tell each other their figures; unset: `run.py` makes one, and "
        "removes it. Totals in a folder of your own outlive a restart.",
    )

    gateway_traces: TraceOutlet = Field(
        "off", description="Where spans go: terminal, file or OTLP collector; needs requirements-trace.txt."
    )
    gateway_traces_per_second: int = Field(
        5, ge=1, le=100_000, description="Requests that a worker follows each second at most."
    )

    gateway_view_threads: int = Field(
        16, ge=1, le=512, description="Threads for plain `def` views and database work, each pool."
    )
    gateway_pool_wait_seconds: Seconds = Field(
        2.0, description="Longest wait for a free upstream place before 503."
    )
    gateway_pool_waiting: int = Field(
        500,
        ge=0,
        le=100_000,
        description="Calls that may wait for a place at one upstream, never more than half as many as it "
        "works on; others get 503 at once.",
    )
    gateway_connect_seconds: Seconds = Field(2.0, description="Longest wait for an upstream connection.")
    gateway_drain_seconds: Seconds = Field(
        30.0, description="Time that calls in flight get after SIGTERM before they are cut."
    )
    gateway_hang_seconds: float = Field(
        60.0, ge=1, le=86_400, description="A worker whose event loop stands still for so long is replaced."
    )
    gateway_revocation_seconds: Seconds = Field(
        0.5, description="How old a worker's knowledge of ended sessions may be."
    )
    gateway_stale_list_seconds: Seconds = Field(
        2.0, description="Wait for a fresh avatar list before a stale one is served."
    )
    gateway_uvloop: bool = Field(True, description="Use uvloop where it can be imported.")
    gateway_tls_cert: Path | None = Field(None, description="PEM certificate chain; with the key: HTTPS.")
    gateway_tls_key: Path | None = Field(None, description="PEM private key.")
    gateway_instance_dir: Path = Field(
        Path("instance"), description="Folder of the key and the default database."
    )
    gateway_files_dir: Path | None = Field(
        None, description="Folder of uploaded files and profile pictures; unset: `files` in the one above."
    )
    gateway_quota_mb: float = Field(
        500.0, gt=0, le=1_048_576, description="What one user's files may take on disk together."
    )
    gateway_login_limit: RateLimit = Field(
        "20/minute", description="Sign-ins tried for one e-mail, right or wrong."
    )
    gateway_code_limit: RateLimit = Field("10/hour", description="Verification codes sent to one e-mail.")
    gateway_address_limit: RateLimit = Field(
        "300/minute",
        description="Sign-ins, codes and registrations together from one address; many people may share one.",
    )
    gateway_chat_limit: RateLimit = Field("60/minute", description="Questions of one user to the chat model.")
    gateway_tts_models: Path | None = Field(
        None, description="JSON file of speech engines that replaces the built-in list."
    )

    @field_validator("gateway_tls_cert", "gateway_tls_key")
    @classmethod
    def _there(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("needs a file that exists")
        return value

    @field_validator("redis_url")
    @classmethod
    def _of_a_redis(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(redis_url(value.get_secret_value()))

    @field_validator("smtp_url")
    @classmethod
    def _mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_mail_server(value.get_secret_value())
        return value

    @field_validator("gateway_mail_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        check_sender(value)
        return value

    @field_validator("gateway_mounts", mode="before")
    @classmethod
    def _json_list(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = json.loads(value or "[]")
            except ValueError as exc:
                raise ValueError("needs a JSON list of objects") from exc
        return value

    @field_validator("gateway_mounts")
    @classmethod
    def _apart(cls, value: tuple[Mount, ...]) -> tuple[Mount, ...]:
        prefixes = [mount.prefix for mount in value]
        if len(set(prefixes)) != len(prefixes):
            raise ValueError("needs a different prefix for each mount")
        return value

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.gateway_tls_cert is None) != (self.gateway_tls_key is None):
            raise ValueError("GATEWAY_TLS_CERT and GATEWAY_TLS_KEY: needs both or neither")
        if self.gateway_tls_cert is not None and self.gateway_tls_key is not None:
            check_pair(self.gateway_tls_cert, self.gateway_tls_key)
        return self

    @model_validator(mode="after")
    def _one_version_anaddress(self) -> Self:
        chosen: dict[object, str] = {}
        for url, version in self._chosen_versions():
            if chosen.setdefault(address(url), version) != version:
                raise ValueError(
                    f"GATEWAY_HTTP_VERSIONS and GATEWAY_MOUNTS: need one HTTP version for all of {url}"
                )
        return self

    def _chosen_versions(self) -> list[tuple[str, HttpVersion]]:
        of_mounts = [
            (url, mount.http_version)
            for mount in self.gateway_mounts
            if mount.http_version is not None
            for url in mount.upstream
        ]
        return [*self.gateway_http_versions, *of_mounts]

    def http_version_of(self, url: str) -> HttpVersion:
        """Return the HTTP version for an upstream's address, the path of which does not matter."""
        chosen = {address(known): version for known, version in self._chosen_versions()}
        return chosen.get(address(url), self.upstream_http_version)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be written anywhere: keys, and the passwords inside of URLs."""
        return secrets_of(dict(self).values())

    @property
    def files_dir(self) -> Path:
        """The folder of uploaded files."""
        return self.gateway_files_dir or self.gateway_instance_dir / "files"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listening address."""
        return is_loopback(self.host)


def _known_names() -> dict[str, str]:
    return {field.upper(): field for field in Settings.model_fields}


def _allowed_form(name: str) -> str:
    field = Settings.model_fields.get(_known_names().get(name, ""))
    if field is None:
        return ""
    default = field.get_default()
    shown = "unset" if default in (None, ()) or isinstance(default, SecretStr) else default
    return f" ({field.description} Default: {shown})"


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        where = [str(part) for part in item["loc"]]
        name = where[0].upper() if where else ""
        inside = f" [{'.'.join(where[1:])}]" if len(where) > 1 else ""
        problem = item["msg"].removeprefix("Value error, ")
        lines.append(f"{name}{inside}: {problem}{_allowed_form(name)}" if name else problem)
    return lines


def export(values: Mapping[str, str]) -> None:
    """Set settings for this process and the ones it starts, as if they came from the environment."""
    os.environ.update(values)


def sources(environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> dict[str, str]:
    """Return where each setting's value comes from: environment, file or default.

    `flask` puts the file's values into the environment, so what is in both is the file's.
    """
    in_file = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    around = os.environ if environ is None else environ
    return {
        name: str(env_file)
        if in_file.get(name) and around.get(name, in_file[name]) == in_file[name]
        else ("environment" if around.get(name) else "default")
        for name in _known_names()
    }


def load(
    environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env"), **over: Any
) -> Settings:
    """Read the settings; `over` (command-line options) wins over the environment, which wins over the file.

    Raises SettingsError naming every bad or unknown key at once.
    """
    merged: dict[str, str] = {}
    if env_file is not None and env_file.is_file():
        merged |= {key: value for key, value in dotenv_values(env_file).items() if value is not None}
    merged |= dict(os.environ if environ is None else environ)
    known = _known_names()
    values: dict[str, Any] = {known[key]: text for key, text in merged.items() if key in known and text != ""}
    values |= {key: value for key, value in over.items() if value is not None}
    problems = [
        f"{key}: unknown setting (known: {', '.join(n for n in known if n.startswith(PREFIX))})"
        for key in sorted(merged)
        if key.startswith(PREFIX) and key not in known
    ]
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(problems + _explain(error))) from None
    if problems:
        raise SettingsError("\n".join(problems))
    return settings
