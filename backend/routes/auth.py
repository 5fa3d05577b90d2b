"""Signing in and out."""

from flask import Blueprint

from backend.context import bearer, gateway, inbound, json_fields, text_field
from backend.errors import NotAuthenticated
from backend.responses import GatewayResponse, answer
from backend.shortcut import direct

auth = Blueprint("auth", __name__, url_prefix="/api")


@auth.post("/login")
@direct
async def login() -> GatewayResponse:
    fields = await json_fields()
    email, password = text_field(fields, "email"), text_field(fields, "password")
    await gateway().rate_limits.login(email, inbound().origin.address)
    account = await gateway().accounts.authenticate(email, password)
    return answer({"token": await gateway().tokens.issue(account)})


@auth.get("/token_status")
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
@direct
async def logout() -> GatewayResponse:
    """Never 401: the frontend logs out twice after a password change, the second time without a token."""
    try:
        token = bearer()
    except NotAuthenticated:
        token = None
    if token is not None:
        await gateway().tokens.revoke(token)
    return answer({"msg": "Signed out."})
