"""Signing in and out, registration, codes, passwords, and the end of an account."""

from contextlib import suppress

from flask import Blueprint

from backend.context import bearer, caller, gateway, inbound
from backend.errors import GatewayError, NotAuthenticated
from backend.operations import operation
from backend.request_fields import json_body
from backend.responses import GatewayResponse, answer
from backend.schemas.auth import (
    CodeRequest,
    Confirmation,
    NewPassword,
    Registration,
    SignIn,
    TimeLeft,
    Token,
)
from backend.schemas.base import Message
from backend.services.sign_in import sign_in
from backend.services.tokens import Principal
from backend.shortcut import direct

auth = Blueprint("auth", __name__, url_prefix="/api")

# One sentence whether or not there is such an account, or strangers could ask who has one.
ON_ITS_WAY = "If there is an account for this e-mail, a code is on its way. It is good for five minutes."


@auth.post("/login")
@operation(
    "Sign in; an earlier sign-in of the same user ends.",
    tag="auth",
    access="anyone",
    body=SignIn,
    answers={200: Token},
    headers={"sessionid": "Ignored; older clients send it."},
    errors=(400, 401, 413, 429, 503),
)
@direct
async def login() -> GatewayResponse:
    fields = await json_body(SignIn)
    await gateway().rate_limits.login(fields.email, inbound().origin.address)
    token = await sign_in(gateway().accounts, gateway().tokens, fields.email, fields.password)
    return answer({"token": token})


@auth.post("/send_verification")
@operation(
    "Mail a one-time code; it replaces the last one for the same purpose.",
    tag="auth",
    access="anyone",
    body=CodeRequest,
    answers={200: Message},
    errors=(400, 409, 413, 429, 503),
)
@direct
async def send_verification() -> GatewayResponse:
    fields = await json_body(CodeRequest)
    await gateway().rate_limits.code(fields.email, inbound().origin.address)
    await gateway().verification.send(fields.email, fields.purpose)
    if fields.purpose == "register":
        return answer({"msg": "A code is on its way. It is good for five minutes."})
    return answer({"msg": ON_ITS_WAY})


@auth.post("/register")
@operation(
    "Make a student's account with a mailed code.",
    tag="auth",
    access="anyone",
    body=Registration,
    answers={201: Message},
    errors=(400, 401, 409, 413, 429, 503),
)
@direct
async def register() -> GatewayResponse:
    fields = await json_body(Registration)
    await gateway().rate_limits.registration(inbound().origin.address)
    await gateway().own_account.register(fields.email, fields.password, fields.code)
    return answer({"msg": "Your account is ready. Please sign in."}, 201)


@auth.get("/token_status")
@operation("Tell how long the sign-in lasts.", tag="auth", answers={200: TimeLeft})
@direct
async def token_status() -> GatewayResponse:
    """Polled by open tabs, so no use of the sign-in; one that was used gets a new token in time."""
    token = bearer()
    if token is None:
        raise NotAuthenticated
    remaining = await gateway().tokens.remaining(token)
    seconds = int(remaining.seconds)
    status = {"expires_in_seconds": seconds, "expires_in_minutes": round(seconds / 60, 2)}
    return answer(status if remaining.token is None else status | {"token": remaining.token})


@auth.post("/logout")
@operation(
    "Sign out; never 401, also without a token.",
    tag="auth",
    access="either",
    body={"type": "object"},
    body_required=False,
    answers={200: Message},
    errors=(503,),
)
@direct
async def logout() -> GatewayResponse:
    """Never 401: the frontend logs out twice after a password change, the second time without a token."""
    try:
        token = bearer()
    except NotAuthenticated:
        token = None
    if token is not None:
        principal = await _signed_in(token)
        await gateway().tokens.revoke(token)
        if principal is not None:
            with suppress(GatewayError):  # else whoever looks for the signed-out does it, seconds later
                await gateway().sessions.release(principal.user_id)
    return answer({"msg": "Signed out."})


async def _signed_in(token: str) -> Principal | None:
    """Return whose live sign-in a token is, None for an ended one: that of another tab may live."""
    try:
        return await gateway().tokens.verify(token)
    except GatewayError:
        return None


@auth.post("/update_password")
@operation(
    "Set a new password with a mailed code; every sign-in of the user ends.",
    tag="auth",
    body=NewPassword,
    answers={200: Message},
    errors=(400, 413, 503),
)
@direct
async def update_password() -> GatewayResponse:
    principal = await caller()
    fields = await json_body(NewPassword)
    await gateway().own_account.change_password(principal, fields.new_password, fields.code)
    return answer({"msg": "Your password was changed. Please sign in again."})


@auth.delete("/user/delete_account")
@operation(
    "Delete the own account, and everything of it, with a mailed code.",
    tag="auth",
    body=Confirmation,
    answers={200: Message},
    errors=(400, 409, 413, 503),
)
@direct
async def delete_account() -> GatewayResponse:
    principal = await caller()
    fields = await json_body(Confirmation)
    await gateway().own_account.delete(principal, fields.code)
    return answer({"msg": "Your account was deleted."})
