"""A multipart form that is checked while it passes: it is never held, and a bad one never looks whole."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from backend.errors import BadRequest, GatewayError, UnsupportedMedia
from backend.services.multipart import Event, MultipartReader, boundary_of
from backend.services.streams import ByteStream, in_time


class PassingForm(ABC):
    """Reads the caller's form and yields the one for the service, part by part, as a ByteStream.

    The closing boundary is only sent when everything was right, so a form that turns out wrong midway
    never looks whole to the service. `failure` keeps the reason. Raises UnsupportedMedia and BadRequest for
    what is no form.
    """

    def __init__(self, body: ByteStream | None, content_type: bytes) -> None:
        boundary = boundary_of(content_type)
        if boundary is None:
            raise UnsupportedMedia("Please send a multipart form.")
        if body is None:
            raise BadRequest("The form is empty.")
        self._body = body
        self._reader = MultipartReader(boundary)
        self._boundary = secrets.token_hex(16).encode("ascii")
        self._out = bytearray()
        self._done = False
        self._seen: set[str] = set()
        self._text = bytearray()
        self.failure: GatewayError | None = None

    async def begun(self) -> Self:
        """Read and check the first of the form, before anything is sent on."""
        self._out += await in_time(self.read())
        return self

    @property
    def content_type(self) -> bytes:
        return b"multipart/form-data; boundary=" + self._boundary

    async def read(self) -> bytes:
        try:
            while not self._out and not self._done:
                if chunk := await self._body.read():
                    for event in self._reader.feed(chunk):
                        self._take(event)
                else:
                    self._finish()
        except GatewayError as error:
            self.failure = error
            raise
        out = bytes(self._out)
        self._out.clear()
        return out

    async def aclose(self) -> None:
        await self._body.aclose()

    @abstractmethod
    def _take(self, event: Event) -> None:
        """Check the next piece and pass on what is to be passed on."""

    @abstractmethod
    def _missing(self) -> Sequence[str]:
        """Return the fields that a whole form would have had."""

    def _head(self, disposition: str, content_type: str | None) -> None:
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        lines = f"\r\nContent-Disposition: form-data; {disposition}\r\n{kind}\r\n"
        self._out += b"--" + self._boundary + lines.encode("utf-8")

    def _finish(self) -> None:
        self._reader.finish()
        if missing := self._missing():
            raise BadRequest(f"{' and '.join(missing)}: missing from the form.")
        self._out += b"--" + self._boundary + b"--\r\n"
        self._done = True
