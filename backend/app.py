"""The wiring: settings in, a Flask application and its ASGI face out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from flask import Flask

from backend import cli, doctor, hooks, openapi
from backend.asgi import Bridge, GatewayFlask
from backend.config import Settings
from backend.context import EXTENSION, Gateway
from backend.cors import Cors
from backend.request_log import RequestLog
from backend.routes import docs, mounts
from backend.routes.auth import auth
from backend.routes.avatar import avatar
from backend.routes.health import health
from backend.routes.webrtc import webrtc
from backend.services import database, speech
from backend.services.accounts import Accounts
from backend.services.catalogue import Catalogue
from backend.services.database import Database
from backend.services.forwarding import Forwarder, Upstream
from backend.services.http_client import HttpClient
from backend.services.instances import Instances, Ports
from backend.services.passwords import Passwords
from backend.services.readiness import Readiness
from backend.services.signalling import Signalling
from backend.services.signing_key import load_key
from backend.services.threads import Threads
from backend.services.tokens import Tokens


@dataclass(frozen=True)
class Application:
    """Both faces of one gateway: `asgi` for ASGI servers, `flask` for tools and WSGI servers."""

    flask: GatewayFlask
    asgi: Bridge


def create_app(settings: Settings) -> Application:
    """Build a gateway; nothing is opened before its lifespan begins.

    Raises SettingsError for settings that contradict each other or what is on disk.
    """
    flask = GatewayFlask("backend", life=lambda: life())
    threads = Threads(settings.gateway_view_threads, waiting=200, name="view")
    gateway = _gateway(flask, settings)
    flask.extensions[EXTENSION] = gateway
    for blueprint in (auth, avatar, health, webrtc):
        flask.register_blueprint(blueprint)
    docs.register(flask, openapi.document(flask.url_map.iter_rules(), flask.view_functions))
    mounts.register(flask, settings.gateway_mounts)
    hooks.register(flask, Cors(settings.cors_origins))
    cli.register(flask)
    doctor.register(flask)
    life = _lifespan(flask, gateway, threads)
    bridge = Bridge(flask, life, threads=threads, observer=RequestLog(settings.slow_request_seconds))
    return Application(flask, bridge)


def _gateway(flask: Flask, settings: Settings) -> Gateway:
    store = Database(database.attach(flask, settings), threads=settings.gateway_view_threads)
    passwords = Passwords()
    client = HttpClient(settings)
    forwarder = Forwarder(client)
    catalogue = Upstream.at("catalogue", *settings.avatar_service_url)
    manager = Upstream.at("manager", *settings.avatar_manager_url)
    ports = Ports(settings.avatar_instance_host, *settings.avatar_instance_ports)
    instances = Instances(forwarder, manager, store, ports)
    return Gateway(
        settings=settings,
        database=store,
        passwords=passwords,
        accounts=Accounts(store, passwords),
        tokens=Tokens(load_key(settings), store, staleness_seconds=settings.gateway_revocation_seconds),
        client=client,
        forwarder=forwarder,
        catalogue=Catalogue(forwarder, catalogue, stale_after_seconds=settings.gateway_stale_list_seconds),
        instances=instances,
        signalling=Signalling(forwarder, instances),
        speech=speech.load(settings.gateway_tts_models),
        readiness=Readiness(
            store,
            forwarder,
            {"catalogue": (catalogue, "/avatar/get_avatars"), "manager": (manager, "/health")},
        ),
    )


def _lifespan(
    flask: Flask, gateway: Gateway, threads: Threads
) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        """Open everything in order; close it in reverse, also when opening stops midway."""
        async with AsyncExitStack() as stack:
            stack.callback(threads.close)
            stack.push_async_callback(gateway.database.aclose)
            stack.push_async_callback(gateway.passwords.aclose)
            await asyncio.to_thread(database.upgrade, flask)
            await stack.enter_async_context(gateway.client)
            stack.push_async_callback(gateway.tokens.aclose)
            await gateway.tokens.start()
            stack.push_async_callback(gateway.catalogue.aclose)
            stack.push_async_callback(gateway.instances.aclose)
            yield

    return life
