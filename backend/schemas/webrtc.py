"""Signalling: what a page and an avatar instance tell each other through the gateway."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.schemas.avatar import File

SessionId = Annotated[int, Field(description="Six digits, from the answer to the offer.")]


class FromInstance(BaseModel):
    """The instance's own answer; it may say more."""

    model_config = ConfigDict(extra="allow")


class Offer(BaseModel):
    sdp: str
    type: Literal["offer"]


class Agreed(FromInstance):
    sdp: str
    type: str | None = None
    sessionid: int | None = None


class OfSession(BaseModel):
    sessionid: SessionId


class Speech(OfSession):
    type: Literal["echo", "chat"] = Field(description="echo says the text, chat lets the instance answer it.")
    text: str
    interrupt: bool = False


class Sound(OfSession):
    file: File = Field(description="wav; the whole form may have 101 MB.")


class Recording(OfSession):
    type: Literal["start_record", "end_record"]


class AudioType(OfSession):
    audiotype: int
    reinit: bool


class Outcome(FromInstance):
    code: int = Field(description="0: done.")
    msg: str | None = None
    data: bool | None = None


class InstanceHealth(FromInstance):
    status: str
    service: str | None = None
    sessions: int | None = None
    max_sessions: int | None = None
