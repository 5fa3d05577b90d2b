"""A gateway that takes WebSockets for a scripted peer, and what its refusals look like."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from backend.config import Settings
from tests.support.gateway import Served, mount, serving, settings_for
from tests.support.peer import Peer, Script
from tests.support.wire import Pair, Reply


@contextlib.asynccontextmanager
async def gateway_over(tmp_path: Path, script: Script, **over: Any) -> AsyncIterator[tuple[Peer, Served]]:
    """A gateway with a scripted peer at /m, which takes WebSockets."""
    settings = {key: over.pop(key) for key in list(over) if key in Settings.model_fields}
    async with Peer(script) as peer:
        mounts = [mount("/m", peer.url + "/base", **{"websocket": True, **over})]
        async with serving(settings_for(tmp_path, gateway_mounts=mounts, **settings)) as served:
            yield peer, served


def refused(reply: Reply, status: int, code: str) -> None:
    """It is an answer like every other error, and nothing of a WebSocket."""
    assert reply.status == status, reply
    told = json.loads(reply.body)
    assert set(told) == {"msg", "code", "request_id", "retryable"}
    assert told["code"] == code
    assert reply.get(b"x-request-id") == told["request_id"].encode()


async def bearer(served: Served) -> Pair:
    return b"Authorization", b"Bearer " + (await served.token()).encode()
