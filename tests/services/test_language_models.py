import json

import pytest

from backend.services import language_models
from backend.services.forwarding import Forwarder, Upstream
from backend.services.language_models import LanguageModels
from tests.support.peer import Exchange, Peer
from tests.support.ports import free_port
from tests.support.upstream import client_of


class Model:
    def __init__(self, body: bytes, status: bytes = b"200 OK") -> None:
        self.body, self.status, self.asked = body, status, 0

    async def __call__(self, exchange: Exchange) -> None:
        self.asked += 1
        if self.body == b"silent":
            await exchange.client_left()
        else:
            await exchange.reply(self.body, status=self.status)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("model", "name", "status", "version"),
    [
        (Model(json.dumps({"status": "ok", "model": "Qwen-7B", "version": "1.2"}).encode()),
         "Qwen-7B", "active", "1.2"),
        (Model(b'{"status":"ok"}'), "Chat model", "active", ""),
        (Model(b"fine"), "Chat model", "active", ""),
        (Model(b'["model"]'), "Chat model", "active", ""),
        (Model(b"[" * 100_000), "Chat model", "active", ""),
        (Model(b'{"model":7,"version":null}'), "Chat model", "active", ""),
        (Model(b'{"error":"no GPU"}', b"500 No"), "Chat model", "unavailable", ""),
    ],
)  # fmt: skip
async def test_row_says_what_the_model_says(model: Model, name: str, status: str, version: str) -> None:
    async with Peer(model) as peer, client_of("direct") as client:
        rows = await LanguageModels(Forwarder(client), Upstream.at("model", peer.url)).all()
    assert [(row.name, row.status, row.version) for row in rows] == [(name, status, version)]


@pytest.mark.asyncio
async def test_looking_often_asks_the_model_once() -> None:
    model = Model(b"{}")
    async with Peer(model) as peer, client_of("direct") as client:
        models = LanguageModels(Forwarder(client), Upstream.at("model", peer.url))
        for _ in range(5):
            await models.all()
    assert model.asked == 1


@pytest.mark.asyncio
async def test_model_that_is_away_or_silent_is_unavailable_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language_models, "PROBE_SECONDS", 0.1)
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with Peer(Model(b"silent")) as peer, client_of("direct") as client:
        for url in (peer.url, nowhere):
            rows = await LanguageModels(Forwarder(client), Upstream.at("model", url)).all()
            assert [row.status for row in rows] == ["unavailable"]
