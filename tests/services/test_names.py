import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadRequest
from backend.services.names import avatar_name


@pytest.mark.parametrize("name", ["Ada Demo", "Sara_Okafor", "a", "x-1", "_x", "9", "test_yongen", "A" * 64])
def test_names_in_use_pass(name: str) -> None:
    assert avatar_name(f" {name}\n", "name") == name


@pytest.mark.parametrize(
    "name",
    [
        "..", ".", "a.b", "a/b", "a\\b", "a\nb", "a\tb", "a\x00b", "a;b", "a$b", "a`b", "a'b", 'a"b', "a&b",
        "-a", "--a", "é", "数字", "a\u202eb", "a\u200bb", "Ａ", "٣", "a\u00a0b", "A" * 65, "a:b", "~", "*",
        "%2e", "token",
    ],
)  # fmt: skip
def test_names_with_a_meaning_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=r"^avatar_name"):
        avatar_name(name, "avatar_name")


@pytest.mark.parametrize("name", [None, "", " ", "\n\t"])
def test_missing_name_says_which_field(name: str | None) -> None:
    with pytest.raises(BadRequest, match=r"^prompt is missing\.$"):
        avatar_name(name, "prompt")


@settings(deadline=None)
@given(st.text(max_size=80))
def test_what_passes_is_plain(text: str) -> None:
    try:
        name = avatar_name(text, "name")
    except BadRequest:
        return
    assert re.fullmatch(rb"[A-Za-z0-9_][A-Za-z0-9_ -]*", name.encode())
    assert len(name) <= 64
