"""Words of English and Chinese text: what it is about, where it can be cut."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Han ideographs with the first extension; the demo's answers need no more.
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_RUN = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+")
_CHINESE = re.compile(rf"[{_HAN}]")
# What a model would make in one step: a word with the blank before it, one or two characters, a sign.
_PIECE = re.compile(rf"\s*(?:[{_HAN}]{{1,2}}|[^\W{_HAN}]+|\S)|\s+")
_SENTENCE = re.compile(r"[^.!?。！？\n]+(?:[.!?](?!\s|$)[^.!?。！？\n]*)*[.!?。！？]?")

# They are in every text, so they say nothing of what it is about.
_EVERYWHERE = frozenset(
    """
    a about am an and are as at be but by can could do does did for from has have how i if in is it its me my
    of on or our please should so tell than that the their them then there these they this to us was we were
    what when where which who why will with would you your
    什么 为什 怎么 怎样 如何 请问 可以 是什 的是 一个 这个 那个 我们 你们 我的 你的 告诉 诉我
    """.split()  # noqa: SIM905 - seventy quoted words would not be read
)


def chinese(text: str) -> bool:
    """Whether a text has Chinese in it."""
    return _CHINESE.search(text) is not None


def terms(text: str) -> frozenset[str]:
    """What a text is about: its words in lower case, and pairs of Chinese characters."""
    return frozenset(term for term in _terms(text.lower()) if term not in _EVERYWHERE)


def pieces(text: str) -> list[str]:
    """Cut a text as a model makes it; joined again they are the text."""
    return _PIECE.findall(text)


def sentences(text: str) -> list[str]:
    return [sentence for match in _SENTENCE.findall(text) if (sentence := match.strip())]


def _terms(text: str) -> Iterator[str]:
    for run in _RUN.findall(text):
        if not chinese(run):
            # "forces" is about the same as "force", and "ss" is no plural.
            yield run[:-1] if len(run) > 3 and run.endswith("s") and not run.endswith("ss") else run
        elif len(run) == 1:
            yield run
        else:
            yield from (run[place : place + 2] for place in range(len(run) - 1))
