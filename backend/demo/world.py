"""The whole demo world, opened and closed as one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from backend.demo.answers import Answer, Headers, as_detail, as_json
from backend.demo.catalogue import Catalogue
from backend.demo.control import Control
from backend.demo.faults import SECOND, SERVICES, Switchboard
from backend.demo.manager import Manager
from backend.demo.model import Model
from backend.demo.retrieval import Retrieval
from backend.demo.service import Latency, Ledger, Routes, Service
from backend.demo.settings import Settings
from backend.demo.wire import Listener

_HTML: Headers = ((b"content-type", b"text/html; charset=utf-8"),)
_TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)

_OF_FLASK = Answer(404, _HTML, b"<!doctype html>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n")

# What each real framework says about a route it does not have.
MISSING: dict[str, Answer] = {
    "catalogue": as_detail("Not Found", 404),
    "manager": _OF_FLASK,
    "instance": Answer(404, _TEXT, b"404: Not Found"),
    "model": _OF_FLASK,
    "retrieval": _OF_FLASK,
    "control": as_json({"detail": "Not Found"}, 404),
}

# What each real framework adds, and a gateway must not let through.
HEADERS: dict[str, Headers] = {
    "catalogue": ((b"server", b"uvicorn"),),
    "manager": ((b"server", b"Werkzeug/3.0.1 Python/3.10.12"),),
    "instance": (
        (b"server", b"Python/3.10 aiohttp/3.9.5"),
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-credentials", b"true"),
    ),
    "model": ((b"server", b"gunicorn"),),
    "retrieval": ((b"server", b"Werkzeug/3.0.1 Python/3.10.12"),),
    "control": (),
}


class PortTaken(Exception):
    """A port of the world cannot be opened; the text names it and the argument that sets it."""

    def __init__(self, port: int, flag: str, reason: OSError) -> None:
        super().__init__(f"cannot open port {port} ({reason.strerror}); choose another with {flag}")


class World:
    """Catalogue, manager, instances and control, listening from `async with` to its end."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.latency = Latency(self.settings.latency_seconds)
        switchboard = Switchboard()
        host = self.settings.host
        names = (*SERVICES, *SECOND) if self.settings.second else SERVICES
        self._services = {
            name: Service(name, host, switchboard, *_manners(name)) for name in (*names, "control")
        }
        played = {name: self._services[name] for name in names}
        self._catalogue = Catalogue(self.latency, self.settings.list_form)
        self._model = Model(self.latency, self.settings.model_stays_open)
        self._retrieval = Retrieval(self.latency)
        self._manager = Manager(self.settings, self.latency, self._services["instance"])
        self.control = Control(switchboard, played, self._catalogue, self.latency)
        self._at: dict[str, Listener] = {}

    def __repr__(self) -> str:
        return f"<World {self._manager!r} {[*self._services.values()]}>"

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for service in self._services.values():
                stack.push_async_callback(service.close)
            stack.push_async_callback(self._manager.close)
            stack.push_async_callback(self._retrieval.close)
            for name, port, routes in self._doors():
                self._at[name] = await self._open(name, port, routes)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def catalogue_url(self) -> str:
        return self._at["catalogue"].url

    @property
    def manager_url(self) -> str:
        return self._at["manager"].url

    @property
    def model_url(self) -> str:
        return self._at["model"].url

    @property
    def retrieval_url(self) -> str:
        return self._at["retrieval"].url

    @property
    def control_url(self) -> str:
        return self._at["control"].url

    def ledger(self, service: str) -> Ledger:
        """The counted calls of one of SERVICES."""
        return self._services[service].ledger

    def ready(self) -> dict[str, object]:
        """What a parent process needs to know."""
        return {
            "ready": True,
            **{name: listener.url for name, listener in self._at.items()},
            "instance_ports": str(self.settings.instance_ports),
        }

    def _doors(self) -> tuple[tuple[str, int, Routes], ...]:
        return (
            ("catalogue", self.settings.catalogue_port, self._catalogue.routes()),
            ("manager", self.settings.manager_port, self._manager.routes()),
            ("model", self.settings.model_port, self._model.routes()),
            ("retrieval", self.settings.retrieval_port, self._retrieval.routes()),
            ("control", self.settings.control_port, self.control.routes()),
            *(self._second_doors() if self.settings.second else ()),
        )

    def _second_doors(self) -> tuple[tuple[str, int, Routes], ...]:
        """Two addresses of the catalogue share their avatars, those of the model no conversation."""
        model = Model(self.latency, self.settings.model_stays_open)
        return ("catalogue-2", 0, self._catalogue.routes()), ("model-2", 0, model.routes())

    async def _open(self, name: str, port: int, routes: Routes) -> Listener:
        try:
            return await self._services[name].open(port, routes)
        except OSError as error:
            raise PortTaken(port, f"--{name}-port", error) from error


def _manners(name: str) -> tuple[Answer, Headers]:
    """What the framework of a service says of routes that it has not, and what it adds to every answer."""
    first = name.removesuffix("-2")
    return MISSING[first], HEADERS[first]
