from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.demo.tutor import CONVERSATIONS_KEPT, QUESTION_LETTERS_KEPT, Prompt, Tutor
from backend.demo.words import chinese


@pytest.fixture
def tutor() -> Tutor:
    return Tutor.taught()


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Why is the sky blue?", "wavelength"),
        ("Tell me about Newton and forces", "acceleration"),
        ("what is a derivative", "slope"),
        ("Pythagoras, please", "a² + b² = c²"),
        ("How do I write a recursive function in Python?", "fact(n - 1)"),
        ("history of printing", "Gutenberg"),
        ("How can I learn vocabulary?", "sentences"),
        ("What does the avatar gateway do?", "event loop"),
        ("天空为什么是蓝色的？", "波长"),
        ("牛顿第二定律是什么？", "加速度"),
        ("什么是导数？", "斜率"),
        ("勾股定理怎么证明？", "三角形"),
        ("解释一下递归", "阶乘"),
        ("印刷术是谁发明的？", "毕昇"),
        ("怎么背单词？", "句子"),
        ("数字人网关有什么用？", "事件循环"),
    ],
)
def test_question_gets_its_lesson_in_its_own_language(tutor: Tutor, question: str, word: str) -> None:
    answer = tutor.answer(question, "1")
    assert word in answer
    assert chinese(answer) is chinese(question)


def test_second_question_on_a_topic_goes_on_from_the_first(tutor: Tutor) -> None:
    first = tutor.answer("Why is the sky blue?", "1")
    second = tutor.answer("And the colour of the sky in the evening?", "1")
    assert second.startswith("As I said before: Sunlight holds")
    assert "orange and red" in second
    assert "orange and red" not in first
    tutor.answer("递归是什么", "1")
    assert tutor.answer("再说说递归", "1").startswith("正如我前面说过的：")


def test_question_that_only_goes_on_stays_with_the_last_topic(tutor: Tutor) -> None:
    tutor.answer("Tell me about recursion", "1")
    assert "stack" in tutor.answer("Can you give me an example?", "1")
    tutor.answer("什么是导数？", "2")
    assert "链式法则" in tutor.answer("请继续", "2")


def test_tutor_tells_what_was_asked(tutor: Tutor) -> None:
    assert "first thing" in tutor.answer("What did I ask?", "1")
    tutor.answer("Why is the sky blue?", "1")
    tutor.answer("什么是导数？", "1")
    assert "Why is the sky blue?; then: 什么是导数？" in tutor.answer("What did I just ask you?", "1")
    assert "Why is the sky blue?" in tutor.answer("我刚才问了什么？", "1")


def test_memory_is_by_session_alone(tutor: Tutor) -> None:
    tutor.answer("Why is the sky blue?", "one")
    assert not tutor.answer("Why is the sky blue?", "two").startswith("As I said")


def test_oldest_conversation_is_forgotten_and_long_questions_are_cut(tutor: Tutor) -> None:
    tutor.answer("sky " * 5000, "oldest")
    assert len(tutor.answer("What did I ask?", "oldest")) < 2 * QUESTION_LETTERS_KEPT
    for number in range(CONVERSATIONS_KEPT):
        tutor.answer("sky", str(number))
    assert tutor.conversations == CONVERSATIONS_KEPT
    assert "first thing" in tutor.answer("What did I ask?", "oldest")


def test_greeting_is_returned_and_the_unknown_admitted(tutor: Tutor) -> None:
    assert tutor.answer("Hello!", "1").startswith("Hello!")
    assert tutor.answer("你好", "2").startswith("你好")
    assert "“Zugzwang?”" in tutor.answer("Zugzwang?", "3")


QUESTION = "When are the office hours of the course?"
PASSAGES = (
    "[1] gateway-notes.txt: A sign-in lasts five hours.\n\n"
    "[2] course-handbook.txt (page 1): It runs for twelve weeks. Office hours are on Tuesday from 14:00."
)


@pytest.mark.parametrize(
    "text",
    [
        f"{QUESTION}\n\nCourse material that may help:\n\n{PASSAGES}",
        f"{QUESTION}\n[Reference documents]\n{PASSAGES}",
        f"Context:\n{PASSAGES}\n\nQuestion: {QUESTION}",
        f"参考资料：\n{PASSAGES}\n问题：{QUESTION}",
    ],
)
def test_sentence_of_the_material_that_fits_is_quoted_with_its_file(tutor: Tutor, text: str) -> None:
    answer = tutor.answer(text, "1")
    assert "“Office hours are on Tuesday from 14:00.” (course-handbook.txt)" in answer
    assert Prompt.parse(text).question == QUESTION


@pytest.mark.parametrize("page", ["", ", page 3", " (p. 3)", "（第3页）"])
def test_file_may_have_blanks_in_its_name_and_a_page_behind_it(tutor: Tutor, page: str) -> None:
    text = f"What is teal?\n\nCourse material that may help:\n\n[1] a b#1.txt{page}: Teal is a colour."
    assert "“Teal is a colour.” (a b#1.txt)" in tutor.answer(text, "1")


def test_chinese_material_is_quoted_in_chinese(tutor: Tutor) -> None:
    text = (
        "物理考试什么时候？\n\nCourse material that may help:\n\n[1] 学习手册.txt: 物理考试在六月二十四日。"
    )
    assert "“物理考试在六月二十四日。”（学习手册.txt）" in tutor.answer(text, "1")


def test_material_that_does_not_fit_is_left_alone(tutor: Tutor) -> None:
    text = "Why is the sky blue?\n\nCourse material that may help:\n\n[1] a.txt: Homework is due on Friday."
    assert tutor.answer(text, "1").startswith("Sunlight")


def test_language_is_that_of_the_question_not_of_the_material(tutor: Tutor) -> None:
    text = "Why is the sky blue?\n\nCourse material that may help:\n\n[1] a.txt: 作业每周五提交。"
    assert not chinese(tutor.answer(text, "1"))


def test_question_of_several_lines_is_no_material() -> None:
    text = "I have two questions.\nWhich source should I read?\nAnd when?"
    assert Prompt.parse(text) == Prompt(text)


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_is_answered(text: str, material: str) -> None:
    tutor = Tutor.taught()
    assert tutor.answer(text, "1")
    assert tutor.answer(f"{text}\n\nCourse material:\n\n{material}", "1")
