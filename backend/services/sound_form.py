"""The form with a recording for the avatar, checked while it passes: the recording is never held."""

import secrets
from collections.abc import Iterable

from backend.errors import BadRequest, GatewayError, NotFound, TooLarge, UnsupportedMedia
from backend.services.multipart import Event, MultipartReader, PartBegan, PartBytes, PartEnded, boundary_of
from backend.services.session_number import NOT_YOURS, session_number
from backend.services.streams import ByteStream, in_time

# A number of six digits, in whatever spelling.
MOST_FIELD_BYTES = 64
# The two fields that instances know.
SOUND, SESSION = "file", "sessionid"


class SoundForm:
    """Reads the caller's form and yields the one for the instance, part by part, as a ByteStream.

    The session has to be the caller's own. It may come after the recording: the closing boundary is only sent
    when everything was right, so a form that turns out wrong midway never looks whole to the instance.
    `failure` keeps the reason.
    """

    def __init__(self, body: ByteStream, boundary: bytes, peer_session: int | None) -> None:
        self._body = body
        self._reader = MultipartReader(boundary)
        self._boundary = secrets.token_hex(16).encode("ascii")
        self._peer_session = peer_session
        self._out = bytearray()
        self._done = False
        self._seen: set[str] = set()
        self._name = ""
        self._text = bytearray()
        self.failure: GatewayError | None = None

    @classmethod
    async def begin(
        cls, body: ByteStream | None, content_type: bytes, peer_session: int | None
    ) -> "SoundForm":
        """Read and check the first of the form, before anything is sent on.

        Raises UnsupportedMedia, BadRequest, and NotFound for a session that is not the caller's.
        """
        boundary = boundary_of(content_type)
        if boundary is None:
            raise UnsupportedMedia("Please send a multipart form.")
        if body is None:
            raise BadRequest("The form is empty.")
        form = cls(body, boundary, peer_session)
        form._out += await in_time(form.read())
        return form

    @property
    def content_type(self) -> bytes:
        return b"multipart/form-data; boundary=" + self._boundary

    async def read(self) -> bytes:
        try:
            while not self._out and not self._done:
                if chunk := await self._body.read():
                    self._take(self._reader.feed(chunk))
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

    def _finish(self) -> None:
        self._reader.finish()
        missing = [name for name in (SESSION, SOUND) if name not in self._seen]
        if missing:
            raise BadRequest(f"{' and '.join(missing)}: missing from the form.")
        self._out += b"--" + self._boundary + b"--\r\n"
        self._done = True

    def _take(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case PartBegan():
                    self._begin(event)
                case PartBytes() if self._name == SOUND:
                    self._out += event.content
                case PartBytes() if self._name == SESSION:
                    self._text += event.content
                    if len(self._text) > MOST_FIELD_BYTES:
                        raise TooLarge(f"{self._name}: this field is too long.")
                case PartEnded() if self._name == SOUND:
                    self._out += b"\r\n"
                case PartEnded() if self._name == SESSION:
                    self._end_session()

    def _begin(self, part: PartBegan) -> None:
        self._name, self._text = part.name, bytearray()
        if part.name not in (SESSION, SOUND):
            return  # older clients send some; none of it goes on
        if part.name in self._seen:
            raise BadRequest(f"{part.name} is in the form twice.")
        if (part.filename is not None) is not (part.name == SOUND):
            raise UnsupportedMedia(f"{SOUND} needs to be a file, {SESSION} a number.")
        self._seen.add(part.name)
        if part.name == SOUND:
            # What the caller calls it is nobody's business, and need not be made harmless.
            self._head(f'name="{SOUND}"; filename="sound.wav"', b"\r\nContent-Type: audio/wav")

    def _end_session(self) -> None:
        number = session_number(self._text.decode("latin-1").strip())
        if number is None or number != self._peer_session:
            raise NotFound(NOT_YOURS)
        self._head(f'name="{SESSION}"', b"")
        self._out += b"%d\r\n" % number

    def _head(self, disposition: str, further: bytes) -> None:
        self._out += b"--" + self._boundary + b"\r\nContent-Disposition: form-data; "
        self._out += disposition.encode("ascii") + further + b"\r\n\r\n"
