"""What an operation of the API takes and answers, said beside its view; the document is made from it.

@chat.post("/chat/new")
@operation("Open a conversation.", tag="chat", body=NewChat, answers={201: Opened}, errors=(400,))
@direct
async def create() -> GatewayResponse: ...
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import GenericAlias
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])

# Who may call: whoever comes; those who signed in; tutors; whoever comes, but a token is looked at.
Access = Literal["anyone", "caller", "tutor", "either"]


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer or body that is not JSON, by its content type; `schema` says what it looks like."""

    content_types: tuple[str, ...]
    schema: Mapping[str, Any] = field(default_factory=dict)


# A model or what typing makes of one (`list[Chat]`, `dict[str, Avatar]`), a JSON schema, bytes, or nothing.
Content = type | GenericAlias | Mapping[str, Any] | Raw | None
# Several where the caller's `Accept` decides.
Answers = Mapping[int, Content | tuple[Content, ...]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `errors` names statuses beside those that follow from the rest.

    Those are 401 and 403 by `access`, what a body, a form or a query can be refused with, and 503 wherever
    the store is asked. `headers` maps what an operation reads beside `Authorization` to what it means.
    """

    summary: str
    tag: str
    answers: Answers
    access: Access = "caller"
    body: Content = None
    body_required: bool = True
    form: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    description: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choices:
    """Operations of a rule whose one variable takes these values only, each with a method of its own."""

    variable: str
    operations: Mapping[str, tuple[str, Operation]]


def operation(
    summary: str,
    *,
    tag: str,
    answers: Answers,
    access: Access = "caller",
    body: Content = None,
    body_required: bool = True,
    form: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    errors: tuple[int, ...] = (),
    description: str = "",
    headers: Mapping[str, str] | None = None,
) -> Callable[[F], F]:
    """Say of a view what it takes: a JSON `body`, or a `form` (multipart or urlencoded), and a `query`."""

    def mark(view: F) -> F:
        view.operation = Operation(  # type: ignore[attr-defined]
            summary,
            tag,
            answers,
            access,
            body,
            body_required,
            form,
            query,
            errors,
            description,
            headers or {},
        )
        return view

    return mark


def choices(variable: str, operations: Mapping[str, tuple[str, Operation]]) -> Callable[[F], F]:
    """Say of a view that serves several paths by one rule what each of them is."""

    def mark(view: F) -> F:
        view.operation = Choices(variable, operations)  # type: ignore[attr-defined]
        return view

    return mark


def operation_of(view: Callable[..., Any]) -> Operation | Choices | None:
    """Return what was said of a view."""
    found: Operation | Choices | None = getattr(view, "operation", None)
    return found
