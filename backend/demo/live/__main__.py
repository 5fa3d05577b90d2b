"""`python -m backend.demo.live NAME`: JSON commands on standard input, answers and events on standard output.

It ends when its input does, so it never outlives the world that started it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys

from backend.demo.live.stage import Fields, Stage

# A recording of a few minutes, as base64, is the longest line.
LINE_BYTES = 32 * 1024 * 1024


async def run(name: str) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    stage = Stage(name, tell)
    offers: set[asyncio.Task[None]] = set()
    tell({"ready": True})
    try:
        while line := await lines.readline():
            command = json.loads(line)
            if command["do"] == "offer":  # takes its time, and nobody's words wait for it
                offer = asyncio.create_task(respond(stage, command))
                offers.add(offer)
                offer.add_done_callback(offers.discard)
            else:
                await respond(stage, command)
    finally:
        for offer in list(offers):
            offer.cancel()
        await asyncio.gather(*offers, return_exceptions=True)
        await stage.close()


async def respond(stage: Stage, command: Fields) -> None:
    tell({"id": command["id"], **await stage.obey(command)})


def tell(fields: Fields) -> None:
    try:
        print(json.dumps(fields), flush=True)
    except BrokenPipeError:  # the world died; the end of the input follows
        sys.stdout = None


if __name__ == "__main__":
    # Ctrl-C is for the world, which closes the input when its own work is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(run(sys.argv[1]))
