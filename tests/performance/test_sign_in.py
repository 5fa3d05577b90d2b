"""Before any load: signing in, and what a tester is told when that does not work."""

import subprocess
from pathlib import Path

import pytest

from performance.answers import first_avatar
from performance.run import main
from tests.support.scripted_gateway import ScriptedGateway, scripted_gateway
from tests.support.tls import Certificate, certificate

SHORT = ("--users", "1", "--serial-calls", "1")


def signed_by(authority: Certificate, folder: Path) -> Certificate:
    made = Certificate(folder / "gateway.pem", folder / "gateway-key.pem")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-noenc",
    ]
    command += ["-keyout", str(made.key), "-out", str(made.cert), "-days", "2", "-subj", "/CN=a gateway"]
    command += ["-CA", str(authority.cert), "-CAkey", str(authority.key)]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def test_limit_of_sign_ins_is_waited_for_as_told(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.limited["/api/login"] = 2
    assert main(["--base-url", gateway.url, *SHORT]) == 0
    assert gateway.paths.count("/api/login") == 3
    assert capsys.readouterr().out.count("waiting 1 s, as the gateway asks") == 2


def test_wait_that_is_too_long_is_told_at_once(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.limited["/api/login"], gateway.wait_seconds = 1, 900
    assert main(["--base-url", gateway.url, *SHORT]) == 2
    assert "it asks to wait 900 s" in capsys.readouterr().err
    assert gateway.paths == ["/api/login"]


def test_certificate_that_is_not_trusted_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_gateway(certificate(tmp_path)) as gateway:
        assert main(["--base-url", gateway.url, *SHORT]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: no login at https://127.0.0.1:")
    assert "its certificate" in told
    assert len(told.splitlines()) == 1


def test_gateway_of_a_private_authority_is_reached_with_it(tmp_path: Path) -> None:
    authority = certificate(tmp_path, "authority")
    with scripted_gateway(signed_by(authority, tmp_path)) as gateway:
        assert main(["--base-url", gateway.url, "--ca", str(authority.cert), *SHORT]) == 0
        assert main(["--base-url", gateway.url, *SHORT]) == 2


def test_plain_gateway_asked_by_https_is_told_to_be_plain(
    gateway: ScriptedGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--base-url", gateway.url.replace("http:", "https:"), *SHORT]) == 2
    assert "it does not speak TLS there: try http://" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_authority_that_cannot_be_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    assert main(["--ca", str(path), "--token", "x"]) == 2
    assert str(path) in capsys.readouterr().err


def test_nobody_listening_is_told_with_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base-url", "http://127.0.0.1:1", *SHORT]) == 2
    assert "nothing listens there" in capsys.readouterr().err


@pytest.mark.parametrize("listing", [{"Bea": {}}, [{"status": "x"}, {"name": "Bea"}]])
def test_first_avatar_is_found_in_either_form_of_the_list(listing: object) -> None:
    assert first_avatar(listing) == "Bea"


@pytest.mark.parametrize("listing", [{}, [], None, [{"name": 1}], "x"])
def test_list_without_a_name_has_no_first_avatar(listing: object) -> None:
    assert first_avatar(listing) is None
