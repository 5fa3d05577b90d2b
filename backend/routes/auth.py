"""Signing in and out."""

import time

from flask import Blueprint

from backend.context import bearer, caller, gateway, json_fields, text_field
from backend.errors import NotAuthenticated
from backend.responses import GatewayResponse, answer
from backend.shortcut import direct

auth = Blueprint("auth", __name__, url_prefix="/api")


@auth.post("/login")
@direct
async def login() -> GatewayResponse:
    fields = await json_fields()
    email, password = text_field(fields, "email"), text_field(fields, "password")
    account = await gateway().accounts.authenticate(email, password)
    return answer({"token": await gateway().tokens.issue(account)})


@auth.get("/token_status")
@direct
async def token_status() -> GatewayResponse:
    principal = await caller(passive=True)
    seconds = max(0, int(principal.expires_at - time.time()))
    return answer({"expires_in_seconds": seconds, "expires_in_minutes": round(seconds / 60, 2)})


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
