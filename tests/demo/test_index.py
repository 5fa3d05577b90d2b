from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.demo import index
from backend.demo.index import CHUNK_LETTERS, PUBLIC, Document, Index, IndexFull, decoded, passages


def indexed(**texts: str) -> Index:
    made = Index()
    for owner_and_source, text in texts.items():
        owner, _, source = owner_and_source.partition("_")
        made.put("" if owner == "public" else owner, Document.of_text(source, text))
    return made


def test_passage_that_shares_most_with_the_question_comes_first() -> None:
    made = indexed(
        public_physics="A force changes motion. Gravity is a force.",
        public_cooking="Salt the water before the pasta.",
    )
    hits = made.find("Which force is gravity?", "7", 5)
    assert [hit.source for hit in hits] == ["physics"]
    assert 0 < hits[0].likeness <= 1


def test_chinese_is_found_by_pairs_of_characters() -> None:
    made = indexed(public_a="重力是一种力。", public_b="盐要先放。")
    assert [hit.source for hit in made.find("什么是重力？", "7", 5)] == ["a"]


def test_users_find_their_own_and_everybodys_and_nobody_elses() -> None:
    made = indexed(public_open="teal is a colour", one_mine="teal is mine", two_theirs="teal is theirs")
    found = {hit.source: hit.public for hit in made.find("teal", "one", 5)}
    assert found == {"open": True, "mine": False}
    assert made.owners() == ["one", "two"]


def test_no_more_are_found_than_asked_for() -> None:
    made = indexed(**{f"public_{number}": "teal" for number in range(9)})
    assert [len(made.find("teal", "1", most)) for most in (-1, 0, 3, 100)] == [0, 0, 3, 9]


def test_taken_document_is_found_no_more() -> None:
    made = indexed(one_a="teal")
    assert made.take("one", "a") is not None
    assert made.take("one", "a") is None
    assert (made.find("teal", "one", 5), made.sources("one"), made.owners()) == ([], [], [])


def test_document_of_the_same_name_takes_the_place_of_the_former() -> None:
    made = indexed(public_a="teal")
    made.put(PUBLIC, Document.of_text("a", "crimson"))
    assert made.sources(PUBLIC) == ["a"]
    assert made.find("teal", "1", 5) == []


def test_index_is_full_at_so_many_documents_or_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "DOCUMENTS", 2)
    made = indexed(one_a="x", two_b="y")
    with pytest.raises(IndexFull):
        made.put("one", Document.of_text("c", "z"))
    made.put("one", Document.of_text("a", "again"))
    monkeypatch.setattr(index, "TEXT_LETTERS", 10)
    with pytest.raises(IndexFull):
        made.put("one", Document.of_text("a", "longer than ten"))
    assert made.find("again", "one", 1)


@given(st.text())
def test_passages_are_short_and_pages_are_numbered(text: str) -> None:
    document = Document.of_text("a", text)
    assert all(0 < len(chunk.text) <= CHUNK_LETTERS for chunk in document.chunks)
    assert all(1 <= chunk.page <= document.pages for chunk in document.chunks)


def test_passage_keeps_sentences_whole_where_it_can() -> None:
    sentence = "Twenty letters here."
    first, second = passages(" ".join([sentence] * 15))
    assert first.endswith("here.")
    assert second == sentence


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_text_is_read_in_the_encodings_that_people_use(encoding: str) -> None:
    assert decoded("天空是蓝的".encode(encoding)) == "天空是蓝的"


def test_character_that_is_cut_at_the_end_is_left_out() -> None:
    assert decoded("天空".encode()[:-1]) == "天"


@given(st.binary())
def test_any_bytes_have_a_text(begin: bytes) -> None:
    assert isinstance(decoded(begin), str)
