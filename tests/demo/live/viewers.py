"""A viewer of a demo avatar: a peer connection as a browser makes it, and what it sees and hears."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError

from backend.demo.live.drawing import MOUTH_BOX

# A mouth that speaks moves; compression and swaying move a resting one less.
PATIENCE_SECONDS = 30.0


class Viewer:
    """Keeps the latest frame and the loudest sample since it was last asked."""

    def __init__(self) -> None:
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.session = 0
        self.frames: list[Any] = []
        self.loudest = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.peer.add_listener(
            "track", lambda track: self._tasks.append(asyncio.create_task(self._take(track)))
        )

    async def offer(self, kinds: tuple[str, ...] = ("video", "audio")) -> dict[str, str]:
        for kind in kinds:
            self.peer.addTransceiver(kind, direction="recvonly")
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return {"sdp": self.peer.localDescription.sdp, "type": "offer"}

    async def accept(self, answer: dict[str, Any]) -> None:
        self.session = answer["sessionid"]
        await self.peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], "answer"))

    async def until_frames(self, count: int) -> None:
        wanted = len(self.frames) + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.frames) < wanted:  # noqa: ASYNC110 - frames come from the network
                await asyncio.sleep(0.02)

    async def mouth_motion(self, count: int = 30) -> float:
        """How much the mouth changes from frame to frame: the largest of some steps."""
        await self.until_frames(count)
        left, top, right, bottom = MOUTH_BOX
        mouths = [
            frame.to_ndarray(format="rgb24")[top:bottom, left:right].astype(np.int16)
            for frame in self.frames[-count:]
        ]
        return max(float(np.abs(b - a).mean()) for a, b in itertools.pairwise(mouths))

    async def close(self) -> None:
        await self.peer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                if track.kind == "video":
                    self.frames.append(frame)
                else:
                    self.loudest = max(self.loudest, int(np.abs(frame.to_ndarray()).max()))


@contextlib.asynccontextmanager
async def watching(
    client: httpx.AsyncClient, instance_url: str, kinds: tuple[str, ...] = ("video", "audio")
) -> AsyncIterator[Viewer]:
    viewer = Viewer()
    try:
        answer = await client.post(f"{instance_url}/offer", json=await viewer.offer(kinds), timeout=60)
        await viewer.accept(answer.json())
        yield viewer
    finally:
        await viewer.close()
