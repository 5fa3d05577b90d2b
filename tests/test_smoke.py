import pytest

from tests.support.gateway import mount, serving, settings_for, spawned
from tests.support.peer import Exchange, Peer


async def echo(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.reply(b"hello")


@pytest.mark.asyncio
async def test_mount_forwards(tmp_path):
    async with Peer(echo) as peer:
        settings = settings_for(tmp_path, gateway_mounts=[mount("/m", peer.url, methods=["GET", "POST"])])
        async with serving(settings) as served:
            answer = await served.http.post("/m/x%2fy?q=1", content=b"abc")
            assert answer.content == b"hello"
            assert peer.heads[0].target == b"/x%2fy?q=1"
            print(answer.headers, peer.heads[0])


def test_run_starts(tmp_path):
    with spawned(tmp_path, "--demo", "--demo-latency=0.1") as gateway:
        assert gateway.stop() == 0
        print(gateway.log.read_text())
