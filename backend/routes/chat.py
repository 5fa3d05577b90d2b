"""Conversations with the chat model, and the avatar session that speaks its answers."""

from flask import Blueprint

from backend.context import caller, gateway, inbound, tutor
from backend.operations import Raw, operation
from backend.request_fields import form, json_body, query
from backend.responses import GatewayResponse, StreamedResponse, answer
from backend.schemas.base import Message
from backend.schemas.chat import (
    ChatMessage,
    ChatOpened,
    ChatSummary,
    ModelActivated,
    ModelChoice,
    NewChat,
    OfChat,
    PeerSession,
    Question,
    Star,
    Starred,
    WholeAnswer,
)
from backend.services.answer_stream import AnswerStream
from backend.services.chats import asked_chat_id, chat_id_of
from backend.services.headers import Pair, first
from backend.shortcut import direct

chat = Blueprint("chat", __name__, url_prefix="/api")

EVENT_STREAM: list[Pair] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold events back until a page of them is full.
    (b"x-accel-buffering", b"no"),
]
EVENTS = Raw(
    ("text/event-stream",),
    {
        "type": "object",
        "description": "One event: a line that begins with `data: `, then one such object.",
        "properties": {
            "chunk": {"type": "string", "description": "Text to append."},
            "status": {"type": "string", "enum": ["streaming", "finished"]},
            "session_id": {"type": "integer", "description": "Of a conversation that this question began."},
        },
    },
)


@chat.post("/chat/new")
@operation("Open a conversation.", tag="chat", body=NewChat, answers={201: ChatOpened})
@direct
async def create() -> GatewayResponse:
    principal = await caller()
    new = await json_body(NewChat)
    return answer({"session_id": await gateway().chats.create(principal.user_id, new.title)}, 201)


@chat.get("/chat/history")
@operation(
    "List own conversations, the most recently used first.", tag="chat", answers={200: list[ChatSummary]}
)
@direct
async def history() -> GatewayResponse:
    principal = await caller()
    rows = await gateway().chats.history(principal.user_id)
    shown = [ChatSummary.model_validate(row, from_attributes=True) for row in rows]
    return answer([summary.model_dump(mode="json") for summary in shown])


@chat.get("/message/list")
@operation(
    "List what was said in an own conversation, oldest first.",
    tag="chat",
    query=OfChat,
    answers={200: list[ChatMessage]},
    errors=(400, 404),
)
@direct
async def messages() -> GatewayResponse:
    principal = await caller()
    chat_id = chat_id_of(query(OfChat).session_id)
    rows = await gateway().chats.messages(principal.user_id, chat_id)
    shown = [ChatMessage.model_validate(row, from_attributes=True) for row in rows]
    return answer([message.model_dump(mode="json") for message in shown])


@chat.post("/chat/<chat_id>/favorite")
@operation(
    "Star a conversation, or take its star away; one is starred at most.",
    tag="chat",
    body=Star,
    answers={200: Starred},
    errors=(404,),
)
@direct
async def favorite(chat_id: str) -> GatewayResponse:
    principal = await caller()
    number = chat_id_of(chat_id)
    starred = (await json_body(Star)).is_favorite
    await gateway().chats.set_favorite(principal.user_id, number, starred)
    msg = "The conversation is starred." if starred else "The conversation has no star any more."
    return answer({"msg": msg, "session_id": number, "is_favorite": starred})


@chat.delete("/chat/<chat_id>")
@operation("Delete a conversation with its messages.", tag="chat", answers={200: Message}, errors=(404,))
@direct
async def delete(chat_id: str) -> GatewayResponse:
    principal = await caller()
    await gateway().chats.delete(principal.user_id, chat_id_of(chat_id))
    return answer({"msg": "The conversation was deleted."})


@chat.post("/chat/stream")
@operation(
    "Ask a question and receive the answer as server-sent events.",
    tag="chat",
    form=Question,
    answers={200: EVENTS},
    errors=(404, 429, 502, 503, 504),
    description="A failure before the first of the text has a status of its own; a model that fails later is "
    "told of in the text. The last event is `finished`. Comment lines are signs of life.",
)
@direct
async def stream() -> GatewayResponse:
    _, answering = await _asked()
    return StreamedResponse(200, [*EVENT_STREAM], answering)


@chat.post("/chat")
@operation(
    "Older chat call: a JSON answer, or events when the Accept header asks for them.",
    tag="chat",
    form=Question,
    answers={200: (WholeAnswer, EVENTS)},
    errors=(404, 429, 502, 503, 504),
)
@direct
async def whole() -> GatewayResponse:
    question, answering = await _asked()
    if b"text/event-stream" in (first(inbound().headers, b"accept") or b"").lower():
        return StreamedResponse(200, [*EVENT_STREAM], answering)
    try:
        text = await answering.text()
    finally:
        await answering.aclose()
    seat = await gateway().sessions.seat_of((await caller()).user_id)
    session = seat.peer_session if seat is not None else None
    return answer({"text_input": question, "text_output": text, "rtc_session_id": session or 0})


async def _asked() -> tuple[str, AnswerStream]:
    """Ask what the form says, on behalf of the caller."""
    principal = await caller()
    question = await form(Question)
    await gateway().rate_limits.question(principal.user_id)
    chat_id = asked_chat_id(question.session_id)
    return question.message, await gateway().answering.ask(principal.user_id, chat_id, question.message)


@chat.post("/sessionid")
@operation(
    "Confirm the number of the own avatar session.",
    tag="webrtc",
    body=PeerSession,
    headers={"sessionid": "The same number; either is enough."},
    body_required=False,
    answers={200: None},
    description="The gateway knows it from the answer to the offer; the header `sessionid` may say it, too.",
)
@direct
async def confirm_session() -> GatewayResponse:
    principal = await caller()
    told: list[object] = []
    if inbound().body is not None and inbound().content_length != 0:
        told.append((await json_body(PeerSession)).sessionid)
    header = first(inbound().headers, b"sessionid")
    if header is not None:
        told.append(header.decode("latin-1"))
    await gateway().signalling.confirm(principal.user_id, tuple(told))
    return GatewayResponse(status=200)


@chat.post("/llm/activate")
@operation(
    "Have the chat service load another model.",
    tag="chat",
    access="tutor",
    body=ModelChoice,
    answers={200: ModelActivated},
    errors=(502, 503, 504),
)
@direct
async def activate() -> GatewayResponse:
    await tutor()
    choice = await json_body(ModelChoice)
    return answer({"message": await gateway().answering.model.activate(choice.model)})
