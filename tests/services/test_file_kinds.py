import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import UnsupportedMedia
from backend.services.file_kinds import (
    ATTACHMENTS,
    HEAD_BYTES,
    KINDS,
    KNOWLEDGE,
    MOST_COMMENT_BYTES,
    MOST_DIRECTORY_BYTES,
    Inspection,
    Text,
    holds_document,
    kind_of,
)
from tests.support.documents import CONTENTS, OLE, PDF, PNG, TEXT, archive, office
from tests.support.forms import cut


def looked_at(name: str, content: bytes, *places: int) -> None:
    """Let a file pass in pieces, as an upload does."""
    inspection = Inspection(kind_of(name, ATTACHMENTS))
    inspection.begin(content)
    for piece in cut(content, places):
        inspection.feed(piece)
    inspection.finish(io.BytesIO(content))


def refuses(name: str, content: bytes) -> bool:
    try:
        looked_at(name, content)
    except UnsupportedMedia:
        return True
    return False


@pytest.mark.parametrize("extension", CONTENTS)
def test_file_of_each_kind_is_what_it_claims(extension: str) -> None:
    looked_at(f"a.{extension.upper()}", CONTENTS[extension])


@pytest.mark.parametrize("extension", CONTENTS)
def test_content_of_another_kind_is_refused(extension: str) -> None:
    same = [{"doc", "xls"}, {"jpg", "jpeg"}, {"m4a", "mp4"}]
    for other, content in CONTENTS.items():
        alike = other == extension or any({other, extension} <= pair for pair in same)
        # ID3 is also how a text about databases may begin.
        assert refuses(f"a.{extension}", content) is not alike, (extension, other)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pdf", b"<html>%PDF-1.7"),
        ("a.pdf", b"MZ" + PDF),
        ("a.docx", archive("word/document.xml")),
        ("a.docx", archive("[Content_Types].xml", "evil/word/document.xml")),
        ("a.docx", archive("[Content_Types].xml")),
        ("a.docx", office("word")[:-30]),
        ("a.docx", b"PK\x03\x04"),
        ("a.docx", b"PK\x03\x04" + bytes(100) + b"PK\x05\x06" + b"\xff" * 18),
        ("a.txt", b"\x00"),
        ("a.txt", TEXT + b"\x00"),
        ("a.txt", "UTF-16 is not taken".encode("utf-16")),
        ("a.txt", b"\x1b[31mred"),
        ("a.txt", b"\xff\xff\xff"),
        ("a.txt", PDF),
        ("a.txt", "光".encode()[:1]),
        ("a.mp3", b"\xff\xd8\xff\xe0"),
        ("a.png", PNG[:7]),
    ],
)
def test_content_that_only_resembles_its_kind_is_refused(name: str, content: bytes) -> None:
    assert refuses(name, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"x"),
        ("a.txt", b"\xef\xbb\xbfwith a mark"),
        ("a.txt", "光速".encode("gb18030")),
        ("a.txt", b"ID3 is a way to grow decision trees"),
        ("a.pdf", b"\xef\xbb\xbf\n" + PDF),
        ("a.mp3", b"\xff\xfb\x90\x64" + bytes(32)),
        ("a.doc", OLE),
    ],
)
def test_honest_content_is_taken(name: str, content: bytes) -> None:
    looked_at(name, content)


@pytest.mark.parametrize("name", ["a", "a.exe", "a.svg", "a.html", "a.pdf.exe", "a.zip", "pdf"])
def test_other_kinds_are_refused_with_a_list_of_what_is_taken(name: str) -> None:
    with pytest.raises(UnsupportedMedia, match="pdf, doc, xls, docx"):
        kind_of(name, ATTACHMENTS)


@pytest.mark.parametrize("extension", ["png", "wav", "mp4", "mp3"])
def test_knowledge_bases_take_documents_alone(extension: str) -> None:
    with pytest.raises(UnsupportedMedia):
        kind_of(f"a.{extension}", KNOWLEDGE)


def test_frontend_is_told_kinds_that_it_knows() -> None:
    assert {kind.shown for kind in KINDS.values()} == {"document", "image", "audio", "other"}


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200)


@given(TEXTS, st.sampled_from(["utf-8", "gb18030"]), st.lists(st.integers(0, 900), max_size=20))
def test_text_in_any_pieces_is_text(text: str, encoding: str, places: list[int]) -> None:
    looking = Text()
    assert all(looking.feed(piece) for piece in cut(text.encode(encoding), places))
    assert looking.feed(b"", final=True)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_pieces_do_not_change_what_is_text(content: bytes, places: list[int]) -> None:
    def is_text(pieces: list[bytes]) -> bool:
        looking = Text()
        return all(looking.feed(piece) for piece in pieces) and looking.feed(b"", final=True)

    assert is_text(cut(content, places)) == is_text([content])


@given(
    st.sampled_from([*CONTENTS, "exe", ""]),
    st.binary(max_size=400) | st.sampled_from(list(CONTENTS.values())),
)
def test_any_content_is_taken_or_refused_and_nothing_else(extension: str, content: bytes) -> None:
    refuses(f"a.{extension}", content)


@given(st.binary(max_size=60), st.integers(0, 2000), st.integers(0, 60))
def test_damaged_archive_is_taken_or_refused_and_nothing_else(damage: bytes, at: int, drop: int) -> None:
    whole = office("word")
    at %= len(whole)
    holds_document(io.BytesIO(whole[:at] + damage + whole[at + drop :]), b"word/")


class Counted(io.BytesIO):
    """A file that knows how much of it was read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


def test_bomb_is_never_unpacked_and_costs_only_a_look_at_its_directory() -> None:
    bomb = office("word", bytes(50 << 20))
    assert len(bomb) < 1 << 20
    file = Counted(bomb)
    assert holds_document(file, b"word/")
    assert file.count < 2 * len(bomb)


def test_directory_over_its_limit_is_not_read() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("[Content_Types].xml", b"")
        for number in range(20_000):
            packed.writestr(f"word/{number:060}", b"")
    file = Counted(out.getvalue())
    assert not holds_document(file, b"word/")
    assert file.count <= MOST_COMMENT_BYTES + 22 < MOST_DIRECTORY_BYTES


def test_long_comment_does_not_hide_the_directory() -> None:
    out = io.BytesIO(office("word"))
    with zipfile.ZipFile(out, "a") as packed:
        packed.comment = b"c" * MOST_COMMENT_BYTES
    assert holds_document(io.BytesIO(out.getvalue()), b"word/")


def test_head_is_enough_to_know_a_kind() -> None:
    for kind in KINDS.values():
        assert kind.begins(CONTENTS[kind.name][:HEAD_BYTES])
