"""Avatars: the catalogue, a user's own instance, and the speech engines."""

from flask import Blueprint

from backend.context import body, caller, form_field, gateway, inbound, tutor
from backend.responses import GatewayResponse, answer, relayed
from backend.services.avatar_form import FORM_BYTES, AvatarForm
from backend.services.forwarding import ATTEMPTS
from backend.services.headers import first
from backend.services.names import avatar_name
from backend.shortcut import direct

avatar = Blueprint("avatar", __name__, url_prefix="/api")


@avatar.get("/avatar/list")
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
@direct
async def preview() -> GatewayResponse:
    await caller()
    name = avatar_name(await form_field("avatar_name"), "avatar_name")
    await gateway().catalogue.require(name)
    return relayed(await gateway().catalogue.preview(inbound(), name))


@avatar.post("/avatar/add")
@direct
async def add() -> GatewayResponse:
    await tutor()
    content_type = first(inbound().headers, b"content-type") or b""
    form = await AvatarForm.begin(body(FORM_BYTES), content_type)
    return answer(await gateway().catalogue.add(inbound(), form))


@avatar.post("/avatar/delete")
@direct
async def delete() -> GatewayResponse:
    await tutor()
    name = avatar_name(await form_field("name"), "name")
    await gateway().catalogue.require(name)
    return answer(await gateway().catalogue.delete(inbound(), name))


@avatar.post("/avatar/start")
@direct
async def start() -> GatewayResponse:
    principal = await caller()
    name = avatar_name(await form_field("avatar_name"), "avatar_name")
    name = await gateway().catalogue.resolve(name)
    return answer(await gateway().instances.start(principal.user_id, name))


@avatar.post("/avatar/disconnect")
@direct
async def disconnect() -> GatewayResponse:
    principal = await caller()
    released = await gateway().instances.release(principal.user_id)
    msg = "Your avatar was released." if released else "You had no avatar."
    return answer({"status": "success", "message": msg, "msg": msg})


@avatar.get("/tts/models")
@direct
async def speech_models() -> GatewayResponse:
    await caller()
    return answer(gateway().speech)


@avatar.route("/webrtc/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@direct
async def webrtc(path: str) -> GatewayResponse:
    principal = await caller()
    return answer(await gateway().signalling.call(inbound(), principal.user_id, path))
