"""One pass-through mount as GATEWAY_MOUNTS describes it."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backend.forms import BaseUrls, HttpVersion, Method, Seconds


class Mount(BaseModel):
    """One extra pass-through mount of GATEWAY_MOUNTS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str
    upstream: BaseUrls
    auth: Literal["required", "optional", "none"]
    methods: tuple[Method, ...] = ("GET",)
    max_body_mb: Annotated[float, Field(ge=0, le=10_240)] = 100
    timeout: Seconds = 60
    total: Seconds | None = None
    cookies: bool = False
    max_calls: Annotated[int | None, Field(ge=1, le=100_000)] = None
    http_version: HttpVersion | None = None
    websocket: bool = False
    max_sockets: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    max_message_mb: Annotated[float, Field(gt=0, le=1024)] = 16
    socket_idle: Seconds = 300
    socket_total: Seconds | None = None

    @model_validator(mode="after")
    def _handshakes_are_answered(self) -> Self:
        if self.websocket and "GET" not in self.methods:
            raise ValueError("websocket: needs GET among the methods, which handshakes have")
        return self

    @field_validator("prefix")
    @classmethod
    def _plain_path(cls, value: str) -> str:
        if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", value) or re.search(r"/\.{1,2}(/|$)", value):
            raise ValueError("needs the form /api/live")
        return value
