"""WebRTC signalling: the few calls that a user may make to the own avatar instance."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from backend.errors import (
    BadRequest,
    Conflict,
    MethodNotAllowed,
    NotFound,
    StoreUnavailable,
    UpstreamGarbage,
    UpstreamRefused,
)
from backend.services.dialects import json_object, read_answer
from backend.services.forwarding import MEGABYTE, Forwarded, Forwarder, Inbound, Rules
from backend.services.headers import Pair, to_upstream
from backend.services.instances import Instances, Seat
from backend.services.names import RESERVED
from backend.services.policies import Timeouts
from backend.services.streams import check_length, in_time, read_whole
from backend.services.transports import UpstreamCall

log = logging.getLogger("gateway.signalling")

# Path -> the one method it answers, and its limits. Instances also serve pages and more: none of it passes.
ALLOWED: Mapping[str, tuple[str, Rules]] = {
    "offer": ("POST", Rules(Timeouts(first_byte=30, idle=10, total=60))),
    "human": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "humanaudio": ("POST", Rules(Timeouts(first_byte=30, idle=10, total=900), max_body=101 * MEGABYTE)),
    "interrupt_talk": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "is_speaking": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "record": ("POST", Rules(Timeouts(first_byte=30, idle=10, total=60))),
    "set_audiotype": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "health": ("GET", Rules(Timeouts(first_byte=3, idle=3, total=10))),
}
# Their JSON names a peer connection, and several users share an instance.
NAMING_A_SESSION = frozenset({"human", "interrupt_talk", "is_speaking", "record", "set_audiotype"})
# What describes the body, which is written anew.
_OF_THE_BODY = frozenset({b"content-type", b"content-length", b"content-encoding"})
# What the column holds; real numbers have six digits.
_MOST_SESSION = 2**63 - 1


class Signalling:
    """Carries signalling calls to the caller's own instance, never to a default one or another's session."""

    def __init__(self, forwarder: Forwarder, instances: Instances) -> None:
        self._forwarder = forwarder
        self._instances = instances

    async def call(self, inbound: Inbound, user_id: int, path: str) -> dict[str, Any]:
        """Make one call and return its JSON.

        Raises NotFound and MethodNotAllowed outside the list, Conflict without an instance, and NotFound for
        a session that is not the caller's.
        """
        if path not in ALLOWED:
            raise NotFound
        method, rules = ALLOWED[path]
        if inbound.method != method:
            raise MethodNotAllowed
        seat = await self._instances.seat_of(user_id)
        if seat is None:
            raise Conflict("You have no running avatar. Please start one first.")
        try:
            forwarded = await self._forwarded(inbound, seat, path, rules)
        except UpstreamRefused as exc:
            raise UpstreamRefused("Your avatar is no longer running. Please start it again.") from exc
        content = json_object(forwarded.status, await read_answer(forwarded.body))
        if path == "offer" and not (content.get("sdp") and isinstance(content["sdp"], str)):
            raise UpstreamGarbage  # the page's button would stay disabled until it is loaded again
        content.pop(RESERVED, None)
        if path == "offer":
            await self._learn(user_id, seat, content)
        return content

    async def confirm(self, user_id: int, sessions: tuple[object, ...]) -> None:
        """Check that a client has the session number that its own instance gave. Raises BadRequest."""
        seat = await self._instances.seat_of(user_id)
        known = None if seat is None else seat.peer_session
        numbers = {session_number(session) for session in sessions}
        if known is None or numbers != {known}:
            raise BadRequest("This is not the number of your avatar session.")

    async def _forwarded(self, inbound: Inbound, seat: Seat, path: str, rules: Rules) -> Forwarded:
        target = b"/" + path.encode("ascii")
        if path not in NAMING_A_SESSION:
            return await self._forwarder.forward(inbound, seat.upstream, target, rules)
        body = json.dumps(_own(await _fields(inbound, rules.max_body), seat)).encode("ascii")
        headers: list[Pair] = [pair for pair in inbound.headers if pair[0] not in _OF_THE_BODY]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        call = UpstreamCall(
            method=inbound.method,
            origin=seat.upstream.origins[0],
            target=seat.upstream.base_path + target,
            headers=tuple(to_upstream(headers, inbound.origin, rules.passage)),
            body=body,
            timeouts=rules.timeouts,
        )
        return await self._forwarder.send(call, seat.upstream, rules.passage)

    async def _learn(self, user_id: int, seat: Seat, answer: dict[str, Any]) -> None:
        """Remember the session of an answer to an offer, and tell it as a number."""
        number = session_number(answer.get("sessionid"))
        if number is None:
            answer.pop("sessionid", None)  # nothing that could be said to it would be taken
            return
        answer["sessionid"] = number
        try:
            await self._instances.seated(user_id, seat.port, number)
        except StoreUnavailable:
            log.warning("the session of an avatar could not be kept: it will show, but not speak answers")


def session_number(value: object) -> int | None:
    """Return a session as a number, also from its digits; None for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_SESSION:
        return None
    return value


async def _fields(inbound: Inbound, limit: int) -> dict[str, Any]:
    check_length(inbound.content_length, limit)
    content = b"" if inbound.body is None else await in_time(read_whole(inbound.body, limit))
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("Please send JSON.") from exc
    if not isinstance(fields, dict):
        raise BadRequest("Please send a JSON object.")
    return fields


def _own(fields: dict[str, Any], seat: Seat) -> dict[str, Any]:
    """Return the fields with the session as the number that instances know. Raises NotFound for another's."""
    if "sessionid" not in fields:
        return fields
    number = session_number(fields["sessionid"])
    if number is None or number != seat.peer_session:
        raise NotFound("This is not the number of your avatar session.")
    return {**fields, "sessionid": number}
