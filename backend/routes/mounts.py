"""Pass-through mounts: whole path prefixes that belong to an upstream."""

from flask import Flask
from werkzeug.routing import BaseConverter

from backend.config import Mount, SettingsError
from backend.context import bearer, caller, gateway, inbound, is_handshake
from backend.errors import NotFound
from backend.responses import GatewayResponse, UpgradedResponse, relayed
from backend.services.forwarding import MEGABYTE, Forwarded, Inbound, Rules, Upstream
from backend.services.headers import Passage
from backend.services.policies import Timeouts
from backend.services.websocket.handshake import Offer
from backend.services.websocket.relay import Limits
from backend.services.websocket.sockets import Door
from backend.shortcut import direct

# An upstream accepts a WebSocket before it does any work.
HANDSHAKE_SECONDS = 10.0


class _Anything(BaseConverter):
    """The rest of a path, also one that begins with further slashes."""

    regex = ".*"
    part_isolating = False


def register(app: Flask, mounts: tuple[Mount, ...]) -> None:
    """Add the routes of every mount. Raises SettingsError for one that touches an existing route."""
    app.url_map.converters["anything"] = _Anything
    taken = [rule.rule.partition("<")[0].rstrip("/") for rule in app.url_map.iter_rules()]
    for mount in mounts:
        for existing in taken:
            if _overlap(existing, mount.prefix):
                raise SettingsError(f"GATEWAY_MOUNTS: {mount.prefix} would shadow {existing}")
        _add(app, mount)


def upstream_of(mount: Mount) -> Upstream:
    return Upstream.at(f"mount {mount.prefix}", *mount.upstream, max_calls=mount.max_calls)


def _overlap(one: str, other: str) -> bool:
    return (one + "/").startswith(other + "/") or (other + "/").startswith(one + "/")


def _add(app: Flask, mount: Mount) -> None:
    upstream = upstream_of(mount)
    rules = Rules(
        Timeouts(first_byte=mount.timeout, idle=mount.timeout, total=mount.total),
        int(mount.max_body_mb * MEGABYTE),
        _passage(mount),
    )
    prefix = mount.prefix.encode("ascii")
    door = _door(mount, upstream)

    @direct
    async def view(**_: str) -> GatewayResponse:
        if is_handshake():
            return await _socket(mount, door)
        if mount.auth == "required" or (mount.auth == "optional" and bearer() is not None):
            await caller()
        request = inbound()
        return relayed(await gateway().forwarder.forward(request, upstream, _target(request, prefix), rules))

    endpoint = f"mount{mount.prefix.replace('.', ':')}"  # a dot would name a blueprint
    for rule in (mount.prefix, f"{mount.prefix}/<anything:rest>"):
        app.add_url_rule(
            rule,
            endpoint,
            view,
            methods=list(mount.methods),
            provide_automatic_options="OPTIONS" not in mount.methods,
        )


def _target(request: Inbound, prefix: bytes) -> bytes:
    rest = request.path[len(prefix) :] or b"/"
    if not (request.path.startswith(prefix) and rest.startswith(b"/")):
        raise NotFound  # the prefix or its slash was percent-encoded: nobody but an attacker does that
    return rest + (b"?" + request.query if request.query else b"")


def _passage(mount: Mount) -> Passage:
    # Where the gateway looked at the token, the token ends.
    return Passage(authorization=mount.auth == "none", cookies=mount.cookies)


def socket_prefixes(mounts: tuple[Mount, ...]) -> tuple[bytes, ...]:
    """Return the beginnings of all paths where WebSockets are spoken, each with a slash at its end."""
    return tuple(mount.prefix.encode("ascii") + b"/" for mount in mounts if mount.websocket)


def _door(mount: Mount, upstream: Upstream) -> Door:
    patience = min(mount.timeout, HANDSHAKE_SECONDS)
    limits = Limits(int(mount.max_message_mb * MEGABYTE), mount.socket_idle, mount.socket_total)
    return Door(
        upstream, Timeouts(patience, mount.timeout, mount.total), limits, mount.max_sockets, _passage(mount)
    )


async def _socket(mount: Mount, door: Door) -> GatewayResponse:
    """Open a WebSocket to the mount's upstream."""
    request = inbound()
    offer = Offer.of(request.headers, takes_token=mount.auth != "none")
    visitor = None
    if mount.auth == "required" or (mount.auth == "optional" and (bearer() or offer.token) is not None):
        visitor = await caller(offered=offer.token)
    target = _target(request, mount.prefix.encode("ascii"))
    opened = await gateway().sockets.open(request, target, door, offer, visitor)
    return relayed(opened) if isinstance(opened, Forwarded) else UpgradedResponse(opened)
