"""The wiring: settings in, a Flask application and its ASGI face out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from flask import Flask

from backend import VERSION, cli, doctor, hooks, openapi
from backend.asgi import Bridge, GatewayFlask
from backend.config import Settings
from backend.context import EXTENSION, Gateway
from backend.cors import Cors
from backend.observer import Observer
from backend.request_log import RequestLog
from backend.routes import console, docs, mounts
from backend.routes.admin import admin
from backend.routes.auth import auth
from backend.routes.avatar import avatar
from backend.routes.chat import chat
from backend.routes.figures import figures
from backend.routes.files import files
from backend.routes.health import health
from backend.routes.pictures import pictures as picture_routes
from backend.routes.user import user
from backend.routes.webrtc import webrtc
from backend.services import database, speech
from backend.services.accounts import Accounts
from backend.services.administration import Administration
from backend.services.answering import Answering, Helpers
from backend.services.archive import Archive
from backend.services.audit import Audit
from backend.services.catalogue import Catalogue
from backend.services.change_feed import ChangeFeed
from backend.services.chats import Chats
from backend.services.database import Database
from backend.services.file_store import FileStore
from backend.services.files import Files
from backend.services.fleet import Fleet
from backend.services.forwarding import MEGABYTE, Forwarder, Upstream
from backend.services.health_checks import HealthChecks
from backend.services.housekeeping import Housekeeping, Patience
from backend.services.http_client import HttpClient
from backend.services.language_models import LanguageModels
from backend.services.library import Library
from backend.services.livetalking_fleet import LiveTalkingFleet
from backend.services.mail import Mail
from backend.services.managed_fleet import ManagedFleet
from backend.services.model import Model
from backend.services.narration import Narration
from backend.services.notifications import Notifications
from backend.services.occupancy import crowds
from backend.services.own_account import OwnAccount
from backend.services.panel import Panel, Sources
from backend.services.passwords import Passwords
from backend.services.peer_watch import PeerWatch
from backend.services.pictures import Pictures
from backend.services.profiles import Profiles
from backend.services.rate_limits import RateLimits
from backend.services.readiness import Readiness, files_check, loop_check, places_check
from backend.services.redis_link import RedisLink, linked
from backend.services.retrieval import Retrieval
from backend.services.seats import Ports
from backend.services.sessions import Sessions
from backend.services.signalling import Signalling
from backend.services.signing_key import load_key
from backend.services.threads import Threads
from backend.services.tokens import Tokens
from backend.services.traces import tracer_of
from backend.services.upkeep import Upkeep
from backend.services.verification import Verification
from backend.services.viewers import Viewers
from backend.services.watching import Watching
from backend.services.websocket.sockets import Sockets


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
    key = load_key(settings)
    shared = Shared.of(settings, key)
    gateway = _gateway(flask, settings, key, shared)
    flask.extensions[EXTENSION] = gateway
    for blueprint in (admin, auth, avatar, chat, figures, files, health, picture_routes, user, webrtc):
        flask.register_blueprint(blueprint)
    docs.register(flask, openapi.document(flask.url_map.iter_rules(), flask.view_functions))
    console.register(flask)
    mounts.register(flask, settings.gateway_mounts)
    hooks.register(flask, Cors(settings.cors_origins), mounts.socket_prefixes(settings.gateway_mounts))
    cli.register(flask)
    doctor.register(flask)
    tracer = gateway.watching.face.tracer = tracer_of(settings)
    life = _lifespan(flask, gateway, shared, threads)
    counted = gateway.watching.figures if settings.gateway_figures else None
    observer = Observer(RequestLog(settings.slow_request_seconds), counted)
    bridge = Bridge(
        flask,
        life,
        threads=threads,
        observer=observer,
        timed=settings.gateway_figures,
        tracer=tracer,
    )
    bridge.at_stop.append(gateway.viewers.close)
    gateway.watching.face.bridge = bridge
    gateway.watching.face.viewers = gateway.viewers
    return Application(flask, bridge)


@dataclass(frozen=True)
class Shared:
    """What ties processes together beside the database, where REDIS_URL says so."""

    link: RedisLink | None = None
    feed: ChangeFeed | None = None

    @classmethod
    def of(cls, settings: Settings, key: str) -> "Shared":
        if settings.redis_url is None:
            return cls()
        link = linked(settings.redis_url.get_secret_value(), key)
        return cls(link, ChangeFeed(link, staleness_seconds=settings.gateway_revocation_seconds))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if self.link is not None and self.feed is not None:
                stack.push_async_callback(self.link.aclose)
                await self.link.start()
                stack.push_async_callback(self.feed.aclose)
                self.feed.start()
            yield


@dataclass(frozen=True)
class Upstreams:
    """The services behind the gateway; the retrieval service is an index of documents, too."""

    catalogue: Upstream
    manager: Upstream
    model: Upstream
    retrieval: Upstream
    index: Upstream

    @classmethod
    def of(cls, settings: Settings) -> "Upstreams":
        return cls(
            catalogue=Upstream.at("catalogue", *settings.avatar_service_url),
            manager=Upstream.at("manager", *settings.avatar_manager_url),
            model=Upstream.at("model", *settings.llm_url),
            retrieval=Upstream.at("retrieval", *settings.rag_url),
            index=Upstream.at("index", *settings.rag_url),
        )

    def checked(self, settings: Settings) -> list[Upstream]:
        """Return those whose health is asked for; mounts with one address are none of them."""
        of_mounts = map(mounts.upstream_of, settings.gateway_mounts)
        several = [upstream for upstream in of_mounts if len(upstream.origins) > 1]
        return [self.catalogue, self.manager, self.model, self.retrieval, *several]


def _gateway(flask: Flask, settings: Settings, key: str, shared: Shared) -> Gateway:
    store = Database(database.attach(flask, settings), threads=settings.gateway_view_threads)
    passwords = Passwords()
    client = HttpClient(settings)
    forwarder = Forwarder(client)
    upstreams = Upstreams.of(settings)
    notifications = Notifications(store)
    upkeep = _upkeep(settings, forwarder, upstreams.manager, store, notifications)
    sessions = upkeep.sessions
    tokens = Tokens(key, store, staleness_seconds=settings.gateway_revocation_seconds, feed=shared.feed)
    mail = Mail.of(settings)
    verification = Verification(key, store, mail)
    profiles = Profiles(store)
    pictures = Pictures(store, profiles, settings.files_dir / "avatars")
    administration = Administration(store, passwords, tokens, sessions, pictures)
    chats = Chats(store)
    watching = Watching.of(settings, client, forwarder)
    readiness = _readiness(settings, store, forwarder, upstreams, watching, shared)
    return Gateway(
        settings=settings,
        database=store,
        passwords=passwords,
        accounts=Accounts(store, passwords),
        mail=mail,
        verification=verification,
        own_account=OwnAccount(store, passwords, verification, tokens, administration),
        tokens=tokens,
        rate_limits=RateLimits(settings, key, link=shared.link),
        client=client,
        forwarder=forwarder,
        catalogue=Catalogue(
            forwarder, upstreams.catalogue, stale_after_seconds=settings.gateway_stale_list_seconds
        ),
        sessions=sessions,
        upkeep=upkeep,
        signalling=Signalling(forwarder, sessions),
        speech=speech.load(settings.gateway_tts_models),
        files=Files(
            store,
            FileStore(settings.files_dir),
            Library(forwarder, upstreams.index),
            quota=int(settings.gateway_quota_mb * MEGABYTE),
        ),
        profiles=profiles,
        pictures=pictures,
        notifications=notifications,
        administration=administration,
        audit=Audit(store),
        language_models=LanguageModels(forwarder, upstreams.model),
        readiness=readiness,
        health_checks=HealthChecks(
            forwarder, upstreams.checked(settings), every_seconds=settings.gateway_check_seconds
        ),
        watching=watching,
        sockets=Sockets(forwarder, tokens, revocation_seconds=settings.gateway_revocation_seconds),
        viewers=_viewers(watching, store, tokens, readiness),
        chats=chats,
        answering=_answering(forwarder, upstreams, chats, sessions),
    )


def _upkeep(
    settings: Settings, forwarder: Forwarder, manager: Upstream, store: Database, notifications: Notifications
) -> Upkeep:
    ports = Ports(settings.avatar_instance_host, *settings.avatar_instance_ports)
    fleet: Fleet = ManagedFleet(forwarder, manager, ports)
    if settings.avatar_kind == "livetalking":
        fleet = LiveTalkingFleet(forwarder, ports, room=settings.gateway_instance_sessions)
    waiting = settings.gateway_avatar_waiting
    sessions = Sessions(fleet, store, ports, most_waiting=waiting, on_new=notifications.avatar_ready)
    patience = Patience(settings.gateway_offer_seconds, settings.gateway_avatar_idle_seconds)
    return Upkeep(sessions, Housekeeping(sessions, patience), PeerWatch(sessions, forwarder, ports))


def _readiness(
    settings: Settings,
    store: Database,
    forwarder: Forwarder,
    upstreams: Upstreams,
    watching: Watching,
    shared: Shared,
) -> Readiness:
    probed = {
        "catalogue": (upstreams.catalogue, "/avatar/get_avatars"),
        "manager": (upstreams.manager, "/health"),
        "model": (upstreams.model, "/health"),
        "retrieval": (upstreams.retrieval, "/health"),
    }
    if settings.avatar_kind == "livetalking":
        del probed["manager"]
    checks = {
        "loop": loop_check(watching.lag),
        "places": places_check(forwarder),
        "files": files_check(settings.files_dir),
    }
    return Readiness(store, forwarder, probed, checks, link=shared.link)


def _viewers(watching: Watching, store: Database, tokens: Tokens, readiness: Readiness) -> Viewers:
    sources = Sources(lambda: tokens.count, partial(crowds, store), readiness.report)
    return Viewers(Panel(VERSION, watching, sources))


def _answering(forwarder: Forwarder, upstreams: Upstreams, chats: Chats, sessions: Sessions) -> Answering:
    return Answering(
        Helpers(
            chats=chats,
            model=Model(forwarder, upstreams.model),
            retrieval=Retrieval(forwarder, upstreams.retrieval),
            narration=Narration(forwarder, sessions),
            archive=Archive(chats),
        )
    )


def _lifespan(
    flask: Flask, gateway: Gateway, shared: Shared, threads: Threads
) -> Callable[[], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        """Open everything in order; close it in reverse, also when opening stops midway."""
        async with AsyncExitStack() as stack:
            stack.callback(threads.close)
            if (tracer := gateway.watching.face.tracer) is not None:
                stack.push_async_callback(asyncio.to_thread, tracer.close)
                tracer.start()
            stack.push_async_callback(gateway.database.aclose)
            stack.push_async_callback(gateway.passwords.aclose)
            await asyncio.to_thread(database.upgrade, flask)
            await stack.enter_async_context(gateway.client)
            stack.push_async_callback(gateway.health_checks.aclose)
            gateway.health_checks.start()
            await stack.enter_async_context(shared.opened())
            stack.push_async_callback(gateway.tokens.aclose)
            await gateway.tokens.start()
            stack.push_async_callback(gateway.catalogue.aclose)
            stack.push_async_callback(gateway.upkeep.aclose)
            gateway.upkeep.start()
            stack.push_async_callback(gateway.files.aclose)
            await gateway.files.start()
            stack.push_async_callback(gateway.mail.aclose)
            await gateway.mail.start()
            stack.push_async_callback(gateway.verification.outbox.aclose)
            gateway.verification.outbox.start()
            stack.push_async_callback(gateway.pictures.aclose)
            await gateway.pictures.start()
            stack.push_async_callback(gateway.administration.aclose)
            stack.push_async_callback(gateway.answering.aclose)
            stack.push_async_callback(gateway.readiness.aclose)
            await stack.enter_async_context(gateway.watching.opened())
            stack.push_async_callback(gateway.sockets.aclose)
            stack.push_async_callback(gateway.viewers.aclose)
            yield

    return life
