import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.sentences import MOST_CHARACTERS, Sentences


def cut(*pieces: str, most: int = MOST_CHARACTERS) -> list[str]:
    sentences = Sentences(most)
    return [sentence for piece in pieces for sentence in sentences.feed(piece)] + sentences.flush()


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("你好。今天我们学习熵！好吗？好", ["你好。", "今天我们学习熵！", "好吗？", "好"]),
        ("“好。”他说。", ["“好。”", "他说。"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Dr. Chen knows e.g. 3.14 and pi. Really.", ["Dr. Chen knows e.g. 3.14 and pi.", "Really."]),
        ("It takes 2.5 s, i.e. long. See Fig. 3.", ["It takes 2.5 s, i.e. long.", "See Fig. 3."]),
        ("J. S. Bach wrote it. Fine.", ["J. S. Bach wrote it.", "Fine."]),
        ("The answer is 42. Next.", ["The answer is 42.", "Next."]),
        ("1. First\n2. Second\n", ["1. First", "2. Second"]),
        ("Wait... what?! Yes.", ["Wait...", "what?!", "Yes."]),
        ("Visit example.com or a.b.c now. Bye", ["Visit example.com or a.b.c now.", "Bye"]),
        ("**Bold**, *soft* and `code`.\n# Title\n", ["Bold, soft and code.", "Title"]),
        ("* 2*3 = 6\n- a_b ~~c~~\n", ["2*3 = 6", "a_b c"]),
        ("\n\n - \n *** \n ... \n", []),
        ("", []),
    ],
)
def test_text_is_cut_where_a_sentence_ends(text: str, sentences: list[str]) -> None:
    assert cut(text) == sentences


def test_sentence_is_given_away_as_soon_as_it_is_whole() -> None:
    sentences = Sentences()
    assert sentences.feed("One") == []
    assert sentences.feed(".") == []  # perhaps 1.5
    assert sentences.feed(" T") == ["One."]
    assert sentences.feed("wo。") == []  # perhaps a closing quote
    assert sentences.feed("三") == ["Two。"]


def test_text_without_an_end_is_cut_at_a_pause_a_space_or_its_limit() -> None:
    assert cut("first part, second part goes on", most=20) == ["first part,", "second part goes on"]
    assert cut("one two three four five", most=12) == ["one two", "three four", "five"]
    assert cut("学" * 25, most=10) == ["学" * 10, "学" * 10, "学" * 5]
    assert cut("量子力学是现代物理，它描述微观", most=12) == ["量子力学是现代物理，", "它描述微观"]


LIKELY = st.text(st.sampled_from(list('aB1 .!?;,，。！？；…\n"”)」Dr学é-*')), max_size=120)


@given(LIKELY, st.data())
def test_sentences_do_not_depend_on_how_the_text_arrives(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert cut(*pieces, most=15) == cut(text, most=15) == cut(*text, most=15)


@given(LIKELY)
def test_nothing_that_can_be_said_is_lost_and_nothing_is_too_long(text: str) -> None:
    sentences = cut(text, most=15)
    assert all(0 < len(sentence) <= 15 for sentence in sentences)
    said = "".join(filter(str.isalnum, "".join(sentences)))
    assert said == "".join(filter(str.isalnum, text))
