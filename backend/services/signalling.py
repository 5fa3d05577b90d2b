"""WebRTC signalling: the few calls that a user may make to the own avatar instance."""

from collections.abc import Mapping
from typing import Any

from backend.errors import MethodNotAllowed, NotFound, UpstreamGarbage, UpstreamRefused
from backend.services.dialects import json_object, read_answer
from backend.services.forwarding import MEGABYTE, Forwarder, Inbound, Rules
from backend.services.instances import Instances
from backend.services.names import RESERVED
from backend.services.policies import Timeouts

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


class Signalling:
    """Carries signalling calls to the caller's own instance, never to a default one."""

    def __init__(self, forwarder: Forwarder, instances: Instances) -> None:
        self._forwarder = forwarder
        self._instances = instances

    async def call(self, inbound: Inbound, user_id: int, path: str) -> dict[str, Any]:
        """Make one call and return its JSON. Raises NotFound and MethodNotAllowed outside the list."""
        if path not in ALLOWED:
            raise NotFound
        method, rules = ALLOWED[path]
        if inbound.method != method:
            raise MethodNotAllowed
        instance = await self._instances.upstream_of(user_id)
        try:
            forwarded = await self._forwarder.forward(inbound, instance, b"/" + path.encode("ascii"), rules)
        except UpstreamRefused as exc:
            raise UpstreamRefused("Your avatar is no longer running. Please start it again.") from exc
        content = json_object(forwarded.status, await read_answer(forwarded.body))
        if path == "offer" and not (content.get("sdp") and isinstance(content["sdp"], str)):
            raise UpstreamGarbage  # the page's button would stay disabled until it is loaded again
        content.pop(RESERVED, None)
        return content
