"""The demo model's mind: which canned lesson a question gets, and what it remembers of a conversation."""

from __future__ import annotations

import json
import re
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.demo.words import chinese, sentences, terms

LESSONS = Path(__file__).with_name("lessons.json")
# Older conversations are forgotten first, and of each only the end is kept.
CONVERSATIONS_KEPT = 1000
QUESTIONS_KEPT = 8
QUESTION_LETTERS_KEPT = 80
QUOTE_LETTERS = 240
# A sentence that shares so many terms is an answer, and no lesson is given on top.
ANSWERING_TERMS = 2

# A gateway may put what it found beside the question, under a line that says so.
_MATERIAL = re.compile(
    r"^.{0,160}(?:reference|material|context|excerpt|passage|source|document|knowledge|资料|参考|文档|材料|知识库)"
    r".{0,160}[:：\]】][ \t]{0,9}$",
    re.IGNORECASE | re.MULTILINE,
)
_QUESTION = re.compile(r"^\W*(?:(?:user'?s? )?question|用户问题|问题)\W*[:：]", re.IGNORECASE | re.MULTILINE)
# `[1] the handbook.pdf, page 3:` in front of a passage.
_LABEL = re.compile(r"\[\d+\]\s*(?P<file>[^:：]{0,200}?)(?:[\s,，(（]+(?:page|p\.|第)[^:：]{0,20})?[:：]\s")
_FILE = re.compile(
    r"[^\s\[\](){}<>\"'“”,;:：（）《》【】]+\.(?:pdf|txt|docx?|md|pptx?|xlsx?)\b", re.IGNORECASE
)
_RECALL = re.compile(
    r"did i (?:just )?ask|do you remember|我(?:刚才|之前|前面).{0,4}问|还记得", re.IGNORECASE
)
_GREETING = re.compile(r"\W*(?:hello|hi|hey|good (?:morning|evening)|你好|您好|早上好)\b", re.IGNORECASE)
_ONWARD = re.compile(
    r"\b(?:more|go on|continue|example|why|explain)\b|继续|更多|再|为什么|例子|解释", re.IGNORECASE
)

SAYINGS = {
    "en": {
        "greeting": "Hello! I am the tutor of the demo. Ask me about physics, maths, programming, history,"
        " languages, or the avatar gateway itself.",
        "recalled": "You asked me: {}.",
        "nothing": "This is the first thing you ask me here.",
        "before": "As I said before: {} Now a step further.",
        "quote": "In the course material I read: “{}”{}",
        "enough": "If that is not what you wanted to know, tell me which word of it is unclear.",
        "source": " ({})",
        "unknown": "You ask: “{}” I have no lesson on that, for I am only the demo's model, but here is how I"
        " would begin. Say in one sentence what you know for certain. Then name the one word in the question"
        " that you could not explain to a friend, and look that up first.",
        "join": "; then: ",
        "space": " ",
    },
    "zh": {
        "greeting": "你好！我是演示用的导师。可以问我物理、数学、编程、历史、语言学习，或者数字人网关本身。",
        "recalled": "你问过我：{}。",
        "nothing": "这是你在这里问我的第一个问题。",
        "before": "正如我前面说过的：{}现在更进一步。",
        "quote": "我在课程资料里读到：“{}”{}",
        "enough": "如果这不是你想知道的，请告诉我哪个词不清楚。",
        "source": "（{}）",
        "unknown": "你问的是：“{}”我只是演示用的模型，没有准备这一课，不过我会这样开始：先用一句话说出"
        "你确定知道的；再找出问题里你没法讲给朋友听的那个词，先把它查清楚。",
        "join": "；然后：",
        "space": "",
    },
}


@dataclass(frozen=True)
class Words:
    """A lesson in one language."""

    title: str
    first: str
    more: str
    ask: str


@dataclass(frozen=True)
class Lesson:
    """A lesson in both languages, and the terms that lead to it."""

    name: str
    terms: frozenset[str]
    words: dict[str, Words]


@dataclass
class Conversation:
    """What is remembered of one session."""

    questions: deque[str] = field(default_factory=lambda: deque(maxlen=QUESTIONS_KEPT))
    taught: Counter[str] = field(default_factory=Counter)
    last: Lesson | None = None


@dataclass(frozen=True)
class Quote:
    """A sentence of some file, and how many terms it shares with the question."""

    sentence: str
    file: str
    shared: int


@dataclass(frozen=True)
class Prompt:
    """A question, and the material that came with it."""

    question: str
    material: str = ""

    @classmethod
    def parse(cls, text: str) -> Prompt:
        """Tell the question from what somebody put before or behind it."""
        label = _QUESTION.search(text)
        heading = _MATERIAL.search(text)
        if label is not None and heading is not None and heading.start() < label.start():
            return cls(text[label.end() :].strip(), text[heading.end() : label.start()].strip())
        behind = text.find("\n")
        heading = _MATERIAL.search(text, behind + 1) if behind >= 0 else None
        if heading is None or not text[: heading.start()].strip():
            return cls(text.strip())
        return cls(text[: heading.start()].strip(), text[heading.end() :].strip())

    def quote(self) -> Quote | None:
        """The sentence of the material that shares most with the question, if any shares anything."""
        asked = terms(self.question)
        file, best = "", None
        for line in self.material.splitlines():
            label = _LABEL.match(line)
            named = _FILE.search(line)
            file = label["file"] if label else named[0] if named else file
            for sentence in sentences(line[label.end() :] if label else line):
                shared = len(asked & terms(sentence))
                if shared > (best.shared if best else 0):
                    best = Quote(sentence[:QUOTE_LETTERS], file, shared)
        return best


class Tutor:
    """Answers in the language of the question."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self._lessons = lessons
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Tutor {len(self._lessons)} lessons, {len(self._conversations)} conversations>"

    @classmethod
    def taught(cls) -> Tutor:
        """A tutor with the demo's lessons."""
        return cls([_lesson(**entry) for entry in json.loads(LESSONS.read_text("utf-8"))])

    @property
    def conversations(self) -> int:
        return len(self._conversations)

    def answer(self, text: str, session: str) -> str:
        """Say something to a question, and remember that it was asked."""
        prompt = Prompt.parse(text)
        conversation = self._conversation(session)
        tongue = "zh" if chinese(prompt.question) else "en"
        quote = prompt.quote()
        said = [_quoted(quote, tongue)] if quote else []
        if quote and quote.shared >= ANSWERING_TERMS:
            said.append(SAYINGS[tongue]["enough"])
        else:
            said += self._said(prompt.question, conversation, tongue)
        conversation.questions.append(prompt.question[:QUESTION_LETTERS_KEPT])
        return SAYINGS[tongue]["space"].join(said)

    def _conversation(self, session: str) -> Conversation:
        conversation = self._conversations.pop(session, None) or Conversation()
        self._conversations[session] = conversation
        if len(self._conversations) > CONVERSATIONS_KEPT:
            self._conversations.popitem(last=False)
        return conversation

    def _said(self, question: str, conversation: Conversation, tongue: str) -> list[str]:
        sayings = SAYINGS[tongue]
        if _RECALL.search(question):
            asked = sayings["join"].join(conversation.questions)
            return [sayings["recalled"].format(asked) if asked else sayings["nothing"]]
        lesson = self._fitting(question)
        if lesson is None and conversation.last is not None and _ONWARD.search(question):
            lesson = conversation.last
        if lesson is not None:
            return self._taught(lesson, conversation, tongue)
        if _GREETING.match(question):
            return [sayings["greeting"]]
        return [sayings["unknown"].format(question[:QUESTION_LETTERS_KEPT])]

    def _fitting(self, question: str) -> Lesson | None:
        asked = terms(question)
        best = max(self._lessons, key=lambda lesson: len(asked & lesson.terms))
        return best if asked & best.terms else None

    @staticmethod
    def _taught(lesson: Lesson, conversation: Conversation, tongue: str) -> list[str]:
        words = lesson.words[tongue]
        again = conversation.taught[lesson.name]
        conversation.taught[lesson.name] += 1
        conversation.last = lesson
        if not again:
            return [words.first, words.ask]
        return [SAYINGS[tongue]["before"].format(sentences(words.first)[0]), words.more, words.ask]


def _quoted(quote: Quote, tongue: str) -> str:
    source = SAYINGS[tongue]["source"].format(quote.file) if quote.file else ""
    return SAYINGS[tongue]["quote"].format(quote.sentence, source)


def _lesson(name: str, keywords: Sequence[str], en: dict[str, str], zh: dict[str, str]) -> Lesson:
    return Lesson(name, terms(" ".join(keywords)), {"en": Words(**en), "zh": Words(**zh)})
