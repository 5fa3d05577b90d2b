"""The avatar catalogue: what exists, what it looks like, adding and deleting."""

import asyncio
import logging
from typing import Any
from urllib.parse import urlencode

from backend.errors import GatewayError, NotFound, UpstreamBusy, UpstreamError, UpstreamGarbage
from backend.services.avatar_form import AvatarForm
from backend.services.dialects import json_object, json_value, read_answer, refusal
from backend.services.forwarding import Forwarded, Forwarder, Inbound, Upstream
from backend.services.headers import Pair, first, to_upstream
from backend.services.names import RESERVED
from backend.services.policies import Freshness, Timeouts
from backend.services.trail import TRAIL, shared
from backend.services.transports import UpstreamCall

log = logging.getLogger("gateway.catalogue")

Avatars = dict[str, dict[str, Any]]

LIST_TIMEOUTS = Timeouts(first_byte=10, idle=10, total=20)
# The totals bound what a dribbling service could draw out, not how long honest work takes.
PREVIEW_TIMEOUTS = Timeouts(first_byte=10, idle=10, total=300)
DELETE_TIMEOUTS = Timeouts(first_byte=15, idle=10, total=30)
# Building an avatar takes minutes, and so may sending its film.
ADD_TIMEOUTS = Timeouts(first_byte=900, idle=60, total=3600)

# A name that was in the list so recently is taken to exist without asking again.
KNOWN_SECONDS = 5.0

UNSURE = "The list of avatars cannot be brought up to date just now. Please try again shortly."

# The first-time name of the frontend's video button; it stands for "the default one".
ANY_AVATAR = "test_yongen"


class Catalogue:
    """Asks the catalogue service; keeps the last list, for the service freezes while it builds an avatar.

    `attempts` is how many it took to get that list.
    """

    def __init__(self, forwarder: Forwarder, upstream: Upstream, *, stale_after_seconds: float) -> None:
        self._forwarder = forwarder
        self._upstream = upstream
        self._stale_after_seconds = stale_after_seconds
        self._kept: Avatars | None = None
        self.attempts = 1
        self._known = Freshness(KNOWN_SECONDS)
        self._asking: asyncio.Task[Avatars] | None = None

    async def avatars(self) -> tuple[Avatars, bool]:
        """Return every avatar by name, and whether the list is a stale one.

        Callers at the same time share one call. The last good list is served when the service does not
        answer in time; raises UpstreamError only when there is none.
        """
        asking = self._ask()
        with TRAIL.get().waiting(self._upstream.name):
            if self._kept is not None:
                await asyncio.wait({asking}, timeout=self._stale_after_seconds)
                if not asking.done():
                    return self._kept, True
            try:
                return await asyncio.shield(asking), False
            except GatewayError:
                if self._kept is None:
                    raise
                return self._kept, True

    async def require(self, name: str) -> str:
        """Return the name if an avatar bears it. Raises NotFound, and UpstreamBusy when that is not known."""
        if not (self._known.fresh and self._kept is not None and name in self._kept):
            avatars, stale = await self.avatars()
            if name not in avatars:
                if stale:
                    raise UpstreamBusy(UNSURE)
                raise NotFound(f"There is no avatar called {name}.")
        return name

    async def resolve(self, name: str) -> str:
        """Like `require`, but the frontend's first-time name means the first avatar there is."""
        if name == ANY_AVATAR:
            avatars, _ = await self.avatars()
            if name not in avatars and avatars:
                return next(iter(avatars))
        return await self.require(name)

    async def preview(self, inbound: Inbound, name: str) -> Forwarded:
        """Return the picture of an avatar as it arrives."""
        forwarded = await self._post(inbound, b"/avatar/preview", {"avatar_name": name}, PREVIEW_TIMEOUTS)
        kind = first(forwarded.headers, b"content-type") or b""
        if forwarded.status == 200 and kind.startswith(b"image/"):
            return forwarded
        content = await read_answer(forwarded.body)
        if forwarded.status >= 300:
            raise refusal(forwarded.status, None) or UpstreamGarbage()
        raise refusal(forwarded.status, json_value(content)) or UpstreamGarbage()

    async def add(self, inbound: Inbound, form: AvatarForm) -> dict[str, Any]:
        """Stream a new avatar's form to the service as it arrives; takes minutes."""
        call = UpstreamCall(
            method="POST",
            origin=self._upstream.origins[0],
            target=self._upstream.base_path + b"/avatar/add",
            headers=tuple(to_upstream([(b"content-type", form.content_type)], inbound.origin)),
            body=form,
            timeouts=ADD_TIMEOUTS,
        )
        try:
            forwarded = await self._forwarder.send(call, self._upstream)
            answer = await self._success(forwarded, "add")
        except UpstreamError as error:
            # An upstream that hung up because the form broke off is not the one to blame.
            raise form.failure or error from None
        self._known.expire()
        return {
            "status": "success",
            "message": str(answer.get("message", "")),
            "image_path": str(answer.get("image_path", "")),
        }

    async def delete(self, inbound: Inbound, name: str) -> dict[str, Any]:
        # Also when the answer is lost: the service may have done it.
        self._known.expire()
        forwarded = await self._post(inbound, b"/avatar/delete", {"name": name}, DELETE_TIMEOUTS)
        answer = await self._success(forwarded, "delete")
        if self._kept is not None:
            self._kept = {key: value for key, value in self._kept.items() if key != name}
        return {"status": "success", "message": str(answer.get("message", ""))}

    async def aclose(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _ask(self) -> "asyncio.Task[Avatars]":
        if self._asking is None or self._asking.done():
            self._asking = shared(self._fetch())
            self._asking.add_done_callback(_look_at_failure)
        return self._asking

    async def _fetch(self) -> Avatars:
        answer = await self._forwarder.ask("GET", self._upstream, "/avatar/get_avatars", LIST_TIMEOUTS)
        self.attempts = answer.attempts
        self._kept = _by_name(json_object(answer.status, answer.content).get("avatars"))
        self._known.touch()
        return self._kept

    async def _post(
        self, inbound: Inbound, path: bytes, form: dict[str, str], timeouts: Timeouts
    ) -> Forwarded:
        body = urlencode(form).encode("ascii")
        headers: list[Pair] = [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"content-length", str(len(body)).encode("ascii")),
        ]
        call = UpstreamCall(
            method="POST",
            origin=self._upstream.origins[0],
            target=self._upstream.base_path + path,
            headers=tuple(to_upstream(headers, inbound.origin)),
            body=body,
            timeouts=timeouts,
        )
        return await self._forwarder.send(call, self._upstream)

    async def _success(self, forwarded: Forwarded, what: str) -> dict[str, Any]:
        content = await read_answer(forwarded.body)
        try:
            return json_object(forwarded.status, content)
        except GatewayError:
            log.warning("catalogue refused %s: status %s, %d bytes", what, forwarded.status, len(content))
            raise


def _look_at_failure(task: "asyncio.Task[Avatars]") -> None:
    """Retrieve a failure that perhaps nobody waits for any more: it was the waiters' to report."""
    if not task.cancelled():
        task.exception()


def _by_name(avatars: object) -> Avatars:
    """Bring both forms of the list, by name or names only, into the one the frontend reads."""
    if isinstance(avatars, list):
        named = [item if isinstance(item, dict) else {"name": item} for item in avatars]
        avatars = {str(item["name"]): item for item in named if item.get("name")}
    if not isinstance(avatars, dict):
        raise UpstreamGarbage
    return {
        str(name): _one(entry)
        for name, entry in avatars.items()
        if isinstance(entry, dict) and name != RESERVED
    }


def _one(entry: dict[str, Any]) -> dict[str, Any]:
    clone = bool(entry.get("support_clone", entry.get("clone", False)))
    return {"description": "", "status": "active", **entry, "clone": clone, "support_clone": clone}
