"""Pieces that several operations share."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints


class Body(BaseModel):
    """What a client sends: of exactly these types; unknown fields are let be, as older clients send some."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Answer(BaseModel):
    """What the gateway sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Answer):
    msg: str


class Problem(Answer):
    """Every error."""

    msg: str = Field(description="For the person who reads it.")
    code: str = Field(description="Stable, for programs.")
    request_id: str
    retryable: bool = Field(description="Whether asking again is safe and may help.")
    position: int | None = Field(
        None, description="With `no_free_place`: the caller's place in the line, 1 for the next one."
    )


def zoned(moment: datetime) -> str:
    """Return ISO 8601 in UTC, with a Z: browsers read a time without zone as local."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    PlainSerializer(zoned, return_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]

# NUL cannot be stored by PostgreSQL, and nobody types it.
Text = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\x00]*$")]


# Names and such: nothing that ends a line, moves the cursor, or turns the direction of what follows.
LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$"
# Longer text: line breaks and tabs are meant.
PROSE = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*$"


class Query(BaseModel):
    """What a query string may say. Values arrive as text; unknown names, such as axios' slips, are let be."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def nested(pairs: Mapping[str, str], name: str = "params") -> dict[str, Any]:
    """Return the query with `params[page]=2` read as page=2, which wins: the frontend sends it by mistake."""
    inside = {
        key[len(name) + 1 : -1]: value
        for key, value in pairs.items()
        if key.startswith(f"{name}[") and key.endswith("]")
    }
    return {**pairs, **inside}


class StrayTimeout(Query):
    timeout: str | None = Field(None, description="Older pages send it by mistake; it changes nothing.")


class Paging(Query):
    page: int = Field(1, ge=1, le=1_000_000)
    limit: int = Field(20, ge=1, le=100)

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit
