"""What watches a worker at work, opened and closed as one: counts, its loop, its place among workers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from backend.config import Settings
from backend.services.board import Board
from backend.services.counts import SLOT_SECONDS
from backend.services.figures import Figures
from backend.services.forwarding import Forwarder
from backend.services.gauges import Face, Gauges
from backend.services.history import History
from backend.services.http_client import HttpClient
from backend.services.loop_lag import LoopLag


@dataclass(frozen=True)
class Watching:
    """Everything that `/stats`, `/metrics` and health are told from."""

    figures: Figures
    lag: LoopLag
    board: Board
    history: History
    face: Face

    @classmethod
    def of(cls, settings: Settings, client: HttpClient, forwarder: Forwarder) -> "Watching":
        figures, lag, face = Figures(), LoopLag(), Face(settings.server)
        folder = settings.gateway_run_dir if settings.gateway_figures else None
        gauges = Gauges(client, forwarder, lag, face, figures.began)
        history = History(figures, partial(gauges.short, SLOT_SECONDS))
        return cls(figures, lag, Board(folder, figures, gauges.now), history, face)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            self.lag.start()
            stack.callback(self.lag.close)
            stack.push_async_callback(self.board.aclose)
            await self.board.start()
            stack.push_async_callback(self.history.aclose)
            await self.history.start(self.board.place)
            yield
