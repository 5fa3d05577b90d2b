"""A pass-through mount, as GATEWAY_MOUNTS says it."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

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

    @field_validator("prefix")
    @classmethod
    def _plain_path(cls, value: str) -> str:
        if not re.fullmatch(r"(/[A-Za-z0-9_.~-]+)+", value) or re.search(r"/\.{1,2}(/|$)", value):
            raise ValueError("needs the form /api/live")
        return value
