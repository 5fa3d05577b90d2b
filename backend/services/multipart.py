"""multipart/form-data as it arrives: a push parser whose events keep no file in memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from backend.errors import BadRequest, TooLarge, UnsupportedMedia
from backend.services.streams import ByteStream, small_body

# Beyond any form of the frontend; a form that is larger is an attack on memory.
MOST_PARTS = 64
MOST_HEADER_BYTES = 8 * 1024
# A boundary has at most 70 bytes (RFC 2046, section 5.1.1); of 10 KiB of parameters each costs microseconds.
MOST_TYPE_BYTES = 512
FIELD_BYTES = 64 * 1024
SMALL_FORM_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class PartBegan:
    name: str
    filename: str | None
    content_type: str


@dataclass(frozen=True, slots=True)
class PartBytes:
    content: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    pass


Event = PartBegan | PartBytes | PartEnded


class MultipartReader:
    """Turns the bytes of a form into events.

    Raises BadRequest from `feed` and `finish` for anything that is not a whole multipart body.
    """

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._parts = 0
        self._complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_name,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._all,
                },
            )
        except FormParserError as exc:
            raise BadRequest("The form's boundary is not acceptable.") from exc

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; return what they completed."""
        self._events = []
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise BadRequest("The form is not valid multipart data.") from exc
        return self._events

    def finish(self) -> None:
        if not self._complete:
            raise BadRequest("The form ends before its last boundary.")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise BadRequest(f"The form has more than {MOST_PARTS} parts.")
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        self._header_bytes = 0

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MOST_HEADER_BYTES:
            raise BadRequest("A part of the form has too long a header.")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise BadRequest("A part of the form has no name.")
        filename = options.get(b"filename")
        self._events.append(
            PartBegan(
                _text(options[b"name"]),
                None if filename is None else _text(filename),
                self._headers.get(b"content-type", b"").decode("latin-1"),
            )
        )

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(PartBytes(data[start:end]))

    def _end(self) -> None:
        self._events.append(PartEnded())

    def _all(self) -> None:
        self._complete = True


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadRequest("The form is not UTF-8.") from exc


def boundary_of(content_type: bytes) -> bytes | None:
    """Return the boundary of a multipart/form-data content type, or None for other types."""
    if len(content_type) > MOST_TYPE_BYTES:
        raise BadRequest("The content type is too long.")
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    if not options.get(b"boundary"):
        raise BadRequest("The form has no boundary.")
    return options[b"boundary"]


async def events_of(body: ByteStream, boundary: bytes) -> AsyncIterator[Event]:
    """Read a multipart body event by event."""
    reader = MultipartReader(boundary)
    while chunk := await body.read():
        for event in reader.feed(chunk):
            yield event
    reader.finish()


async def small_form(body: ByteStream | None, content_type: bytes) -> dict[str, str]:
    """Read the text fields of a small form, urlencoded or multipart; files are refused.

    Raises BadRequest, UnsupportedMedia, TooLarge.
    """
    boundary = boundary_of(content_type)
    if boundary is None and not content_type.lower().startswith(b"application/x-www-form-urlencoded"):
        raise UnsupportedMedia("Please send a form.")
    content = await small_body(body, SMALL_FORM_BYTES)
    if boundary is None:
        return _urlencoded(content)
    reader = MultipartReader(boundary)
    fields = _text_fields(reader.feed(content))
    reader.finish()
    return fields


def _urlencoded(content: bytes) -> dict[str, str]:
    if content.count(b"&") >= MOST_PARTS:
        raise BadRequest(f"The form has more than {MOST_PARTS} fields.")
    try:
        return dict(parse_qsl(content.decode("utf-8"), keep_blank_values=True, errors="strict"))
    except ValueError as exc:
        raise BadRequest("The form is not UTF-8.") from exc


def _text_fields(events: list[Event]) -> dict[str, str]:
    fields: dict[str, str] = {}
    name, value = "", bytearray()
    for event in events:
        match event:
            case PartBegan(filename=None):
                name, value = event.name, bytearray()
            case PartBegan():
                raise UnsupportedMedia(f"{event.name}: a file is not expected here.")
            case PartBytes():
                value += event.content
                if len(value) > FIELD_BYTES:
                    raise TooLarge(f"{name}: this field is too long.")
            case PartEnded():
                fields[name] = _text(bytes(value))
    return fields
