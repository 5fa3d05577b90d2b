"""The form that makes a new avatar, checked while it passes: no file is ever held."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.errors import BadRequest, TooLarge, UnsupportedMedia
from backend.services.multipart import FIELD_BYTES, Event, PartBegan, PartBytes, PartEnded
from backend.services.names import avatar_name
from backend.services.passing_form import PassingForm
from backend.services.streams import ByteStream

MEGABYTE = 1 << 20
# Both files at their limits, and room for the fields around them.
FORM_BYTES = 160 * MEGABYTE
# The service would read another name than the one checked here if a field's name had to be tidied up.
FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# So much of a file tells what it is.
SNIFF_BYTES = 12


@dataclass(frozen=True, slots=True)
class FileKind:
    suffixes: tuple[str, ...]
    most_bytes: int
    looks_right: Callable[[bytes], bool]
    spoken: str


def _is_video(head: bytes) -> bool:
    quicktime = head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
    avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return quicktime or avi or head[:4] == b"\x1a\x45\xdf\xa3"


def _is_wave(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


FILES: Mapping[str, FileKind] = {
    "prompt_face": FileKind((".mp4", ".avi", ".mov", ".mkv"), 100 * MEGABYTE, _is_video, "a video"),
    "prompt_voice": FileKind((".wav",), 50 * MEGABYTE, _is_wave, "a WAV recording"),
}


def _flag(value: str, field: str) -> str:
    if value not in ("true", "false", "null", ""):
        raise BadRequest(f"{field} needs to be true or false.")
    return "true" if value == "true" else "false"


def _model(value: str, field: str) -> str:
    if value not in ("MuseTalk", "Wav2Lip", "SyncNet", ""):
        raise BadRequest(f"{field} needs to be MuseTalk, Wav2Lip or SyncNet.")
    return value


# Fields with a rule of their own; all others pass as they are.
FIELDS: Mapping[str, Callable[[str, str], str]] = {
    "name": avatar_name,
    "avatar_blur": _flag,
    "support_clone": _flag,
    "avatar_model": _model,
}


class AvatarForm(PassingForm):
    """The form for the service that makes avatars."""

    def __init__(self, body: ByteStream | None, content_type: bytes) -> None:
        super().__init__(body, content_type)
        self._needed = {"name", "prompt_face"}
        self._part = PartBegan("", None, "")
        self._file: FileKind | None = None
        self._size = 0
        self._opened = False

    def _missing(self) -> list[str]:
        return sorted(self._needed)

    def _take(self, event: Event) -> None:
        match event:
            case PartBegan():
                self._begin(event)
            case PartBytes() if self._file is not None:
                self._file_bytes(self._file, event.content)
            case PartBytes():
                self._text += event.content
                if len(self._text) > FIELD_BYTES:
                    raise TooLarge(f"{self._part.name}: this field is too long.")
            case PartEnded():
                self._end()

    def _begin(self, part: PartBegan) -> None:
        if not FIELD_NAME.fullmatch(part.name):
            raise BadRequest("A field of the form has a name that cannot be used.")
        if part.name in self._seen:
            raise BadRequest(f"{part.name} is in the form twice.")
        self._seen.add(part.name)
        self._part, self._size, self._opened = part, 0, False
        self._text = bytearray()
        self._file = None if part.filename is None else FILES.get(part.name)
        if part.filename is not None and self._file is None:
            raise UnsupportedMedia(f"{part.name}: a file is not expected here.")

    def _file_bytes(self, kind: FileKind, content: bytes) -> None:
        name = self._part.name
        self._size += len(content)
        if self._size > kind.most_bytes:
            raise TooLarge(f"{name}: the file is larger than {kind.most_bytes // MEGABYTE} MB.")
        if self._opened:
            self._out += content
            return
        self._text += content
        if len(self._text) >= SNIFF_BYTES:
            self._open_file(kind)

    def _open_file(self, kind: FileKind) -> None:
        name, filename = self._part.name, _plain(self._part.filename or "")
        if not filename.lower().endswith(kind.suffixes) or not kind.looks_right(bytes(self._text)):
            raise UnsupportedMedia(f"{name} needs to be {kind.spoken} ({', '.join(kind.suffixes)}).")
        self._opened = True
        self._needed.discard(name)
        self._head(f'name="{name}"; filename="{filename}"', "application/octet-stream")
        self._out += self._text
        self._text.clear()

    def _end(self) -> None:
        name = self._part.name
        if self._file is None:
            self._end_text(name)
        elif self._text:
            raise UnsupportedMedia(f"{name} is too short to be {self._file.spoken}.")
        elif self._size:
            self._out += b"\r\n"

    def _end_text(self, name: str) -> None:
        try:
            value = self._text.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BadRequest(f"{name} is not UTF-8.") from exc
        if name in FILES:
            # The frontend sends an empty text field where no file was chosen.
            if value:
                raise BadRequest(f"{name} needs to be a file.")
            self._seen.discard(name)
            return
        value = FIELDS[name](value, name) if name in FIELDS else value
        self._needed.discard(name)
        self._head(f'name="{name}"', None)
        self._out += value.encode("utf-8") + b"\r\n"


def _plain(name: str) -> str:
    """Return a file name without directories, quotes and control characters."""
    return re.sub(r'[\x00-\x1f\x7f"\\;]', "_", re.split(r"[\\/]", name)[-1])[-120:]
