"""Avatars: the catalogue, a user's own instance, and the speech engines."""

import re

from flask import Blueprint

from backend.context import body, caller, gateway, inbound, tutor
from backend.errors import BadRequest
from backend.operations import Raw, operation
from backend.request_fields import form_field, form_fields
from backend.responses import GatewayResponse, answer, relayed
from backend.schemas.avatar import (
    Added,
    Avatar,
    AvatarChoice,
    AvatarRemoval,
    AvatarStart,
    Deleted,
    NewAvatar,
    Released,
    SpeechModel,
    Started,
)
from backend.schemas.base import StrayTimeout
from backend.services.avatar_form import FORM_BYTES, AvatarForm
from backend.services.forwarding import ATTEMPTS
from backend.services.headers import first
from backend.services.names import avatar_name
from backend.shortcut import direct

avatar = Blueprint("avatar", __name__, url_prefix="/api")

UPSTREAM = (502, 503, 504)


@avatar.get("/avatar/list")
@operation(
    "List the avatars by name.",
    tag="avatar",
    answers={200: dict[str, Avatar]},
    query=StrayTimeout,
    errors=UPSTREAM,
    description="A `Warning` header marks the last good list, sent while the service is busy.",
)
@direct
async def list_avatars() -> GatewayResponse:
    await caller()
    avatars, stale = await gateway().catalogue.avatars()
    response = answer(avatars)
    if stale:
        # RFC 9111 section 5.5.1 marked staleness this way; there is no room for it in the body.
        response.put(b"warning", b'110 - "Response is Stale"')
    elif gateway().catalogue.attempts > 1:
        response.put(ATTEMPTS, str(gateway().catalogue.attempts).encode("ascii"))
    return response


@avatar.post("/avatar/preview")
@operation(
    "Get a picture of an avatar.",
    tag="avatar",
    answers={200: Raw(("image/png", "image/jpeg"))},
    form=AvatarChoice,
    errors=(404, *UPSTREAM),
)
@direct
async def preview() -> GatewayResponse:
    await caller()
    name = avatar_name(await form_field("avatar_name"), "avatar_name")
    await gateway().catalogue.require(name)
    return relayed(await gateway().catalogue.preview(inbound(), name))


@avatar.post("/avatar/add")
@operation(
    "Make an avatar from a video; takes minutes.",
    tag="avatar",
    answers={200: Added},
    access="tutor",
    form=NewAvatar,
    errors=(404, 409, *UPSTREAM),
)
@direct
async def add() -> GatewayResponse:
    await tutor()
    content_type = first(inbound().headers, b"content-type") or b""
    form = await AvatarForm(body(FORM_BYTES), content_type).begun()
    return answer(await gateway().catalogue.add(inbound(), form))


@avatar.post("/avatar/delete")
@operation(
    "Delete an avatar.",
    tag="avatar",
    answers={200: Deleted},
    access="tutor",
    form=AvatarRemoval,
    errors=(404, 409, *UPSTREAM),
)
@direct
async def delete() -> GatewayResponse:
    await tutor()
    name = avatar_name(await form_field("name"), "name")
    await gateway().catalogue.require(name)
    return answer(await gateway().catalogue.delete(inbound(), name))


@avatar.post("/avatar/start")
@operation(
    "Start an avatar for the caller, or find it running.",
    tag="avatar",
    answers={200: Started},
    form=AvatarStart,
    headers={"prefer": "`wait=20`: wait so many seconds for a place."},
    errors=(404, 409, *UPSTREAM),
    description="May be asked again at any time. `test_yongen` means the first avatar where none bears it. "
    "Where every avatar is taken, 503 tells the place in the line as `position`, which is kept for whoever "
    "asks again after the seconds of `Retry-After`. With `wait` (or the header `Prefer: wait=20`) the call "
    "waits in line for so many seconds itself.",
)
@direct
async def start() -> GatewayResponse:
    principal = await caller()
    fields = await form_fields()
    name = avatar_name(fields.get("avatar_name"), "avatar_name")
    wait_seconds = _wait(fields.get("wait") or _preferred_wait())
    if gateway().settings.avatar_kind == "managed":
        name = await gateway().catalogue.resolve(name)
    return answer(await gateway().sessions.start(principal.user_id, name, wait_seconds=wait_seconds))


def _preferred_wait() -> str:
    """Return the wait of a Prefer header (RFC 7240, section 4.3), "" without one."""
    value = (first(inbound().headers, b"prefer") or b"").decode("latin-1")
    found = re.search(r"(?:^|[,;])\s*wait\s*=\s*\"?([^,;\"]*)", value, re.IGNORECASE)
    return found[1].strip() if found else ""


def _wait(value: str) -> float:
    """Return the seconds that a caller wants to wait in line, at most what the settings allow."""
    if not value:
        return 0.0
    if not re.fullmatch(r"[0-9]{1,6}", value):
        raise BadRequest("wait needs to be a whole number of seconds.")
    return min(float(value), gateway().settings.gateway_avatar_wait_seconds)


@avatar.post("/avatar/disconnect")
@operation("Let go of the caller's avatar.", tag="avatar", answers={200: Released})
@direct
async def disconnect() -> GatewayResponse:
    principal = await caller()
    released = await gateway().sessions.release(principal.user_id)
    msg = "Your avatar was released." if released else "You had no avatar."
    return answer({"status": "success", "message": msg, "msg": msg})


@avatar.get("/tts/models")
@operation(
    "List the speech engines by short name.",
    tag="avatar",
    answers={200: dict[str, SpeechModel]},
    query=StrayTimeout,
)
@direct
async def speech_models() -> GatewayResponse:
    await caller()
    return answer(gateway().speech)
