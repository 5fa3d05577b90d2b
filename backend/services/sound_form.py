"""The form with a recording for the avatar, checked while it passes: the recording is never held."""

from backend.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia
from backend.services.multipart import Event, PartBegan, PartBytes, PartEnded
from backend.services.passing_form import PassingForm
from backend.services.session_number import NOT_YOURS, session_number
from backend.services.streams import ByteStream

# A number of six digits, in whatever spelling.
MOST_FIELD_BYTES = 64
# The two fields that instances know.
SOUND, SESSION = "file", "sessionid"


class SoundForm(PassingForm):
    """The form for an instance; the session has to be the caller's own, and may come after the recording.

    Raises NotFound for a session that is not.
    """

    def __init__(self, body: ByteStream | None, content_type: bytes, peer_session: int | None) -> None:
        super().__init__(body, content_type)
        self._peer_session = peer_session
        self._name = ""

    def _missing(self) -> list[str]:
        return [name for name in (SESSION, SOUND) if name not in self._seen]

    def _take(self, event: Event) -> None:
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
            self._head(f'name="{SOUND}"; filename="sound.wav"', "audio/wav")

    def _end_session(self) -> None:
        number = session_number(self._text.decode("latin-1").strip())
        if number is None or number != self._peer_session:
            raise NotFound(NOT_YOURS)
        self._head(f'name="{SESSION}"', None)
        self._out += b"%d\r\n" % number
