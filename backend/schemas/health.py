"""What the gateway tells of its own state."""

from typing import Literal

from pydantic import Field

from backend.schemas.base import Answer


class Alive(Answer):
    status: Literal["ok"]
    service: str


class Ready(Answer):
    status: Literal["healthy", "degraded", "unhealthy"]
    service: str
    checks: dict[str, str] = Field(description='By dependency: "ok", or what is wrong with it.')
