"""The gateway under load, as its users reach it."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Self

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.multipart import FormBuilder, PartBuilder
from pyreqwest.request import RequestBuilder, StreamRequest
from pyreqwest.response import Response

from performance.answers import Answer, Failure, read_json
from performance.outcome import Unusable
from performance.settings import CHECKS, Call, Target
from performance.trouble import advice, broken_off

KEPT_BYTES = 1 << 20  # of a body that is looked at; previews are only counted
IDLE_SECONDS = 10.0  # gateways keep idle connections longer, so none closes just when it is used
LONGEST_RETRY_SECONDS = 3_600.0
FILLER = b"What a student wrote down in the lecture, line by line, for the load test.\n"


class Gateway:
    """The gateway; its users have connections of their own, open before they call unless the run is cold."""

    def __init__(self, target: Target, users: int, *, cold: bool = False) -> None:
        """Raises Unusable when the certificate authority cannot be read."""
        self._target = target
        self._secrets = target.secrets
        self._client: Client = _client(target, 0 if cold else users)
        self.token = target.account.token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def connect(self, users: int) -> None:
        """Open a connection for each user, as their browsers did when the page was loaded.

        All ask at once, when no connection is free yet, so that each gets its own.
        """
        requests = [self.prepare(Call("GET", CHECKS[0])) for _ in range(users)]
        await asyncio.gather(*(self.send(request, time.perf_counter()) for request in requests))

    def prepare(self, call: Call, avatar: str = "") -> StreamRequest:
        form = {"avatar_name": avatar} if call.names_avatar else None
        return self.request(call.method, call.path, form=form)

    def request(
        self,
        method: str,
        path: str,
        *,
        form: Mapping[str, str] | None = None,
        json: Any = None,
        upload: tuple[str, str, int] | None = None,
        token: str | None = None,
    ) -> StreamRequest:
        """Build a request; `upload` is field, file name and size, `token` that of another user."""
        request = self._client.request(method, self._target.base_url + path)
        bearer = self.token if token is None else token
        try:
            request = request.bearer_auth(bearer) if bearer else request
        except ValueError as error:
            raise Unusable("the token holds characters that no header can carry") from error
        if upload is not None:
            request = _with_upload(request, form or {}, upload)
        elif json is not None:
            request = request.body_json(json)
        elif form is not None:
            request = request.form(dict(form))
        # Else the client holds back the first 64 KiB, and with them the time of the first byte.
        return request.streamed_read_buffer_limit(0).build_streamed()

    async def send(
        self, request: StreamRequest, since: float, keep_body: bool = False, secret: str = ""
    ) -> Answer:
        """Send, read the body to its end, and tell how long that took since the given `perf_counter`.

        The secret is a further text that no failure may show.
        """
        status, size, kept, first, retry = None, 0, bytearray(), None, None
        try:
            async with request as response:
                status, retry = response.status, _retry_after(response)
                while (chunk := await response.body_reader.read_chunk()) is not None:
                    first = time.perf_counter() - since if first is None else first
                    size += len(chunk)
                    if (keep_body or status != HTTPStatus.OK) and len(kept) < KEPT_BYTES:
                        kept += chunk
        except PyreqwestError as error:
            hint = advice(error)
            text = f"{hint} ({broken_off(error)})" if hint else broken_off(error)
            failure: Failure | None = Failure(self.printable(text, secret))
        else:
            failure = None if 200 <= status < 300 else self._refused(status, bytes(kept), secret)
        return Answer(time.perf_counter() - since, status, size, bytes(kept), failure, first, retry)

    def _refused(self, status: int, body: bytes, secret: str) -> Failure:
        reply = read_json(body)
        reply = reply if isinstance(reply, dict) else {}
        text = reply.get("msg") or (HTTPStatus(status).phrase if status in set(HTTPStatus) else "")
        kind, request_id = f"{status} {text}", str(reply.get("request_id") or "")
        return Failure(self.printable(kind, secret), self.printable(request_id, secret))

    def printable(self, text: str, secret: str = "") -> str:
        """A peer may send anything: echoed secrets, terminal controls and endless texts stop here."""
        for hidden in filter(None, (secret, self.token, *self._secrets)):
            text = text.replace(hidden, "***")
        return "".join(letter if letter.isprintable() else " " for letter in text[:200])


def _client(target: Target, idle: int) -> Client:
    builder = ClientBuilder().no_proxy().follow_redirects(False).http1_only().max_connections(None)
    builder = builder.pool_max_idle_per_host(idle).pool_idle_timeout(timedelta(seconds=IDLE_SECONDS))
    builder = builder.timeout(timedelta(seconds=target.timeout))
    if target.ca is None:
        return builder.build()
    try:
        authority = target.ca.read_bytes()
        # The client takes any file and trusts nobody then.
        ssl.create_default_context(cadata=authority.decode("ascii"))
        return builder.add_root_certificate_pem(authority).build()
    except (ValueError, PyreqwestError, ssl.SSLError) as error:
        raise Unusable(f"{target.ca} holds no certificate in PEM form") from error
    except OSError as error:
        raise Unusable(f"cannot read {target.ca}: {error.strerror}") from error


def _with_upload(
    request: RequestBuilder, form: Mapping[str, str], upload: tuple[str, str, int]
) -> RequestBuilder:
    field, name, size = upload
    content = (FILLER * (size // len(FILLER) + 1))[:size]
    parts = FormBuilder()
    for key, value in form.items():
        parts = parts.text(key, value)
    return request.multipart(
        parts.part(field, PartBuilder.from_bytes(content).file_name(name).mime("text/plain"))
    )


def _retry_after(response: Response) -> float | None:
    text = response.get_header("retry-after") or ""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), LONGEST_RETRY_SECONDS)
    return None
