"""Pictures on their way to disk: what stays when something goes wrong, and who clears it away."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import delete
from sqlalchemy.orm import Session

from backend.errors import (
    BadRequest,
    ClientGone,
    InternalError,
    NotAuthenticated,
    NotFound,
    Overloaded,
    StorageFull,
    StoreUnavailable,
    TooLarge,
    UploadStalled,
)
from backend.models import User
from backend.services import accounts, pictures
from backend.services.database import Database
from backend.services.picture_form import PICTURE_BYTES
from backend.services.pictures import PREFIX, Pictures
from backend.services.profiles import Profiles
from backend.services.tokens import Principal
from tests.support import disk
from tests.support.forms import MULTIPART, Part, Pieces, cut, written
from tests.support.pictures import picture
from tests.support.stores import store

ANN = Principal(1, "ann@school.example", "student", "0" * 32, 0)


@dataclass
class Gallery:
    pictures: Pictures
    profiles: Profiles
    database: Database
    folder: Path

    async def upload(self, content: bytes, *, filename: str | None = "me.png") -> str:
        form = written([Part("avatar", content, filename)])
        return await self.pictures.replace(ANN, Pieces(*cut(form, [100, 5000])), MULTIPART)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []

    async def settled(self) -> None:
        """Wait until what goes on by itself is done."""
        await self.pictures._errands.aclose()


@pytest_asyncio.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[Gallery]:
    async with store("sqlite", tmp_path) as database:

        def ann(session: Session) -> None:
            accounts.insert(session, ANN.email, "hash", "student")

        await database.run(ann)
        profiles = Profiles(database)
        folder = tmp_path / "files" / "avatars"
        gallery = Gallery(Pictures(database, profiles, folder), profiles, database, folder)
        yield gallery
        await gallery.pictures.aclose()


@pytest.mark.asyncio
async def test_each_upload_has_a_new_name_and_the_former_file_goes(gallery: Gallery) -> None:
    first = await gallery.upload(picture())
    second = await gallery.upload(picture("JPEG"))
    await gallery.settled()
    assert first != second
    assert gallery.left() == [second.removeprefix(PREFIX)]
    assert (await gallery.profiles.of(ANN.user_id)).avatar_url == second
    content, content_type = await gallery.pictures.of(second.removeprefix(PREFIX))
    assert (content[:2], content_type) == (b"\xff\xd8", "image/jpeg")
    assert (gallery.folder / second.removeprefix(PREFIX)).stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotFound):
        await gallery.pictures.of(first.removeprefix(PREFIX))


@pytest.mark.asyncio
async def test_several_uploads_at_once_leave_the_one_file_that_the_profile_names(gallery: Gallery) -> None:
    urls = await asyncio.gather(*(gallery.upload(picture("JPEG", (200, 100))) for _ in range(6)))
    await gallery.settled()
    named = (await gallery.profiles.of(ANN.user_id)).avatar_url
    assert named in urls
    assert gallery.left() == [str(named).removeprefix(PREFIX)]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "form",
    [
        b"",
        written([]),
        written([Part("avatar", b"", "me.png")]),
        written([Part("avatar", picture())]),
        written([Part("avatar", b"")]),
        written([Part("picture", picture(), "me.png")]),
        written([Part("avatar", picture(), "a.png"), Part("avatar", picture(), "b.png")]),
        written([Part("avatar", b"<svg/>", "me.svg")]),
        written([Part("avatar", picture(), "me.png")])[:-10],
        written([Part(f"x{n}", b"") for n in range(10_000)]),
        b"nonsense" * 100,
    ],
    ids=[
        "no bytes",
        "no parts",
        "empty",
        "text",
        "empty text",
        "other name",
        "two",
        "svg",
        "cut",
        "many",
        "noise",
    ],
)
async def test_form_without_one_good_picture_is_refused_and_leaves_nothing(
    gallery: Gallery, form: bytes
) -> None:
    with pytest.raises(BadRequest) as refusal:
        await gallery.pictures.replace(ANN, Pieces(form), MULTIPART)
    await gallery.settled()
    assert refusal.value.msg
    assert gallery.left() == []
    assert (await gallery.profiles.of(ANN.user_id)).avatar_url is None


@pytest.mark.asyncio
@pytest.mark.parametrize("content_type", [b"", b"application/json", b"image/png", b"multipart/form-data"])
async def test_what_is_no_multipart_form_is_refused(gallery: Gallery, content_type: bytes) -> None:
    with pytest.raises(BadRequest):
        await gallery.pictures.replace(ANN, Pieces(picture()), content_type)
    with pytest.raises(BadRequest):
        await gallery.pictures.replace(ANN, None, MULTIPART)


@pytest.mark.asyncio
async def test_five_megabytes_pass_and_one_byte_more_does_not(gallery: Gallery) -> None:
    small = picture("JPEG")
    await gallery.upload(small + bytes(PICTURE_BYTES - len(small)))
    with pytest.raises(TooLarge, match="larger than 5 MB"):
        await gallery.upload(small + bytes(PICTURE_BYTES - len(small) + 1))
    await gallery.settled()
    assert len(gallery.left()) == 1


@pytest.mark.asyncio
async def test_upload_is_broken_off_where_it_gets_too_large(gallery: Gallery) -> None:
    head, _, tail = written([Part("avatar", b"CONTENT", "me.png")]).partition(b"CONTENT")
    pieces = Pieces(head, *[bytes(1 << 20)] * 50, tail)
    with pytest.raises(TooLarge):
        await gallery.pictures.replace(ANN, pieces, MULTIPART)
    assert pieces.reads <= 8


class Broken(Pieces):
    """A client that leaves, or goes silent, amid its upload."""

    def __init__(self, *chunks: bytes, silent: bool = False) -> None:
        super().__init__(*chunks)
        self.silent = silent
        self.waiting = asyncio.Event()

    async def read(self) -> bytes:
        if self._chunks:
            return await super().read()
        self.waiting.set()
        if self.silent:
            await asyncio.Event().wait()
        raise ClientGone


HALF = written([Part("avatar", bytes(600_000), "me.png")])[:-1000]


@pytest.mark.asyncio
async def test_client_that_leaves_or_stalls_midway_leaves_nothing(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClientGone):
        await gallery.pictures.replace(ANN, Broken(HALF), MULTIPART)
    monkeypatch.setattr(pictures, "UPLOAD_SECONDS", 0.05)
    with pytest.raises(UploadStalled):
        await gallery.pictures.replace(ANN, Broken(HALF, silent=True), MULTIPART)
    await gallery.settled()
    assert gallery.left() == []


@pytest.mark.asyncio
async def test_cancelled_upload_leaves_nothing(gallery: Gallery) -> None:
    body = Broken(HALF, silent=True)
    upload = asyncio.create_task(gallery.pictures.replace(ANN, body, MULTIPART))
    await body.waiting.wait()
    assert len(gallery.left()) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await gallery.settled()
    assert gallery.left() == []


@pytest.mark.asyncio
async def test_caller_who_leaves_while_the_picture_is_made_gets_it_nevertheless(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    class Slow(Profiles):
        async def set_picture(self, user_id: int, url: str) -> str | None:
            begun.set()
            await go.wait()
            return await super().set_picture(user_id, url)

    monkeypatch.setattr(gallery.pictures, "_profiles", Slow(gallery.database))
    upload = asyncio.create_task(gallery.upload(picture()))
    await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    go.set()
    await gallery.settled()
    named = (await gallery.profiles.of(ANN.user_id)).avatar_url
    assert gallery.left() == [str(named).removeprefix(PREFIX)]


@pytest.mark.asyncio
async def test_account_that_was_deleted_meanwhile_gets_no_file(gallery: Gallery) -> None:
    await gallery.database.run(lambda session: session.execute(delete(User)).close())
    with pytest.raises(NotAuthenticated):
        await gallery.upload(picture())
    await gallery.settled()
    assert gallery.left() == []


@pytest.mark.asyncio
async def test_file_stays_for_the_sweep_when_nobody_knows_whether_the_row_was_saved(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away(Profiles):
        async def set_picture(self, user_id: int, url: str) -> str | None:
            raise StoreUnavailable

    monkeypatch.setattr(gallery.pictures, "_profiles", Away(gallery.database))
    with pytest.raises(StoreUnavailable):
        await gallery.upload(picture())
    await gallery.settled()
    assert len(gallery.left()) == 1
    grow_old(gallery.folder)
    assert await gallery.pictures.sweep() == 1
    assert gallery.left() == []


def grow_old(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (1, 1))


@pytest.mark.asyncio
async def test_sweep_takes_what_no_profile_names_and_nothing_else(gallery: Gallery) -> None:
    assert await gallery.pictures.sweep() == 0  # no folder yet
    named = (await gallery.upload(picture())).removeprefix(PREFIX)
    for name in ("0" * 32 + ".jpg", "1" * 32 + ".part", "keep me.txt"):
        (gallery.folder / name).write_bytes(b"x")
    grow_old(gallery.folder)
    young = "2" * 32 + ".png"
    (gallery.folder / young).write_bytes(b"x")
    assert await gallery.pictures.sweep() == 2
    assert gallery.left() == sorted([named, "keep me.txt", young])


@pytest.mark.asyncio
async def test_pictures_of_many_departed_users_are_swept_in_queries_that_every_database_takes(
    gallery: Gallery,
) -> None:
    gallery.folder.mkdir(parents=True)
    for number in range(1200):
        (gallery.folder / f"{number:032x}.jpg").touch()
    grow_old(gallery.folder)
    assert await gallery.pictures.sweep() == 1200


@pytest.mark.asyncio
async def test_deleted_users_picture_is_dropped_at_once_and_nothing_beside_it(gallery: Gallery) -> None:
    url = await gallery.upload(picture())
    outside = gallery.folder.parent / "secret.jpg"
    outside.write_bytes(b"x")
    for strange in (None, "http://elsewhere/x.jpg", PREFIX + "../secret.jpg", PREFIX):
        gallery.pictures.discard(strange)
    gallery.pictures.discard(url)
    await gallery.settled()
    assert gallery.left() == []
    assert outside.exists()


@pytest.mark.asyncio
async def test_more_pictures_at_once_than_there_are_places_for_are_told_so(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery.pictures._decoding, "_most", 1)
    outcomes = await asyncio.gather(
        *(gallery.upload(picture("JPEG", (2000, 2000))) for _ in range(4)), return_exceptions=True
    )
    await gallery.settled()
    assert Overloaded in {type(outcome) for outcome in outcomes}
    assert {type(outcome) for outcome in outcomes} == {str, Overloaded}
    assert len(gallery.left()) == 1


@pytest.mark.asyncio
async def test_folder_that_cannot_be_made_is_for_the_log_and_not_for_the_user(
    gallery: Gallery, caplog: pytest.LogCaptureFixture
) -> None:
    gallery.folder.parent.parent.joinpath("files").write_bytes(b"a file where the folder should be")
    with pytest.raises(InternalError) as refusal:
        await gallery.upload(picture())
    assert "a picture cannot be written" in caplog.text
    assert str(gallery.folder) not in refusal.value.msg


@pytest.fixture
def small_disk(gallery: Gallery) -> Iterator[Path]:
    """A disk of a few pages in place of the folder."""
    with disk.small_disk(gallery.folder, "64k") as mounted:
        if not mounted:
            pytest.skip("a small disk needs root and the right to mount one")
        yield gallery.folder


@pytest.mark.asyncio
async def test_full_disk_is_507_leaves_nothing_and_the_next_upload_that_fits_is_kept(
    gallery: Gallery, small_disk: Path
) -> None:
    noise = os.urandom(300 * 300 * 3)
    with pytest.raises(StorageFull):
        await gallery.upload(noise)  # does not even fit as it arrives
    await gallery.settled()
    assert gallery.left() == []
    first = await gallery.upload(picture())
    (small_disk / "filler").write_bytes(bytes(48 * 1024))
    with pytest.raises(StorageFull):
        await gallery.upload(picture("PNG", (3, 3)) + bytes(12 * 1024))
    await gallery.settled()
    assert (await gallery.profiles.of(ANN.user_id)).avatar_url == first
    assert gallery.left() == sorted(["filler", first.removeprefix(PREFIX)])
    (small_disk / "filler").unlink()
    second = await gallery.upload(picture("JPEG"))
    await gallery.settled()
    assert gallery.left() == [second.removeprefix(PREFIX)]
