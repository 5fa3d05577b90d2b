"""Pass-through mounts: whole path prefixes that belong to an upstream."""

from flask import Flask
from werkzeug.routing import BaseConverter

from backend.config import Mount, SettingsError
from backend.context import bearer, caller, gateway, inbound
from backend.errors import NotFound
from backend.responses import GatewayResponse, relayed
from backend.services.forwarding import MEGABYTE, Rules, Upstream
from backend.services.headers import Passage
from backend.services.policies import Timeouts
from backend.shortcut import direct


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
        # Where the gateway looked at the token, the token ends.
        Passage(authorization=mount.auth == "none", cookies=mount.cookies),
    )
    prefix = mount.prefix.encode("ascii")

    @direct
    async def view(**_: str) -> GatewayResponse:
        if mount.auth == "required" or (mount.auth == "optional" and bearer() is not None):
            await caller()
        request = inbound()
        rest = request.path[len(prefix) :] or b"/"
        if not (request.path.startswith(prefix) and rest.startswith(b"/")):
            raise NotFound  # the prefix or its slash was percent-encoded: nobody but an attacker does that
        target = rest + (b"?" + request.query if request.query else b"")
        return relayed(await gateway().forwarder.forward(request, upstream, target, rules))

    endpoint = f"mount{mount.prefix.replace('.', ':')}"  # a dot would name a blueprint
    for rule in (mount.prefix, f"{mount.prefix}/<anything:rest>"):
        app.add_url_rule(
            rule,
            endpoint,
            view,
            methods=list(mount.methods),
            provide_automatic_options="OPTIONS" not in mount.methods,
        )
