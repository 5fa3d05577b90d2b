"""The control port: flips faults, sets the latency, and tells what the services have seen."""

from __future__ import annotations

from collections.abc import Mapping

from backend.demo.answers import Answer, as_detail, as_json
from backend.demo.catalogue import Catalogue
from backend.demo.faults import Switch, Switchboard
from backend.demo.service import Latency, Routes, Service
from backend.demo.wire import Exchange


class Control:
    """The switches and meters of one demo world."""

    def __init__(
        self,
        switchboard: Switchboard,
        services: Mapping[str, Service],
        catalogue: Catalogue,
        latency: Latency,
    ) -> None:
        self._switchboard = switchboard
        self._services = services
        self._catalogue = catalogue
        self._latency = latency

    def routes(self) -> Routes:
        return {
            ("GET", "/faults"): self.faults,
            ("PUT", "/faults"): self.put_fault,
            ("DELETE", "/faults"): self.clear_faults,
            ("GET", "/counters"): self.counters,
            ("GET", "/latency"): self.latency,
            ("PUT", "/latency"): self.put_latency,
            ("GET", "/adds"): self.adds,
        }

    async def put(self, switch: Switch) -> None:
        """Turn a fault on."""
        self._switchboard.put(switch)
        await self._heed_refusals()

    async def clear(self) -> None:
        """Turn every fault off."""
        self._switchboard.clear()
        await self._heed_refusals()

    async def faults(self, exchange: Exchange) -> Answer:
        return as_json({"faults": self._switchboard.listed()})

    async def put_fault(self, exchange: Exchange) -> Answer:
        try:
            switch = Switch.parse(await exchange.read_object())
        except ValueError as error:
            return as_detail(str(error), 400)
        if switch.service not in self._services:
            return as_detail(f"this world has no {switch.service}: start it with --second", 400)
        await self.put(switch)
        return await self.faults(exchange)

    async def clear_faults(self, exchange: Exchange) -> Answer:
        await self.clear()
        return await self.faults(exchange)

    async def counters(self, exchange: Exchange) -> Answer:
        return as_json({name: vars(service.ledger) for name, service in self._services.items()})

    async def latency(self, exchange: Exchange) -> Answer:
        return as_json(vars(self._latency))

    async def put_latency(self, exchange: Exchange) -> Answer:
        try:
            seconds = float((await exchange.read_object())["seconds"])
        except (ValueError, KeyError, TypeError):
            return as_detail('expected {"seconds": number}', 400)
        if not 0 <= seconds < 3600:
            return as_detail("seconds is from 0 to an hour", 400)
        self._latency.seconds = seconds
        return await self.latency(exchange)

    async def adds(self, exchange: Exchange) -> Answer:
        return as_json({"adds": [*self._catalogue.adds]})

    async def _heed_refusals(self) -> None:
        for service in self._services.values():
            await service.heed_refusal()
