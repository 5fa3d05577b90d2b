"""Files on their way in: a form streams to the disk, bounded, counted and looked at as it passes."""

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from backend.errors import (
    BadRequest,
    Conflict,
    GatewayError,
    Overloaded,
    TooLarge,
    TooManyRequests,
    UnsupportedMedia,
    UploadStalled,
)
from backend.models.base import utc_now
from backend.services import file_records
from backend.services.database import Database
from backend.services.deadline import Deadline
from backend.services.file_kinds import Inspection, Kind, Limits, kind_of
from backend.services.file_names import safe_name
from backend.services.file_records import Record, Wanted
from backend.services.file_store import PIECE_BYTES, FileStore, Writing, Written, new_path
from backend.services.multipart import (
    FIELD_BYTES,
    Event,
    MultipartReader,
    PartBegan,
    PartBytes,
    PartEnded,
    boundary_of,
)
from backend.services.streams import ByteStream, check_length

log = logging.getLogger("gateway.files")

MEGABYTE = 1 << 20
# Boundaries, headers and the other fields of a form.
FORM_BYTES = MEGABYTE
# A client that sends nothing for so long, or is not done after so long, is told so.
PAUSE_SECONDS = 60.0
UPLOAD_SECONDS = 3600.0
# The process that received a file is dead if it still has not arrived by then.
DEAD_AFTER = timedelta(seconds=2 * UPLOAD_SECONDS)
# Each keeps two pieces in memory.
MOST_AT_ONCE = 128
MOST_OF_ONE = 32
# Another tutor may take the same public name at the same time.
NAME_TRIES = 4
CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sent:
    """A form as it reached the gateway."""

    body: ByteStream | None
    content_type: bytes
    length: int | None


@dataclass(frozen=True, slots=True)
class Destination:
    """Whose file it will be, and what is taken there."""

    owner_id: int
    limits: Limits
    public: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A file that lies on the disk, and the texts beside it in the form. It still has to be accepted."""

    record: Record
    kind: Kind
    written: Written
    fields: dict[str, str]


class Uploads:
    """Receives files. Whatever goes wrong with one, nothing of it is left."""

    def __init__(
        self, database: Database, store: FileStore, quota: int, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._store = store
        self.quota = quota
        self._now = now
        self._under_way: Counter[int] = Counter()
        self._clearing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def receive(self, sent: Sent, to: Destination) -> AsyncIterator[Received]:
        """Receive one file; it goes again unless the block accepts it.

        Raises BadRequest, UnsupportedMedia, TooLarge, UploadStalled, StorageFull.
        """
        check_length(sent.length, max(to.limits.values()) + FORM_BYTES)
        boundary = boundary_of(sent.content_type)
        if boundary is None:
            raise UnsupportedMedia("Please send a multipart form.")
        if sent.body is None:
            raise BadRequest("The form is empty.")
        with self._place(to.owner_id):
            arriving = Arriving(self, to, sent.length)
            try:
                yield await arriving.read(sent.body, boundary)
            except BaseException:
                await asyncio.shield(self._clear(arriving))
                raise

    async def reserve(self, wanted: Wanted) -> Record:
        for last in (False,) * (NAME_TRIES - 1) + (True,):
            try:
                due_at = self._now() + DEAD_AFTER
                return await self._database.run(file_records.reserve(wanted, self.quota, due_at))
            except Conflict:
                if last:
                    raise
        raise AssertionError("the last try returns or raises")

    def writing(self, path: str, kind: Kind) -> tuple[Writing, Inspection]:
        inspection = Inspection(kind)
        return self._store.write(path, inspection), inspection

    async def aclose(self) -> None:
        """Let what is being cleared away go; the sweep finds the rest."""
        if self._clearing:
            await asyncio.wait(self._clearing, timeout=CLOSE_SECONDS)

    @contextlib.contextmanager
    def _place(self, owner_id: int) -> Iterator[None]:
        if self._under_way.total() >= MOST_AT_ONCE:
            raise Overloaded
        if self._under_way[owner_id] >= MOST_OF_ONE:
            raise TooManyRequests("Too many of your files are on their way at once. Please wait a moment.")
        self._under_way[owner_id] += 1
        try:
            yield
        finally:
            self._under_way[owner_id] -= 1
            if not self._under_way[owner_id]:
                del self._under_way[owner_id]

    def _clear(self, arriving: "Arriving") -> "asyncio.Task[None]":
        """Take a file away in a task of its own: whoever sent it may be gone."""
        task = asyncio.get_running_loop().create_task(self._cleared(arriving))
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)
        return task

    async def _cleared(self, arriving: "Arriving") -> None:
        try:
            await arriving.reserved()
            if arriving.writing is None:
                return
            # What was accepted in the very last moment stays.
            if await self._database.run(file_records.give_up(arriving.path)):
                await arriving.writing.discard()
        except GatewayError as error:
            log.warning("an upload is left for the sweep: %s", error.code)
            if arriving.writing is not None:
                arriving.writing.close()


class Arriving:
    """One form as it is read: exactly one file, some texts."""

    def __init__(self, uploads: Uploads, to: Destination, length: int | None) -> None:
        self._uploads = uploads
        self._to = to
        self._length = length
        self.path = new_path()
        self.writing: Writing | None = None
        self._reserving: asyncio.Task[Record] | None = None
        self._record: Record | None = None
        self._kind: Kind | None = None
        self._name = ""
        self._size = 0
        self._whole = False
        self._fields: dict[str, str] = {}
        self._field: str | None = None
        self._piece = bytearray()

    async def read(self, body: ByteStream, boundary: bytes) -> Received:
        """Read the form to its end."""
        reader = MultipartReader(boundary)
        deadline = Deadline()
        end = deadline.now() + UPLOAD_SECONDS
        try:
            while chunk := await deadline.within(body.read(), min(deadline.now() + PAUSE_SECONDS, end)):
                deadline.close()
                events = deque(reader.feed(chunk))
                del chunk  # while the disk is waited for, one copy of these bytes is enough
                while events:
                    await self._take(events.popleft())
        except TimeoutError:
            raise UploadStalled from None
        finally:
            deadline.close()
        reader.finish()
        if not self._whole or self._record is None or self._kind is None or self.writing is None:
            raise BadRequest("file is missing.")
        return Received(self._record, self._kind, await self.writing.finish(), self._fields)

    async def reserved(self) -> None:
        """Wait until no reservation is under way."""
        if self._reserving is not None:
            await asyncio.wait([self._reserving])

    async def _take(self, event: Event) -> None:
        match event:
            case PartBegan(filename=None):
                self._begin_text(event)
            case PartBegan():
                self._begin_file(event)
            case PartBytes() if self._field is None:
                await self._file_bytes(event.content)
            case PartBytes():
                self._piece += event.content
                if len(self._piece) > FIELD_BYTES:
                    raise TooLarge("A field of the form is too long.")
            case PartEnded() if self._field is None:
                await self._end_file()
            case PartEnded():
                self._end_text(self._field)

    def _begin_text(self, part: PartBegan) -> None:
        if part.name == "file":
            raise BadRequest("file needs to be a file.")
        if part.name in self._fields:
            raise BadRequest("A field is in the form twice.")
        self._field = part.name

    def _end_text(self, name: str) -> None:
        try:
            self._fields[name] = self._piece.decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BadRequest("The form is not UTF-8.") from exc
        self._piece = bytearray()

    def _begin_file(self, part: PartBegan) -> None:
        if part.name != "file":
            raise BadRequest("A file is expected in the field file, and nowhere else.")
        if self._kind is not None:
            raise BadRequest("Please send one file at a time.")
        if not part.filename:
            raise BadRequest("No file was chosen.")
        self._field = None
        self._name = safe_name(part.filename)
        self._kind = kind_of(self._name, self._to.limits)
        if self._length is not None and self._length - FORM_BYTES > self._most:
            raise self._too_large()

    @property
    def _most(self) -> int:
        assert self._kind is not None  # noqa: S101 - narrows the type
        return self._to.limits[self._kind.family]

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The file is larger than the {self._most // MEGABYTE} MB allowed for its kind.")

    async def _file_bytes(self, content: bytes) -> None:
        self._size += len(content)
        if self._size > self._most:
            raise self._too_large()
        if self._record is not None and self._size > self._record.size:
            raise file_records.over_quota(self._uploads.quota)
        if len(content) >= PIECE_BYTES and not self._piece:
            await self._write(content)
            return
        self._piece += content
        if len(self._piece) >= PIECE_BYTES:
            await self._write_piece()

    async def _end_file(self) -> None:
        if not self._size:
            raise BadRequest("The file is empty.")
        if self._piece:
            await self._write_piece()
        self._whole = True

    async def _write_piece(self) -> None:
        piece, self._piece = self._piece, bytearray()
        await self._write(piece)

    async def _write(self, piece: bytes | bytearray) -> None:
        if self.writing is None:
            await self._open(piece)
        assert self.writing is not None  # noqa: S101 - narrows the type
        await self.writing.write(piece)

    async def _open(self, piece: bytes | bytearray) -> None:
        """Look at the first piece and reserve room, before anything is written."""
        assert self._kind is not None  # noqa: S101 - narrows the type
        writing, inspection = self._uploads.writing(self.path, self._kind)
        inspection.begin(piece)
        size = self._most if self._length is None else min(self._most, self._length)
        to = self._to
        wanted = Wanted(to.owner_id, to.public, self._name, self.path, self._kind.name, size)
        # In a task of its own: a reservation that has begun is made, whoever leaves, and has to be known.
        self.writing = writing
        self._reserving = asyncio.get_running_loop().create_task(self._uploads.reserve(wanted))
        self._record = await asyncio.shield(self._reserving)
        coming = self._size if self._length is None else max(self._size, self._length - FORM_BYTES)
        if coming > self._record.size:
            raise file_records.over_quota(self._uploads.quota)
