"""What tutors send and see in their console."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from backend.models.user import EMAIL_CHARACTERS
from backend.schemas.base import LINE, PROSE, Answer, Body, Moment, Paging, Query
from backend.schemas.user import Bio, Name, Phone

Role = Literal["student", "tutor"]
Status = Literal["active", "inactive", "banned"]
Email = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=3, max_length=EMAIL_CHARACTERS, pattern=LINE)
]
Sought = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200, pattern=LINE)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500, pattern=PROSE)]


def _flat(details: object) -> object:
    """Rows of a former database may hold anything; the frontend can show an object only."""
    return details if details is None or isinstance(details, dict) else {"details": details}


Details = Annotated[dict[str, Any] | None, BeforeValidator(_flat)]


class UsersQuery(Paging):
    search: Sought = Field("", description="In e-mail, user name and full name, in any case.")
    role: Role | None = None
    status: Status | None = None


class UserChanges(Body):
    """What is left out, or null, stays as it is."""

    email: Email | None = None
    username: Name | None = None
    role: Role | None = None
    status: Status | None = None
    phone: Phone | None = None
    full_name: Name | None = None
    bio: Bio | None = None

    def said(self) -> dict[str, str]:
        """Return the account's fields that were sent."""
        return self.model_dump(exclude_none=True, exclude={"password"})


class NewUser(UserChanges):
    email: Email
    username: Name
    role: Role
    password: Annotated[str, StringConstraints(max_length=1024)] = Field(
        description="Six characters or more.", json_schema_extra={"format": "password"}
    )


class UserMade(Answer):
    msg: str
    user_id: str = Field(description="Three digits or more, without the letter.")


class Deletion(Body):
    reason: Reason | None = Field(None, description="Kept in the trail.")


class MemberRow(Answer):
    id: str = Field(description="Such as U007: the letter and three digits or more.")
    email: str
    username: str
    full_name: str
    phone: str
    bio: str
    avatar: str = Field(description="Address of the picture, empty without one.")
    role: Role
    status: Status
    created_at: Moment
    last_login: Moment | None


class MemberPage(Answer):
    users: list[MemberRow]
    total: int
    page: int
    limit: int


class ModelRow(Answer):
    id: str
    name: str
    type: str
    status: Literal["active", "unavailable"]
    version: str
    owner: str
    created_at: Moment = Field(description="Since when this process knows of it.")
    selected: bool


class ModelPage(Answer):
    models: list[ModelRow]
    total: int
    page: int
    limit: int


class KnowledgeRow(Answer):
    id: str
    name: str
    type: str
    status: str
    tag_color: str
    selected: bool
    created_at: Moment


class KnowledgePage(Answer):
    knowledge: list[KnowledgeRow]
    total: int
    page: int
    limit: int


class ActionsQuery(Query):
    page: int = Field(1, ge=1, le=1_000_000)
    per_page: int = Field(20, ge=1, le=100)
    operator_email: Sought = Field("", description="A part of it, in any case.")
    target_user_email: Sought = Field("", description="A part of it, in any case.")
    action: Sought = Field("", description="A part of it, in any case.")

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.per_page


class ActionRow(Answer):
    id: int
    operator_email: str
    role: str
    action: str
    target_user_id: int | None
    target_user_email: str | None
    reason: str | None
    details: Details = Field(description="Field to old and new value.")
    timestamp: Moment


class ActionPage(Answer):
    logs: list[ActionRow]
    total: int
    page: int
    per_page: int
