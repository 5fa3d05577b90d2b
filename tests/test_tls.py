"""HTTPS of the gateway: what is agreed on, what stops the start, who is not waited for."""

import asyncio
import contextlib
import ssl
import time
import warnings
from pathlib import Path

import httpx
import pytest

from backend.config import SettingsError, load
from backend.server import HANDSHAKE_SECONDS
from tests.support.forks import completed
from tests.support.gateway import clean_environment, spawned
from tests.support.tls import Certificate, certificate

SERVERS = ("hypercorn", "granian")


def pair(folder: Path, problem: str) -> Certificate:
    """A certificate and key with something wrong."""
    good = certificate(folder)
    empty = folder / "empty.pem"
    empty.write_text("no certificate\n")
    match problem:
        case "another key":
            return Certificate(good.cert, certificate(folder, "other").key)
        case "no certificate":
            return Certificate(empty, good.key)
        case "no key":
            return Certificate(good.cert, empty)
        case _:
            return certificate(folder, "locked", passphrase="very-secret")


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("problem", "told"),
    [
        ("another key", "needs the key that belongs to the certificate"),
        ("no certificate", "needs a PEM certificate chain and a PEM private key"),
        ("no key", "needs a PEM certificate chain and a PEM private key"),
        ("a passphrase", "needs a key without a passphrase"),
    ],
)
def test_a_wrong_certificate_or_key_stops_the_start_with_one_line(
    tmp_path: Path, server: str, problem: str, told: str
) -> None:
    made = pair(tmp_path, problem)
    settings = clean_environment(GATEWAY_INSTANCE_DIR=str(tmp_path), **made.settings)
    ended = completed(["--port=0", f"--server={server}"], settings, tmp_path)
    assert ended.returncode == 1
    first, *rest = ended.stderr.strip().splitlines()
    assert first == "The gateway cannot start with these settings:"
    assert len(rest) == 1
    assert told in rest[0]
    assert "GATEWAY_TLS_KEY" in rest[0]


def test_a_key_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    with pytest.raises(SettingsError, match="PEM"):
        load({"GATEWAY_TLS_CERT": str(made.cert), "GATEWAY_TLS_KEY": str(made.cert)}, None)
    assert load(made.settings, None).gateway_tls_key == made.key


@pytest.mark.parametrize("server", SERVERS)
def test_both_protocols_are_agreed_on_and_tls_1_1_is_not(tmp_path: Path, server: str) -> None:
    made = certificate(tmp_path)
    with spawned(tmp_path, f"--server={server}", **made.settings) as gateway:
        for offered, agreed in [(["h2", "http/1.1"], "HTTP/2"), (["http/1.1"], "HTTP/1.1")]:
            context = made.context(*offered)
            with httpx.Client(verify=context, http2="h2" in offered, trust_env=False) as http:
                answer = http.get(f"{gateway.url}/api/ping")
                assert (answer.status_code, answer.http_version) == (200, agreed)
        for version, works in [
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ]:
            assert shakes_hands(gateway.url, made, version) is works
        assert "Traceback" not in gateway.log.read_text()


def shakes_hands(url: str, made: Certificate, version: ssl.TLSVersion) -> bool:
    context = made.context("h2")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version

    async def attempt() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, ssl=context)
        except (ssl.SSLError, ConnectionError):
            return False
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        return True

    return asyncio.run(attempt())


@pytest.mark.asyncio
async def test_a_plain_request_on_the_tls_port_is_closed_and_leaves_no_noise(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    with spawned(tmp_path, **made.settings) as gateway:
        port = httpx.URL(gateway.url).port
        for octets in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(100)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(octets)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    assert b"HTTP/1.1 2" not in await reader.read()
            writer.close()
        async with httpx.AsyncClient(verify=made.context("http/1.1"), trust_env=False) as http:
            assert (await http.get(f"{gateway.url}/api/ping")).status_code == 200
        assert "Traceback" not in gateway.log.read_text()


@pytest.mark.timeout(180)
@pytest.mark.asyncio
async def test_a_thousand_handshakes_that_never_end_starve_nobody_and_are_ended(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    hello = bytes.fromhex("1603010200010001fc0303")  # the beginning of a ClientHello
    with spawned(tmp_path, **made.settings) as gateway:
        port = httpx.URL(gateway.url).port
        began = time.monotonic()
        callers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1_000)]
        opened = time.monotonic() - began
        for number, (_, writer) in enumerate(callers):
            if number % 2:
                writer.write(hello)
        async with httpx.AsyncClient(verify=made.context("h2"), http2=True, trust_env=False) as http:
            before = time.monotonic()
            assert (await http.get(f"{gateway.url}/api/ping")).status_code == 200
            assert time.monotonic() - before < 2
        async with asyncio.timeout(HANDSHAKE_SECONDS + opened + 20):
            for reader, writer in callers:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
        assert "Traceback" not in gateway.log.read_text()
