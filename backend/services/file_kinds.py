"""Kinds of files: known by their extension, believed by their content."""

import codecs
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal

from backend.errors import UnsupportedMedia
from backend.services.file_names import extension_of

MEGABYTE = 1 << 20

Family = Literal["document", "image", "audio", "video"]
# How large a file may be, by its family; families that are missing are not taken.
Limits = Mapping[Family, int]

# What a conversation takes, and what the documents for everybody's and for one's own questions are.
ATTACHMENTS: Limits = {
    "document": 20 * MEGABYTE,
    "image": 10 * MEGABYTE,
    "audio": 50 * MEGABYTE,
    "video": 100 * MEGABYTE,
}
KNOWLEDGE: Limits = {"document": 100 * MEGABYTE}

# So much of a file tells what it is, if anything does.
HEAD_BYTES = 64
# The directory of an honest office document has some dozens of entries of some 100 bytes.
MOST_DIRECTORY_BYTES = MEGABYTE
MOST_COMMENT_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Kind:
    """`begins` looks at the first HEAD_BYTES; `folder` is where an office document keeps its content."""

    name: str
    family: Family
    media_type: str
    begins: Callable[[bytes], bool]
    folder: bytes | None = None

    @property
    def is_text(self) -> bool:
        return self.name == "txt"

    @property
    def shown(self) -> Literal["document", "image", "audio", "other"]:
        """What the frontend calls it."""
        return "other" if self.family == "video" else self.family


def _magic(*signatures: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures, at)


def _riff(form: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] == b"RIFF" and head[8:12] == form


def _is_mp3(head: bytes) -> bool:
    """An ID3 tag, or a frame of MPEG audio layer III."""
    frame = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] & 0xF0 != 0xF0
    return head.startswith(b"ID3") or frame


def _is_pdf(head: bytes) -> bool:
    return head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"%PDF-")


_ZIP = _magic(b"PK\x03\x04")
_OLE = _magic(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
_MPEG4 = _magic(b"ftyp", at=4)
_OFFICE = "application/vnd.openxmlformats-officedocument."


def _is_something_else(head: bytes) -> bool:
    return any(kind.begins(head) for kind in KINDS.values() if not kind.is_text and kind.name != "mp3")


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("pdf", "document", "application/pdf", _is_pdf),
        # Both are one container, and which it is would take its whole directory to find out.
        Kind("doc", "document", "application/msword", _OLE),
        Kind("xls", "document", "application/vnd.ms-excel", _OLE),
        Kind("docx", "document", _OFFICE + "wordprocessingml.document", _ZIP, b"word/"),
        Kind("xlsx", "document", _OFFICE + "spreadsheetml.sheet", _ZIP, b"xl/"),
        Kind("pptx", "document", _OFFICE + "presentationml.presentation", _ZIP, b"ppt/"),
        Kind("txt", "document", "text/plain", lambda head: not _is_something_else(head)),
        Kind("png", "image", "image/png", _magic(b"\x89PNG\r\n\x1a\n")),
        Kind("jpg", "image", "image/jpeg", _magic(b"\xff\xd8\xff")),
        Kind("gif", "image", "image/gif", _magic(b"GIF87a", b"GIF89a")),
        Kind("webp", "image", "image/webp", _riff(b"WEBP")),
        Kind("wav", "audio", "audio/wav", _riff(b"WAVE")),
        Kind("mp3", "audio", "audio/mpeg", _is_mp3),
        Kind("m4a", "audio", "audio/mp4", _MPEG4),
        Kind("mp4", "video", "video/mp4", _MPEG4),
    )
}
_OTHER_SPELLINGS = {"jpeg": "jpg"}


def kind_of(name: str, limits: Limits) -> Kind:
    """Return the kind that a file name claims. Raises UnsupportedMedia for none that is taken."""
    extension = extension_of(name).removeprefix(".")
    kind = KINDS.get(_OTHER_SPELLINGS.get(extension, extension))
    if kind is None or kind.family not in limits:
        taken = ", ".join(kind.name for kind in KINDS.values() if kind.family in limits)
        raise UnsupportedMedia(f"This kind of file is not taken here. Possible are: {taken}.")
    return kind


class Inspection:
    """Looks at a file's first piece, at all that passes, and at the whole; never unpacks anything."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._text = Text() if kind.is_text else None

    def begin(self, piece: bytes | bytearray) -> None:
        """Look at the first piece, of HEAD_BYTES or the whole file. Raises UnsupportedMedia."""
        self._require(self._kind.begins(bytes(piece[:HEAD_BYTES])))

    def feed(self, piece: bytes | bytearray) -> None:
        """Look at the next piece, the first included. Raises UnsupportedMedia."""
        if self._text is not None:
            self._require(self._text.feed(piece))

    def finish(self, file: BinaryIO) -> None:
        """Look at the whole file. Raises UnsupportedMedia."""
        if self._text is not None:
            self._require(self._text.feed(b"", final=True))
        if self._kind.folder is not None:
            self._require(holds_document(file, self._kind.folder))

    def _require(self, right: bool) -> None:
        if not right:
            raise UnsupportedMedia(f"The content of this file is not that of a {self._kind.name} file.")


class Text:
    """Tells whether bytes are text, in UTF-8 or the Chinese encodings that GB 18030 comprises."""

    _CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")

    def __init__(self) -> None:
        self._decoders = [codecs.getincrementaldecoder(name)() for name in ("utf-8", "gb18030")]

    def feed(self, piece: bytes | bytearray, *, final: bool = False) -> bool:
        """Take the next bytes; False as soon as they can be no text."""
        if self._CONTROL.search(piece):
            return False
        self._decoders = [decoder for decoder in self._decoders if _decodes(decoder, piece, final)]
        return bool(self._decoders)


def _decodes(decoder: codecs.IncrementalDecoder, piece: bytes | bytearray, final: bool) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def holds_document(file: BinaryIO, folder: bytes) -> bool:
    """Tell whether a ZIP archive lists an office document's parts.

    Reads the end and at most MOST_DIRECTORY_BYTES of the directory, however large either claims to be, and
    unpacks nothing (APPNOTE.TXT, sections 4.3.12 and 4.3.16).
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - MOST_COMMENT_BYTES - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        return False
    length, start = struct.unpack_from("<II", tail, at + 12)
    if length > MOST_DIRECTORY_BYTES or start + length > size:
        return False
    file.seek(start)
    names = _listed(file.read(length))
    return b"[Content_Types].xml" in names and any(name.startswith(folder) for name in names)


def _listed(directory: bytes) -> list[bytes]:
    names, at = [], 0
    while directory.startswith(b"PK\x01\x02", at) and at + 46 <= len(directory):
        name, extra, comment = struct.unpack_from("<HHH", directory, at + 28)
        names.append(directory[at + 46 : at + 46 + name])
        at += 46 + name + extra + comment
    return names
