import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.file_names import (
    MOST_CHARACTERS,
    MOST_NAMESAKES,
    beginning_of_all,
    extension_of,
    meant,
    numbered,
    safe_name,
)
from backend.services.headers import check_target

HOSTILE = st.sampled_from(
    ["/", "\\", "..", ".", "\x00", "\u202e", '"', "'", "`", "%2e", "%00", " ", "\u200b", "#"]
)
NAMES = st.lists(HOSTILE | st.text(max_size=20), max_size=40).map("".join) | st.text(max_size=400)


def as_the_frontend_writes_it(name: str) -> str:
    """A path as browsers make it of a name that nobody encoded: all but `%` is, and `#` and `?` end it."""
    return quote(name.partition("#")[0].partition("?")[0], safe="!$&'()*+,;=:@%/")


@given(NAMES, st.sampled_from(["", ".pdf", ".TXT", ".docx"]))
def test_any_name_becomes_a_plain_one(claimed: str, extension: str) -> None:
    name = safe_name(claimed + extension)
    assert 0 < len(name) <= MOST_CHARACTERS
    assert not set(name) & set("/\\\"'`\x00")
    assert not any(unicodedata.category(c)[0] == "C" for c in name)
    assert name == unicodedata.normalize("NFC", name).strip(" .").lstrip("#?")
    assert "%2e" not in name.lower()
    if extension:
        assert name.endswith(extension)


@given(NAMES)
def test_plain_name_stays_as_it_is(claimed: str) -> None:
    name = safe_name(claimed)
    assert safe_name(name) == name


@given(NAMES, st.integers(2, MOST_NAMESAKES))
def test_numbered_name_is_plain_short_and_found_by_its_beginning(claimed: str, number: int) -> None:
    name = safe_name(claimed + ".pdf")
    another = numbered(name, number)
    assert another != name
    assert another.endswith(f" ({number}).pdf")
    assert len(another) <= MOST_CHARACTERS
    assert name.startswith(beginning_of_all(name))
    assert another.startswith(beginning_of_all(name))


@given(NAMES, st.lists(NAMES.map(safe_name), max_size=3))
def test_what_arrives_in_an_address_means_the_file_that_was_clicked(claimed: str, others: list[str]) -> None:
    name = safe_name(claimed + ".txt")
    path = as_the_frontend_writes_it(name)
    check_target(b"/api/upload/" + path.encode("ascii"))
    found = meant(unquote(path), [*others, name])
    if not set(name) & set("#?"):
        assert found == name
    else:
        assert path
        assert found is None or found == name or found in others


@pytest.mark.parametrize(
    ("claimed", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ada\\notes.txt", "notes.txt"),
        ("con.txt", "_con.txt"),
        ("LPT1.pdf", "_LPT1.pdf"),
        ("nul .tar.pdf", "_nul .tar.pdf"),
        ("...hidden.pdf", "hidden.pdf"),
        (".pdf", "file.pdf"),
        ("#?. #1.pdf", "1.pdf"),
        ("", "file"),
        ("notes.pdf. . .", "notes.pdf"),
        ("invoice\u202efdp.txt", "invoicefdp.txt"),
        ("a\u200bb\x00c\r\nd.txt", "abc d.txt"),
        ("%2e%2e%2fetc.txt", "_2e_2e_2fetc.txt"),
        ("100%.txt", "100%.txt"),
        ('Newton\'s "laws".pdf', "Newtons laws.pdf"),
        ("e\u0301te\u0301.txt", "\u00e9t\u00e9.txt"),
        ("光速\u3000 报告.docx", "光速 报告.docx"),
        ("x" * 10_000 + ".pdf", "x" * 146 + ".pdf"),
        ("x" * 10_000, "x" * 150),
    ],
)
def test_hostile_name_loses_what_is_hostile(claimed: str, name: str) -> None:
    assert safe_name(claimed) == name


@pytest.mark.parametrize(
    ("name", "extension"),
    [("A.PDF", ".pdf"), ("a.tar.gz", ".gz"), ("none", ""), ("a.", ""), ("a.verylongextension", "")],
)
def test_extension_is_what_follows_the_last_dot(name: str, extension: str) -> None:
    assert extension_of(name) == extension


@pytest.mark.parametrize(
    ("received", "names", "found"),
    [
        ("a b", ["a b#1.txt"], "a b#1.txt"),
        ("a b", ["a b?1.txt"], "a b?1.txt"),
        ("a b", ["a b", "a b#1.txt"], "a b"),
        ("a b", ["a b#1.txt", "a b#2.txt"], None),
        ("a b", ["a bc.txt"], None),
        ("", ["#1.txt"], None),
        ("e\u0301.txt", ["\u00e9.txt"], "\u00e9.txt"),
        ("a b#1.txt", ["a b#1.txt", "a b#2.txt"], "a b#1.txt"),
    ],
)
def test_cut_name_is_only_completed_when_one_file_fits(
    received: str, names: list[str], found: str | None
) -> None:
    assert meant(received, names) == found
