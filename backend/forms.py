"""The forms that a setting's value may have, each with what it says to one that has another."""

import ipaddress
import re
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

HttpVersion = Literal["auto", "1.1", "2"]

# Each is asked for its health every few seconds, by every worker.
MOST_ADDRESSES = 32


def _base_url(value: object) -> str:
    text = str(value).strip().rstrip("/")
    parts = urlsplit(text)
    plain = re.fullmatch(r"[\x21-\x7e]+", text)
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("needs the form http://host:port")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError("carries neither query, fragment nor credentials")
    _ = parts.port  # raises ValueError for a port that is no port
    return text


def _base_urls(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    urls = tuple(_base_url(item) for item in items if str(item).strip())
    if not urls:
        raise ValueError("needs at least one http://host:port")
    if len(urls) > MOST_ADDRESSES:
        raise ValueError(f"needs {MOST_ADDRESSES} addresses of the form http://host:port at most")
    if len({urlsplit(url).path for url in urls}) > 1:
        raise ValueError("needs one and the same path behind every http://host:port")
    return urls


def _port_range(value: object) -> tuple[int, int]:
    if isinstance(value, tuple):
        return value
    match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", str(value))
    if match is None:
        raise ValueError("needs the form 8615-8714")
    first = int(match[1])
    last = int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError("needs ports from 1 to 65535, the lower one first")
    return first, last


def _comma_list(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(str(item).strip() for item in items if str(item).strip())


def _origins(value: object) -> tuple[str, ...]:
    origins = _comma_list(value)
    for origin in origins:
        if not re.fullmatch(r"https?://[^/\s?#]+", origin):
            raise ValueError("needs origins of the form https://host or http://host:port")
    return origins


def _http_versions(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, tuple):
        return value
    pairs = []
    for item in _comma_list(value):
        address, equals, version = item.rpartition("=")
        if not equals or version not in get_args(HttpVersion):
            raise ValueError("needs the form http://host:port=2, with auto, 1.1 or 2 behind the =")
        pairs.append((_base_url(address), version))
    return tuple(pairs)


def address(url: str) -> tuple[str, str | None, int]:
    """Take apart what two spellings of the same upstream have in common."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_pair(cert: Path, key: Path) -> None:
    """Load a certificate and its key as a server will, so that what is wrong is told before it serves."""

    def no_passphrase() -> str:  # without it OpenSSL would ask at the terminal
        raise ValueError("GATEWAY_TLS_KEY: needs a key without a passphrase")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            problem = "needs the key that belongs to the certificate"
        else:
            problem = f"needs a PEM certificate chain and a PEM private key ({exc.reason or exc.strerror})"
        raise ValueError(f"GATEWAY_TLS_CERT and GATEWAY_TLS_KEY: {problem}") from exc
    except OSError as exc:
        raise ValueError(f"GATEWAY_TLS_CERT and GATEWAY_TLS_KEY: cannot be read ({exc.strerror})") from exc


def _rate_limit(value: object) -> str:
    text = str(value).strip().lower()
    if not re.fullmatch(r"[1-9]\d{0,6}/(second|minute|hour|day)", text):
        raise ValueError("needs the form 20/minute, with second, minute, hour or day")
    return text


def redis_url(value: str) -> str:
    """Check the address of a Redis; what is wrong is said without showing it, as it may hold a password."""
    text = value.strip()
    wrong = "needs the form redis://:password@host:6379/0, or rediss:// for TLS"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.fragment:
        raise ValueError(wrong)
    if not re.fullmatch(r"(/\d{0,4})?", parts.path):
        raise ValueError("needs the number of a database, or nothing, behind the last /")
    # Others would take the limits away that keep a Redis that hangs from holding anybody up.
    names = [pair.partition("=")[0] for pair in parts.query.split("&") if pair]
    if not set(names) <= {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}:
        raise ValueError("takes no options but ssl_ca_certs, ssl_certfile, ssl_keyfile and ssl_cert_reqs")
    return text


def check_mail_server(url: str) -> None:
    """Raise ValueError, which never shows a part of the URL, for what names no mail server."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path.strip("/") + parts.query + parts.fragment
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname or port == 0 or rest:
        raise ValueError(
            "needs the form smtp://user:password@host:587 or smtps://user:password@host:465, with %40 for @, "
            "%2F for / and so on inside the password"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", url) or (parts.username is None) != (parts.password is None):
        raise ValueError("needs user and password or neither, in ASCII without spaces")


def _trace_outlet(value: object) -> str:
    text = str(value).strip()
    if text in ("off", "console") or (text.startswith("file:") and len(text) > len("file:")):
        return text
    if text.startswith(("http://", "https://")):
        return _base_url(text)
    raise ValueError("needs off, console, file:PATH or the form http://host:4318/v1/traces")


def _long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < 32:
        raise ValueError("needs at least 32 bytes")
    return value


def check_sender(address: str) -> None:
    """Raise ValueError for what cannot be the sender of a mail."""
    atom, label = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
    if not re.fullmatch(rf"{atom}(\.{atom})*@{label}(\.{label})*", address):
        raise ValueError("needs the form name@place.example")


BaseUrl = Annotated[str, BeforeValidator(_base_url)]
SigningKey = Annotated[SecretStr, AfterValidator(_long_enough)]
TraceOutlet = Annotated[str, BeforeValidator(_trace_outlet)]
BaseUrls = Annotated[tuple[str, ...], BeforeValidator(_base_urls)]
PortRange = Annotated[tuple[int, int], BeforeValidator(_port_range)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
HttpVersions = Annotated[tuple[tuple[str, HttpVersion], ...], BeforeValidator(_http_versions)]
RateLimit = Annotated[str, BeforeValidator(_rate_limit)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
CheckSeconds = Annotated[float, Field(ge=0.1, le=3_600)]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def secrets_of(values: Iterable[object]) -> tuple[str, ...]:
    """Return what must never be written anywhere: keys, and the passwords inside of URLs."""
    texts = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    secrets = [urlsplit(text).password if "://" in text else text for text in texts]
    return tuple(text for text in secrets if text)
