from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.demo.words import chinese, pieces, sentences, terms


@given(st.text())
def test_pieces_of_any_text_joined_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


def test_pieces_are_words_and_one_or_two_characters() -> None:
    assert pieces("Why is it 9.8?") == ["Why", " is", " it", " 9", ".", "8", "?"]
    assert pieces("天空是蓝的。") == ["天空", "是蓝", "的", "。"]


def test_terms_are_words_without_their_plural_and_pairs_of_characters() -> None:
    assert terms("The forces OF a class") == {"force", "class"}
    assert terms("天空很蓝") == {"天空", "空很", "很蓝"}
    assert terms("为什么？") == frozenset()


@pytest.mark.parametrize(("text", "is_chinese"), [("hello", False), ("hello 世界", True), ("naïve", False)])
def test_language_is_that_of_any_character(text: str, is_chinese: bool) -> None:
    assert chinese(text) is is_chinese


def test_sentences_end_at_signs_of_both_languages_and_not_inside_numbers() -> None:
    text = "It falls 4.9 m. Is that so?\n是的。再见！ Room 2.17"
    assert sentences(text) == ["It falls 4.9 m.", "Is that so?", "是的。", "再见！", "Room 2.17"]


@given(st.text(alphabet=".!?。 \na天"))
def test_sentences_lose_nothing_but_blanks_and_stray_signs(text: str) -> None:
    kept = "".join(sentences(text))
    assert [letter for letter in kept if letter in "a天"] == [letter for letter in text if letter in "a天"]
