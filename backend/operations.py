"""What an operation of the API takes and answers, said beside its view; the document is made from it.

@chat.post("/chat/new")
@operation("Open a conversation.", tag="chat", body=NewChat, answers={201: Opened}, errors=(400,))
@direct
async def create() -> GatewayResponse: ...
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

F = TypeVar("F", bound=Callable[..., Any])

Access = Literal["anyone", "caller", "tutor"]


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer or body that is not JSON, by its content type; `schema` says what it looks like."""

    content_types: tuple[str, ...]
    schema: Mapping[str, Any] = field(default_factory=dict)


# A model, a JSON schema for what models cannot say (an object keyed by names), bytes, or nothing.
Content = type[BaseModel] | Mapping[str, Any] | Raw | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `errors` names statuses beside those that follow from `access`: 401, 403."""

    summary: str
    tag: str
    answers: Mapping[int, Content]
    access: Access = "caller"
    body: Content = None
    body_required: bool = True
    form: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    description: str = ""


def operation(
    summary: str,
    *,
    tag: str,
    answers: Mapping[int, Content],
    access: Access = "caller",
    body: Content = None,
    body_required: bool = True,
    form: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    errors: tuple[int, ...] = (),
    description: str = "",
) -> Callable[[F], F]:
    """Say of a view what it takes: a JSON `body`, or a `form` (multipart or urlencoded), and a `query`."""

    def mark(view: F) -> F:
        view.operation = Operation(  # type: ignore[attr-defined]
            summary, tag, answers, access, body, body_required, form, query, errors, description
        )
        return view

    return mark


def operation_of(view: Callable[..., Any]) -> Operation | None:
    """Return what was said of a view."""
    found: Operation | None = getattr(view, "operation", None)
    return found
