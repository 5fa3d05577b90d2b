"""WebRTC signalling: the few calls that a user may make to the own avatar instance."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from backend.errors import (
    AvatarGone,
    BadRequest,
    Conflict,
    GatewayError,
    MethodNotAllowed,
    NotFound,
    StoreUnavailable,
    UpstreamError,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamUnavailable,
)
from backend.services.dialects import read_answer
from backend.services.forwarding import MEGABYTE, Forwarded, Forwarder, Inbound, Rules
from backend.services.headers import Pair, first, to_upstream
from backend.services.names import RESERVED
from backend.services.policies import Timeouts
from backend.services.seats import Seat
from backend.services.session_number import NOT_YOURS, session_number
from backend.services.sessions import NONE, Sessions
from backend.services.small_json import small_json
from backend.services.sound_form import SoundForm
from backend.services.streams import ByteStream, LimitedStream, check_length
from backend.services.transports import UpstreamCall

log = logging.getLogger("gateway.signalling")

# A browser's offer with all its candidates has some 10 KB.
OFFER_BYTES = 256 * 1024
# Path -> the one method it answers, and its limits. Instances also serve pages and more: none of it passes.
ALLOWED: Mapping[str, tuple[str, Rules]] = {
    "offer": ("POST", Rules(Timeouts(first_byte=30, idle=10, total=60), max_body=OFFER_BYTES)),
    "human": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "humanaudio": ("POST", Rules(Timeouts(first_byte=30, idle=10, total=900), max_body=101 * MEGABYTE)),
    "interrupt_talk": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "is_speaking": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "record": ("POST", Rules(Timeouts(first_byte=30, idle=10, total=60))),
    "set_audiotype": ("POST", Rules(Timeouts(first_byte=3, idle=3, total=10))),
    "health": ("GET", Rules(Timeouts(first_byte=3, idle=3, total=10))),
}
# What describes the body, which is written anew.
_OF_THE_BODY = frozenset({b"content-type", b"content-length", b"content-encoding", b"transfer-encoding"})


class Signalling:
    """Carries signalling calls to the caller's own instance, never to a default one or another's session."""

    def __init__(self, forwarder: Forwarder, sessions: Sessions) -> None:
        self._forwarder = forwarder
        self._sessions = sessions

    async def call(self, inbound: Inbound, user_id: int, path: str) -> dict[str, Any]:
        """Make one call and return its JSON.

        Raises NotFound and MethodNotAllowed outside the list, Conflict without an instance, AvatarGone when
        it has ended, and NotFound for a session that is not the caller's.
        """
        if path not in ALLOWED:
            raise NotFound
        method, rules = ALLOWED[path]
        if inbound.method != method:
            raise MethodNotAllowed
        seat = await self._sessions.seat_of(user_id)
        if seat is None:
            raise Conflict(NONE)
        try:
            forwarded = await self._forwarded(inbound, seat, path, rules)
        except UpstreamRefused as exc:
            await self._lost(seat)
            raise AvatarGone from exc
        dialect = self._sessions.fleet.dialect
        content = dialect.object(forwarded.status, await read_answer(forwarded.body))
        if path == "offer" and not (content.get("sdp") and isinstance(content["sdp"], str)):
            raise UpstreamGarbage  # the page's button would stay disabled until it is loaded again
        content.pop(RESERVED, None)
        if path == "offer":
            await self._learn(seat, content)
        return content

    async def confirm(self, user_id: int, sessions: tuple[object, ...]) -> None:
        """Check that a client has the session number that its own instance gave. Raises BadRequest."""
        seat = await self._sessions.seat_of(user_id)
        known = None if seat is None else seat.peer_session
        numbers = {session_number(session) for session in sessions}
        if known is None or numbers != {known}:
            raise BadRequest(NOT_YOURS)

    async def _forwarded(self, inbound: Inbound, seat: Seat, path: str, rules: Rules) -> Forwarded:
        target = b"/" + path.encode("ascii")
        if path == "humanaudio":
            return await self._sound(inbound, seat, target, rules)
        if inbound.method != "POST":
            return await self._sent(
                seat, lambda: self._forwarder.forward(inbound, seat.upstream, target, rules)
            )
        fields = await _fields(inbound, rules.max_body)
        fields = _offer(fields) if path == "offer" else _own(fields, seat)
        body = json.dumps(fields).encode("ascii")
        described = (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))
        return await self._send(inbound, seat, target, rules, body, described)

    async def _sound(self, inbound: Inbound, seat: Seat, target: bytes, rules: Rules) -> Forwarded:
        """Pass a recording on while it arrives."""
        check_length(inbound.content_length, rules.max_body)
        body = None if inbound.body is None else LimitedStream(inbound.body, rules.max_body)
        content_type = first(inbound.headers, b"content-type") or b""
        form = await SoundForm(body, content_type, seat.peer_session).begun()
        try:
            return await self._send(
                inbound, seat, target, rules, form, ((b"content-type", form.content_type),)
            )
        except UpstreamError as error:
            # An instance that hung up because the form broke off is not the one to blame.
            raise form.failure or error from None

    async def _send(
        self,
        inbound: Inbound,
        seat: Seat,
        target: bytes,
        rules: Rules,
        body: bytes | ByteStream,
        described: tuple[Pair, ...],
    ) -> Forwarded:
        headers = [pair for pair in inbound.headers if pair[0] not in _OF_THE_BODY]
        call = UpstreamCall(
            method=inbound.method,
            origin=seat.upstream.origins[0],
            target=seat.upstream.base_path + target,
            headers=tuple(to_upstream([*headers, *described], inbound.origin, rules.passage)),
            body=body,
            timeouts=rules.timeouts,
        )
        return await self._sent(seat, lambda: self._forwarder.send(call, seat.upstream, rules.passage))

    async def _sent(self, seat: Seat, send: Callable[[], Awaitable[Forwarded]]) -> Forwarded:
        """Call an instance also where others were refused lately: to be refused costs nothing, and tells
        whether the avatar has ended or something new lives at its port."""
        try:
            return await send()
        except UpstreamUnavailable:
            if not self._forwarder.is_refusing(seat.upstream):
                raise
            self._forwarder.readmit(seat.upstream)
            return await send()

    async def _lost(self, seat: Seat) -> None:
        try:
            await self._sessions.lost(seat)
        except GatewayError as error:  # the next call, or whoever compares, finds the same
            log.warning("an avatar that ended could not be forgotten: %s", error.code)

    async def _learn(self, seat: Seat, answer: dict[str, Any]) -> None:
        """Remember the session of an answer to an offer, and tell it as a number."""
        number = session_number(answer.get("sessionid"))
        if number is None:
            answer.pop("sessionid", None)  # nothing that could be said to it would be taken
            return
        answer["sessionid"] = number
        try:
            await self._sessions.seated(seat, number)
        except StoreUnavailable:
            log.warning("the session of an avatar is kept later: other workers do not know it yet")


async def _fields(inbound: Inbound, limit: int) -> dict[str, Any]:
    check_length(inbound.content_length, limit)
    return await small_json(inbound.body, limit)


def _offer(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an offer that an instance can answer (RFC 8866: a description begins with its version)."""
    sdp = fields.get("sdp")
    if not isinstance(sdp, str) or not sdp.startswith("v=0"):
        raise BadRequest("sdp needs to be a session description.")
    if fields.get("type") != "offer":
        raise BadRequest("type needs to be offer.")
    return fields


def _own(fields: dict[str, Any], seat: Seat) -> dict[str, Any]:
    """Return the fields with the session as the number that instances know. Raises NotFound for another's."""
    if "sessionid" not in fields:
        return fields
    number = session_number(fields["sessionid"])
    if number is None or number != seat.peer_session:
        raise NotFound(NOT_YOURS)
    return {**fields, "sessionid": number}
