"""Forms that are read as they arrive: fields are kept, files are measured and forgotten."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from urllib.parse import parse_qsl

from python_multipart import MultipartParser
from python_multipart.multipart import parse_options_header

from backend.demo.wire import Exchange

# The longest text field of the real forms is a sentence to be spoken.
FIELD_LIMIT_BYTES = 64 * 1024


@dataclass(frozen=True)
class Upload:
    """A file of a form, measured."""

    filename: str
    content_type: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Form:
    """The text fields and the files of a form, by name."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)
    # What the files begin with, for those who asked to have it kept.
    begins: dict[str, bytes] = field(default_factory=dict, repr=False)

    def record(self) -> dict[str, object]:
        return {"fields": self.fields, "files": {name: asdict(file) for name, file in self.files.items()}}


async def read_form(exchange: Exchange, keep_bytes: int = 0) -> Form:
    """Read a multipart or urlencoded form, keep what files begin with; raise ValueError for a broken one."""
    kind, options = parse_options_header(exchange.header(b"content-type"))
    if kind == b"multipart/form-data":
        return await _read_multipart(exchange, options.get(b"boundary", b""), keep_bytes)
    text = (await exchange.read()).decode()
    return Form(dict(parse_qsl(text, keep_blank_values=True)))


async def _read_multipart(exchange: Exchange, boundary: bytes, keep_bytes: int) -> Form:
    if not boundary:
        raise ValueError("multipart without a boundary")
    reader = _PartReader(keep_bytes)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": reader.begin,
            "on_header_field": reader.header_name,
            "on_header_value": reader.header_value,
            "on_header_end": reader.header_end,
            "on_headers_finished": reader.headers_finished,
            "on_part_data": reader.content,
            "on_part_end": reader.end,
            "on_end": reader.complete,
        },
    )
    async for chunk in exchange.body():
        parser.write(chunk)
    if not reader.completed:
        raise ValueError("multipart ends before its last boundary")
    return reader.form


class _PartReader:
    """Turns the parser's callbacks into a form."""

    def __init__(self, keep_bytes: int) -> None:
        self.form = Form()
        self._keep_bytes = keep_bytes
        self.completed = False

    def begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._text = bytearray()
        self._begin = bytearray()
        self._size = 0
        self._sha256 = hashlib.sha256()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode()
        filename = options.get(b"filename")
        self._filename = None if filename is None else filename.decode()

    def content(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]
        if self._filename is None:
            self._add_text(piece)
        else:
            self._size += len(piece)
            self._sha256.update(piece)
            self._begin += piece[: self._keep_bytes - len(self._begin)]

    def end(self) -> None:
        if self._filename is None:
            self.form.fields[self._name] = self._text.decode()
            return
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        upload = Upload(self._filename, content_type, self._size, self._sha256.hexdigest())
        self.form.files[self._name] = upload
        self.form.begins[self._name] = bytes(self._begin)

    def complete(self) -> None:
        self.completed = True

    def _add_text(self, piece: memoryview) -> None:
        self._text += piece
        if len(self._text) > FIELD_LIMIT_BYTES:
            raise ValueError(f"field {self._name} is longer than {FIELD_LIMIT_BYTES} bytes")
