"""Profile pictures: taken in, made small and safe, kept, shown, swept.

    form ──► part file ──► portrait, in a thread ──► new name ──► row in the profile ──► former file goes
             counted       bounded: pixels, scans    atomic       one transaction

From the portrait on the work goes on when its caller leaves. What no profile names is swept now and then:
the pictures of people who are gone, and what a process that died left behind.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select

from backend.errors import Conflict, GatewayError, NotAuthenticated, NotFound
from backend.models import Profile
from backend.services.database import Database
from backend.services.errands import Errands
from backend.services.picture_form import PictureForm
from backend.services.picture_store import CONTENT_TYPES, NAME, PictureStore
from backend.services.portraits import portrait_of
from backend.services.profiles import Profiles
from backend.services.streams import ByteStream, in_time
from backend.services.threads import Threads
from backend.services.tokens import Principal

T = TypeVar("T")

log = logging.getLogger("gateway.pictures")

PREFIX = "/static/avatars/"
UPLOAD_SECONDS = 120.0  # five megabytes over a poor line
DECODING_THREADS = 1  # an unpacked picture takes up to some 300 MB for a moment
DECODING_WAITING = 30
DISK_THREADS = 4
DISK_WAITING = 200
SWEEP_SECONDS = 600.0
# Whatever is younger may be on its way into a profile.
SWEPT_AFTER_SECONDS = 600.0
NAMES_AT_ONCE = 500  # in one query: databases limit how many values one may have


class Pictures:
    """The pictures of this gateway's users."""

    def __init__(self, database: Database, profiles: Profiles, folder: Path) -> None:
        self._database = database
        self._profiles = profiles
        self._store = PictureStore(folder)
        self._decoding = Threads(DECODING_THREADS, waiting=DECODING_WAITING, name="portraits")
        self._disk = Threads(DISK_THREADS, waiting=DISK_WAITING, name="pictures")
        self._errands = Errands(DISK_WAITING)
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._sweeping = asyncio.create_task(self._sweep_for_ever(), name="picture sweep")

    async def aclose(self) -> None:
        """Finish what is under way, stop sweeping, let the threads go."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
            self._sweeping = None
        await self._errands.aclose()
        self._decoding.close()
        self._disk.close()

    async def replace(self, principal: Principal, body: ByteStream | None, content_type: bytes) -> str:
        """Make the picture in the form the user's; return its address.

        Raises BadRequest, TooLarge, UploadStalled, Overloaded, StorageFull.
        """
        upload = self._store.aside()
        try:
            await self._on_disk(partial(self._store.begin, upload))
            form = PictureForm(lambda piece: self._on_disk(partial(self._store.add, upload, piece)))
            await in_time(form.read(body, content_type), UPLOAD_SECONDS)
            kept = self._errands.begin(self._kept(principal.user_id, upload))
        except BaseException:
            self._errands.start(self._on_disk(partial(upload.unlink, missing_ok=True)))
            raise
        return await asyncio.shield(kept)

    async def of(self, name: str) -> tuple[bytes, str]:
        """Return a picture and its content type. Raises NotFound."""
        content = await self._on_disk(partial(self._store.get, name)) if NAME.fullmatch(name) else None
        if content is None:
            raise NotFound("There is no such picture.")
        return content, CONTENT_TYPES[name[-4:]]

    def discard(self, url: str | None) -> None:
        """Remove a picture that no profile names any more, as soon as there is time."""
        if url is not None and url.startswith(PREFIX):
            self._errands.start(self._dropped(url.removeprefix(PREFIX)))

    async def sweep(self) -> int:
        """Remove files that no profile names; return how many there were."""
        elder = await self._on_disk(lambda: list(self._store.elder_than(SWEPT_AFTER_SECONDS)))
        unnamed = []
        for start in range(0, len(elder), NAMES_AT_ONCE):
            some = {PREFIX + name: name for name in elder[start : start + NAMES_AT_ONCE]}
            named = select(Profile.avatar_url).where(Profile.avatar_url.in_(list(some)))
            kept = await self._database.run(lambda session, query=named: set(session.scalars(query)))  # type: ignore[misc]
            unnamed += [name for url, name in some.items() if url not in kept]
        await self._on_disk(partial(self._store.sweep, unnamed))
        return len(unnamed)

    async def _kept(self, user_id: int, upload: Path) -> str:
        try:
            with self._decoding.place():
                make = partial(self._store.put, partial(portrait_of, upload))
                loop = asyncio.get_running_loop()
                name = await loop.run_in_executor(self._decoding.executor, make)
        finally:
            await self._on_disk(partial(upload.unlink, missing_ok=True))
        try:
            former = await self._profiles.set_picture(user_id, PREFIX + name)
        except (Conflict, NotAuthenticated):
            await self._dropped(name)
            raise
        # After any other trouble the row may yet be saved: the sweep looks later whether it was.
        self.discard(former)
        return PREFIX + name

    async def _dropped(self, name: str) -> None:
        try:
            await self._on_disk(partial(self._store.drop, name))
        except (OSError, GatewayError) as error:
            log.warning("a picture was left for the sweep: %r", error)

    async def _on_disk(self, work: Callable[[], T]) -> T:
        with self._disk.place():
            begun = asyncio.get_running_loop().run_in_executor(self._disk.executor, work)
            try:
                return await asyncio.shield(begun)
            except asyncio.CancelledError:
                # A file that is still being written would come back after it was removed.
                await asyncio.wait([begun])
                raise

    async def _sweep_for_ever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (OSError, GatewayError) as error:
                log.warning("pictures were not swept, trying again later: %r", error)
            await asyncio.sleep(SWEEP_SECONDS)
