"""Signalling with the caller's own avatar instance: one rule, and each path that it lets through."""

from collections.abc import Mapping

from flask import Blueprint

from backend.context import caller, gateway, inbound
from backend.operations import Operation, choices
from backend.responses import GatewayResponse, answer
from backend.schemas.webrtc import (
    Agreed,
    AudioType,
    InstanceHealth,
    Offer,
    OfSession,
    Outcome,
    Recording,
    Sound,
    Speech,
)
from backend.shortcut import direct

webrtc = Blueprint("webrtc", __name__, url_prefix="/api")

# 404: no such session at the instance; 409: no avatar was started.
ERRORS = (404, 409, 415, 502, 503, 504)


def _about(summary: str, body: type, response: type = Outcome) -> tuple[str, Operation]:
    return "POST", Operation(summary, "webrtc", {200: response}, body=body, errors=ERRORS)


OPERATIONS: Mapping[str, tuple[str, Operation]] = {
    "offer": _about("Negotiate a media session.", Offer, Agreed),
    "human": _about("Make the avatar say a text.", Speech),
    "humanaudio": (
        "POST",
        Operation(
            "Make the avatar lip-sync a recording.", "webrtc", {200: Outcome}, form=Sound, errors=ERRORS
        ),
    ),
    "interrupt_talk": _about("Stop what the avatar is saying.", OfSession),
    "is_speaking": _about("Ask whether the avatar is talking: `data`.", OfSession),
    "record": _about("Begin or end a recording at the instance.", Recording),
    "set_audiotype": _about("Choose an animation.", AudioType),
    "health": (
        "GET",
        Operation("Ask how the instance is.", "webrtc", {200: InstanceHealth}, errors=ERRORS),
    ),
}


@webrtc.route("/webrtc/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@choices("path", OPERATIONS)
@direct
async def signalling(path: str) -> GatewayResponse:
    principal = await caller()
    return answer(await gateway().signalling.call(inbound(), principal.user_id, path))
