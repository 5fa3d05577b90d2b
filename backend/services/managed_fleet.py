"""Instances that a manager starts: one for each avatar, shared, counted by start calls."""

from typing import Any
from urllib.parse import quote

from backend.errors import GatewayError, NotFound, UpstreamError, UpstreamGarbage
from backend.services.dialects import INSTANCE, MANAGER
from backend.services.fleet import Misplaced, Unsure
from backend.services.forwarding import Forwarder, Upstream
from backend.services.policies import Timeouts
from backend.services.seats import Place, Ports, Standing

# A cold start loads a model onto a GPU, behind one lock for everybody: a minute, sometimes two.
START_TIMEOUTS = Timeouts(first_byte=120, idle=10, total=130)
# The manager ends the process and waits three seconds, also behind that lock.
RELEASE_TIMEOUTS = Timeouts(first_byte=15, idle=5, total=20)
INFO_TIMEOUTS = Timeouts(first_byte=3, idle=3, total=5)
MOST_LISTED = 1_000


class ManagedFleet:
    """The manager and what it says of its instances.

    Of several, each starts the avatars that prefer it and knows its own instances alone: what concerns one
    that stands is asked of the manager that has it.
    """

    counts = True
    dialect = INSTANCE

    def __init__(self, forwarder: Forwarder, manager: Upstream, ports: Ports) -> None:
        self._forwarder = forwarder
        self._manager = manager
        self._ports = ports

    async def start(self, user_id: int, avatar: str) -> list[Standing]:
        """Start an avatar, or have one more connection to it counted."""
        request = {"avatar_id": f"{avatar}_user_{user_id}", "avatar_name": avatar}
        info = await self._change(self._manager.sticky(avatar), "/avatar/start", request, START_TIMEOUTS)
        named = _place(info, avatar)
        if named is None:
            raise Unsure(UpstreamGarbage("The avatar manager did not say where the avatar runs."))
        try:
            upstream = self._ports.upstream(named.port)
        except UpstreamGarbage as error:
            raise Misplaced(named, error) from None
        if info.get("real_avatar_name", avatar) != avatar:
            raise Misplaced(named, UpstreamGarbage("The avatar manager started another avatar."))
        # Another instance may have lived, and died, at this port before.
        self._forwarder.readmit(upstream)
        return [_standing(info, named)]

    async def find(self, place: Place) -> Standing | None:
        """Ask for one instance. Raises GatewayError when a manager that may have it does not answer."""
        found = await self._found(place)
        return None if found is None else found[1]

    async def let_go(self, place: Place) -> None:
        """End one connection to an instance; one that does not run has none."""
        manager = self._manager
        if len(manager.origins) > 1:
            found = await self._found(place)
            if found is None:
                return
            manager = found[0]
        try:
            await self._change(
                manager, "/avatar/disconnect", {"avatar_id": place.instance_id}, RELEASE_TIMEOUTS
            )
        except NotFound:
            return

    async def standing(self) -> list[Standing]:
        """List what the managers run, as far as it makes sense. Raises GatewayError when one does not say."""
        found: list[Standing] = []
        for manager in self._manager.apart():
            found += await self._listed(manager)
        return found

    async def _listed(self, manager: Upstream) -> list[Standing]:
        answer = await self._forwarder.ask("GET", manager, "/avatar/list", INFO_TIMEOUTS)
        listed = MANAGER.object(answer.status, answer.content).get("data")
        if not isinstance(listed, list) or len(listed) > MOST_LISTED:
            raise UpstreamGarbage
        found = []
        for info in listed:
            place = _place(info, str(info.get("real_avatar_name"))) if isinstance(info, dict) else None
            if place is not None and info.get("running", True):
                found.append(_standing(info, place))
        return found

    async def _found(self, place: Place) -> tuple[Upstream, Standing] | None:
        """Return the manager that has an instance, and what it says of it."""
        trouble: GatewayError | None = None
        for manager in self._manager.apart():
            try:
                standing = await self._told(manager, place)
            except GatewayError as error:
                trouble = error
                continue
            if standing is not None:
                return manager, standing
        if trouble is not None:
            raise trouble
        return None

    async def _told(self, manager: Upstream, place: Place) -> Standing | None:
        path = f"/avatar/info/{quote(place.instance_id, safe='')}"
        try:
            answer = await self._forwarder.ask("GET", manager, path, INFO_TIMEOUTS)
            info = _data(MANAGER.object(answer.status, answer.content))
        except NotFound:
            return None
        found = _place(info, str(info.get("real_avatar_name")))
        return _standing(info, found) if found == place and info.get("running") else None

    async def _change(
        self, manager: Upstream, path: str, request: dict[str, str], timeouts: Timeouts
    ) -> dict[str, Any]:
        """Make a call that changes something. Raises Unsure when it may have been done all the same."""
        try:
            answer = await self._forwarder.ask("POST", manager, path, timeouts, request)
        except UpstreamError as error:
            if error.sent:
                raise Unsure(error) from error
            raise
        try:
            return _data(MANAGER.object(answer.status, answer.content))
        except UpstreamGarbage as error:
            raise Unsure(error) from error
        except GatewayError as error:
            if answer.status >= 500:
                raise Unsure(error) from error
            raise


def _place(info: dict[str, Any], avatar: str) -> Place | None:
    port, instance_id = info.get("port"), info.get("avatar_id")
    if isinstance(port, bool) or not isinstance(port, int) or not isinstance(instance_id, str):
        return None
    return Place(avatar, instance_id, port) if _usable(instance_id) and _storable(port) else None


def _usable(instance_id: str) -> bool:
    """Tell whether an instance id can be stored and asked for again."""
    return 0 < len(instance_id) <= 160 and instance_id.isprintable()


def _storable(port: int) -> bool:
    return 0 <= port < 1 << 31


def _count(info: dict[str, Any]) -> int | None:
    connections = info.get("connections")
    return connections if isinstance(connections, int) and not isinstance(connections, bool) else None


def _standing(info: dict[str, Any], place: Place) -> Standing:
    gpu = info.get("gpu")
    return Standing(place, _count(info), gpu if isinstance(gpu, int | str) else None)


def _data(envelope: dict[str, Any]) -> dict[str, Any]:
    data = envelope.get("data")
    return data if isinstance(data, dict) else {}
