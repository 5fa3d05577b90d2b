"""Certificates for tests, made on the spot."""

import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""

    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"GATEWAY_TLS_CERT": str(self.cert), "GATEWAY_TLS_KEY": str(self.key)}

    def context(self, *protocols: str) -> ssl.SSLContext:
        """Trust this certificate and no other; offer these protocols by ALPN."""
        context = ssl.create_default_context(cafile=str(self.cert))
        context.set_alpn_protocols(list(protocols))
        return context


def certificate(folder: Path, name: str = "server", *, passphrase: str | None = None) -> Certificate:
    """Make a certificate with the openssl command; without it the test is skipped, but not under CI."""
    if shutil.which("openssl") is None and not os.environ.get("CI"):
        pytest.skip("needs openssl: apt-get install openssl")
    made = Certificate(folder / f"{name}.pem", folder / f"{name}-key.pem")
    how = ["-noenc"] if passphrase is None else ["-passout", f"pass:{passphrase}"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-keyout", str(made.key), "-out", str(made.cert), "-days", "2", "-subj", "/CN=gateway.test"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *how]
    subprocess.run(command, check=True, capture_output=True)
    return made
