"""Signing in and out, registration, codes, passwords."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from backend.models.verification_code import Purpose
from backend.schemas.base import Answer, Body

# A longer one would be no password but work for the processor. Accounts say what is too short.
Password = Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra={"format": "password"})]
Email = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Code = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=20),
    Field(description="Six digits, from the mail."),
]


class SignIn(Body):
    email: Email
    password: Password
    sessionid: Any = Field(
        None, description="Ignored.", json_schema_extra={"type": ["string", "integer", "null"]}
    )


class Token(Answer):
    token: str = Field(description="For `Authorization: Bearer`.")


class TimeLeft(Answer):
    expires_in_seconds: int = Field(ge=0)
    expires_in_minutes: float = Field(ge=0)
    token: str | None = Field(None, description="A successor, sent where the present token gets old.")


class CodeRequest(Body):
    email: Email
    purpose: Purpose = "register"


class Registration(Body):
    email: Email
    password: Password
    code: Code
    role: Any = Field(None, description="Ignored: who registers is a student.")


class NewPassword(Body):
    code: Code
    new_password: Password


class Confirmation(Body):
    code: Code
