"""One question to a service without the gateway's clients, so that no retry colours the answer."""

import contextlib
import http.client
import socket
import ssl
from urllib.parse import SplitResult

# An answer that takes longer is one that users would notice, too.
PROBE_SECONDS = 2.0


def get_status(parts: SplitResult, path: str, *, verified: bool = True) -> int:
    """Return the status of a GET. Raises OSError and HTTPException."""
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if not verified:  # the gateway's own certificate names its public host, not this address
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=PROBE_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", parts.path + path)
        return connection.getresponse().status
    finally:
        connection.close()


def ping_redis(parts: SplitResult) -> bytes:
    """Return what Redis answers to PING, or to a password that it refuses. Raises OSError."""
    address = parts.hostname or "localhost", parts.port or 6379
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(address, PROBE_SECONDS))
        if parts.scheme == "rediss":
            context = ssl.create_default_context()
            sock = stack.enter_context(context.wrap_socket(sock, server_hostname=parts.hostname))
        if parts.password:
            words = ["AUTH", *([parts.username] if parts.username else []), parts.password]
            sock.sendall(_command(*words))
            refusal = sock.recv(200)
            if not refusal.startswith(b"+OK"):
                return refusal
        sock.sendall(_command("PING"))
        return sock.recv(200)


def _command(*words: str) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
