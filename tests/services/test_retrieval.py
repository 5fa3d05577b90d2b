import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.forwarding import Forwarder, Upstream
from backend.services.retrieval import (
    MOST_HIT_CHARACTERS,
    MOST_HITS,
    Hit,
    Retrieval,
    found,
    with_material,
    worth_looking_up,
)
from tests.support.chat_model import Retriever
from tests.support.peer import Exchange, Peer, until
from tests.support.upstream import client_of

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["text", "source", "page_num"]), inner),
)


@pytest.mark.parametrize(
    "question",
    [
        "Explain entropy",
        "what is a monad?",
        "How does photosynthesis work",
        "Why is the sky blue",
        "summarise chapter 3, please",
        "什么是熵",
        "请总结第三章",
        "这道题怎么做",
        "我想知道关于量子力学的一切内容请慢慢地告诉我好吗谢谢你",
        "I would like to hear more about the thing that we talked of yesterday evening",
    ],
)
def test_question_about_the_course_is_looked_up(question: str) -> None:
    assert worth_looking_up(question)


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Hi",
        "Hello there!",
        "thanks a lot",
        "How are you?",
        "What's up?",
        "What is your name?",
        "你好",
        "谢谢老师",
        "write me a joke",  # "it" is in it
        "my doctor smiled",  # "doc" is in it
        "Good morning, nice to meet you",
    ],
)
def test_small_talk_is_not_looked_up(question: str) -> None:
    assert not worth_looking_up(question)


def test_material_stands_below_the_question_and_is_bounded() -> None:
    hits = found([{"text": "x" * 5_000, "source": "y" * 500, "page_num": 3}] * 9)
    assert len(hits) == MOST_HITS
    prompt = with_material("Question", hits)
    assert prompt.startswith("Question\n\n")
    assert len(prompt) < 200 + MOST_HITS * (MOST_HIT_CHARACTERS + 150)
    assert with_material("Question", ()) == "Question"
    assert with_material("Q", (Hit("a", ""), Hit("b", "c"))).endswith("[1] a\n\n[2] c: b")


@given(Json)
def test_no_answer_of_the_service_does_harm(hits: object) -> None:
    usable = found(hits)
    assert len(usable) <= MOST_HITS
    with_material("q", usable).encode("utf-8")


def test_hits_without_text_are_passed_over() -> None:
    assert found([None, {}, {"text": 5}, {"text": " "}, {"text": " a ", "page_num": True}]) == (Hit("a", ""),)
    assert found({"text": "a"}) == ()
    assert found([{"text": "a\ud800", "source": "b", "page_num": 2}]) == (Hit("a?", "b, page 2"),)


FAILURES = {
    "500": (b"500 Internal Server Error", b'{"error":true,"message":"x"}'),
    "error with 200": (b"200 OK", b'{"status":"error"}'),
    "no JSON": (b"200 OK", b"<html>"),
    "null": (b"200 OK", b"null"),
    "no hits": (b"200 OK", b"{}"),
    "far too much": (b"200 OK", json.dumps({"hits": ["x" * 1100] * 1000}).encode()),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", FAILURES)
async def test_service_that_fails_brings_nothing(kind: str) -> None:
    status, body = FAILURES[kind]

    async def answer(exchange: Exchange) -> None:
        await exchange.reply(body, (b"Content-Type", b"application/json"), status=status)

    async with Peer(Retriever(answer=answer)) as peer, client_of("direct") as client:
        retrieval = Retrieval(Forwarder(client), Upstream.at("retrieval", peer.url))
        assert await retrieval.hits(1, "Explain entropy") == ()


@pytest.mark.asyncio
async def test_service_that_hangs_costs_a_bounded_wait_and_no_place() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.client_left()

    async with Peer(Retriever(answer=answer)) as peer, client_of("direct") as client:
        retrieval = Retrieval(Forwarder(client), Upstream.at("retrieval", peer.url), seconds=0.1)
        async with asyncio.timeout(5):
            assert await retrieval.hits(1, "Explain entropy") == ()
        await until(lambda: client.slots.in_use == 0)
