"""Retrieval: course material that may help the model with a question; a help, never a condition."""

import asyncio
import logging
import re
from dataclasses import dataclass

from backend.errors import GatewayError
from backend.services.dialects import json_object
from backend.services.forwarding import Forwarder, Upstream
from backend.services.policies import Timeouts

log = logging.getLogger("gateway.retrieval")

# The student waits for the first word meanwhile.
RETRIEVAL_SECONDS = 2.0
# A little less, so that the service's own failure is counted before the wait is given up.
TIMEOUTS = Timeouts(first_byte=1.8, idle=1.0, total=1.8)

MOST_HITS = 3
MOST_HIT_CHARACTERS = 1_200
MOST_SOURCE_CHARACTERS = 120

# A question as long as this asks about something; two Chinese characters count as a word.
LONG_QUESTION_WORDS = 12
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_CHINESE = re.compile("[\u3400-\u9fff]")
# Whole words, so that "it" in "write" or "doc" in "doctor" means nothing.
STUDY_WORDS = frozenset(
    _WORD.findall("""
    according analyse analyze answer article assignment book calculate chapter compare compute concept course
    curriculum define definition derive describe description diagram difference document documents equation
    exam example examples exercise explain explanation figure file files formula homework knowledge lecture
    lectures lesson material materials method module notes page pages paper pdf problem proof prove question
    reading reference section slide slides solution solve source steps summarise summarize summary syllabus
    table textbook theorem theory topic tutorial
    """)
)
_ASKING = re.compile(r"\b(?:what(?:'s| is| are| was| were| does)|why|how (?:do|does|did|to|is|can)|which)\b")
# What people ask about each other, not about the course.
_SMALL_TALK = re.compile(
    r"\b(?:how are you|how do you do|how is it going|what(?:'s| is) up|what(?:'s| is) your name)\b"
)
_STUDY_CHARACTERS = re.compile(
    "什么是|是什么|为什么|为何|如何|怎么|怎样|解释|说明|定义|概念|原理|区别|比较|总结|概括|章|节|课件|课程|课本|教材|讲义"
    "|讲座|资料|材料|文件|文档|笔记|作业|练习|考试|题|公式|定理|证明|推导|计算|例子|举例|根据|第几页"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage and where it comes from."""

    text: str
    source: str


def worth_looking_up(question: str) -> bool:
    """Tell whether a question may be about course material; greetings and thanks are not."""
    lower = question.lower()
    words = _WORD.findall(lower)
    if len(words) + len(_CHINESE.findall(question)) / 2 > LONG_QUESTION_WORDS:
        return True
    if _STUDY_CHARACTERS.search(question) or not STUDY_WORDS.isdisjoint(words):
        return True
    return bool(_ASKING.search(_SMALL_TALK.sub(" ", lower)))


def with_material(question: str, hits: tuple[Hit, ...]) -> str:
    """Return the model's input: the question, and below it a bounded amount of material."""
    if not hits:
        return question
    passages = [
        f"[{number}] {hit.source}: {hit.text}" if hit.source else f"[{number}] {hit.text}"
        for number, hit in enumerate(hits, 1)
    ]
    return "\n\n".join([question, "Course material that may help:", *passages])


class Retrieval:
    """Asks the retrieval service."""

    def __init__(self, forwarder: Forwarder, upstream: Upstream, seconds: float = RETRIEVAL_SECONDS) -> None:
        self._forwarder = forwarder
        self._upstream = upstream
        self._seconds = seconds

    async def hits(self, user_id: int, question: str) -> tuple[Hit, ...]:
        """Return the best passages, none when the service has none, is late or fails."""
        asked = {
            "question": question,
            "user_id": str(user_id),
            "personal_k": 3,
            "public_k": 2,
            "final_k": 5,
        }
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._forwarder.ask("POST", self._upstream, "/retriever", TIMEOUTS, asked)
            return found(json_object(answer.status, answer.content).get("hits"))
        except (GatewayError, TimeoutError) as error:
            log.info("no material for a question: %s", getattr(error, "code", "late"))
            return ()


def found(hits: object) -> tuple[Hit, ...]:
    """Return the first usable passages of an answer, each cut to its limit."""
    if not isinstance(hits, list):
        return ()
    usable = (_hit(hit) for hit in hits[:50])
    return tuple(hit for hit in usable if hit is not None)[:MOST_HITS]


def _hit(hit: object) -> Hit | None:
    if not isinstance(hit, dict):
        return None
    text = hit.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    source, page = hit.get("source"), hit.get("page_num")
    name = _plain(source, MOST_SOURCE_CHARACTERS) if isinstance(source, str) else ""
    if name and isinstance(page, int) and not isinstance(page, bool):
        name = f"{name}, page {page}"
    return Hit(_plain(text, MOST_HIT_CHARACTERS), name)


def _plain(text: str, most: int) -> str:
    """Return the beginning of a text; half a surrogate pair, which UTF-8 cannot hold, becomes a mark."""
    return text[: most * 2].strip()[:most].encode("utf-8", "replace").decode("utf-8")
