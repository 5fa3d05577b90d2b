"""Conversations: what is asked, listed and answered."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backend.schemas.base import Answer, Body, Moment, Query, Text

QUESTION_CHARACTERS = 16_000

# What the frontend was given as the id of a conversation; forms and queries bring it as digits.
ChatId = Annotated[int | str | None, Field(description="Digits.")]


class NewChat(Body):
    title: Text | None = Field(None, description="Cut to 120 characters; missing or empty: New Chat.")


class ChatOpened(Answer):
    session_id: int


class ChatSummary(Answer):
    id: int
    title: str | None
    created_at: Moment
    updated_at: Moment
    message_count: int
    is_favorite: bool


class ChatMessage(Answer):
    role: str = Field(description="user or assistant")
    content: str | None
    created_at: Moment
    file_type: str | None
    file_path: str | None


class OfChat(Query):
    session_id: str = Field(description="Id of an own conversation.")


class Star(Body):
    is_favorite: bool = True


class Starred(Answer):
    msg: str
    session_id: int
    is_favorite: bool


class Question(Body):
    message: Annotated[Text, StringConstraints(min_length=1, max_length=QUESTION_CHARACTERS)]
    session_id: ChatId = None


class WholeAnswer(Answer):
    text_input: str
    text_output: str
    rtc_session_id: int = Field(description="Number of the live avatar session, 0 without one.")


class PeerSession(Body):
    sessionid: int | str = Field(description="The number from the answer to the offer, or its digits.")


class ModelChoice(Body):
    model: Annotated[Text, StringConstraints(min_length=1, max_length=200)]


class ModelActivated(Answer):
    message: str
