"""The form that brings a picture: one file, counted and put aside while it arrives."""

from collections.abc import Awaitable, Callable

from backend.errors import BadRequest, TooLarge
from backend.services.multipart import Event, MultipartReader, PartBegan, PartBytes, PartEnded, boundary_of
from backend.services.streams import ByteStream

FIELD = "avatar"
MEGABYTE = 1 << 20
PICTURE_BYTES = 5 * MEGABYTE
# Room for the boundary and for the headers of the parts.
FORM_BYTES = PICTURE_BYTES + 64 * 1024
PIECE_BYTES = 256 * 1024

Sink = Callable[[bytes], Awaitable[None]]


class PictureForm:
    """Passes the one file of a form on to a sink, in pieces. Other fields are let be."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._piece = bytearray()
        self._wanted = False
        self._seen = False
        self._size = 0

    async def read(self, body: ByteStream | None, content_type: bytes) -> None:
        """Take the form in. Raises BadRequest and TooLarge."""
        boundary = boundary_of(content_type)
        if boundary is None or body is None:
            raise BadRequest("Please send a multipart form with a file named avatar.")
        reader = MultipartReader(boundary)
        while chunk := await body.read():
            for event in reader.feed(chunk):
                self._take(event)
            if len(self._piece) >= PIECE_BYTES:
                await self._pass_on()
        reader.finish()
        await self._pass_on()
        if not self._size:
            raise BadRequest("avatar is empty." if self._seen else "avatar is missing.")

    def _take(self, event: Event) -> None:
        match event:
            case PartBegan(name=name, filename=filename):
                self._wanted = name == FIELD
                if self._wanted and filename is None:
                    raise BadRequest("avatar needs to be a file.")
                if self._wanted and self._seen:
                    raise BadRequest("avatar is in the form twice.")
                self._seen = self._seen or self._wanted
            case PartBytes(content=content) if self._wanted:
                self._size += len(content)
                if self._size > PICTURE_BYTES:
                    raise TooLarge(f"avatar: the picture is larger than {PICTURE_BYTES // MEGABYTE} MB.")
                self._piece += content
            case PartEnded():
                self._wanted = False

    async def _pass_on(self) -> None:
        if self._piece:
            await self._sink(bytes(self._piece))
            self._piece.clear()
