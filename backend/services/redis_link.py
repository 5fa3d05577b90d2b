"""The one way to Redis: a bounded pool, short limits, and a way around it while it does not answer.

Nothing waits for a Redis that is known to be away: `run` raises at once, and only a probe of its own, in
the background, finds out that it is back.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from backend.config import SettingsError

log = logging.getLogger(__name__)

T = TypeVar("T")

COMMAND_SECONDS = 0.5  # connecting, and one command; on one network both take a millisecond
PLACE_SECONDS = 0.1  # wait for one of the places; who gets none does without Redis
PLACES = 16  # commands at once
CONNECTIONS = PLACES + 2  # beside them the subscription and the probe
PROBE_SECONDS = 1.0  # between probes
BACK_SECONDS = 0.25  # between probes while it is away


class RedisAway(Exception):
    """Redis did not do it; whoever asked goes on without."""


class RedisLink:
    """A Redis that may be lost at any time; all on one event loop."""

    def __init__(self, url: str, *, prefix: str) -> None:
        """Prepare, without connecting. Raises SettingsError, which does not show the address."""
        self.prefix = prefix
        try:
            # What the address says wins over what is said here: the settings let only TLS options pass.
            self.pool: Any = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=COMMAND_SECONDS,
                socket_timeout=COMMAND_SECONDS,
                socket_connect_timeout=COMMAND_SECONDS,
                socket_keepalive=True,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
                client_name="avatar-gateway",
            )
        except (ValueError, TypeError):
            raise SettingsError("REDIS_URL: needs the form redis://:password@host:6379/0") from None
        self._redis: Any = Redis(connection_pool=self.pool)
        self._places = asyncio.Semaphore(PLACES)
        self._available = False
        self._told = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether it answered when it was last asked anything."""
        return self._available

    async def start(self) -> None:
        """Find out whether it is there, and keep an eye on it; does not fail without it."""
        await self._probe()
        self._watch = asyncio.create_task(self._probe_for_ever(), name="redis probe")

    async def aclose(self) -> None:
        self._available = False
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(COMMAND_SECONDS):
                await self._redis.aclose()
                await self.pool.disconnect()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something with Redis within half a second. Raises RedisAway, at once while it is away."""
        if not self._available:
            raise RedisAway
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise RedisAway from None
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                return await work()
        except (RedisError, OSError, TimeoutError) as exc:
            self._lost(exc)
            raise RedisAway from exc
        finally:
            self._places.release()

    async def publish(self, channel: str, text: str) -> None:
        """Tell all who listen on a channel. Raises RedisAway."""
        await self.run(lambda: self._redis.publish(f"{self.prefix}:{channel}", text))

    @contextlib.asynccontextmanager
    async def subscribed(self, channel: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
        """Listen on a channel: a call waits so many seconds for the next message. Raises RedisAway."""
        if not self._available:
            raise RedisAway
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)

        async def following(seconds: float) -> bytes | None:
            message = await pubsub.get_message(timeout=seconds)
            return None if message is None else bytes(message["data"])

        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await pubsub.subscribe(f"{self.prefix}:{channel}")
            yield following
        except (RedisError, OSError, TimeoutError) as exc:
            self._lost(exc)
            raise RedisAway from exc
        finally:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(COMMAND_SECONDS):
                    await pubsub.aclose()

    async def _probe_for_ever(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS if self._available else BACK_SECONDS)
            await self._probe()

    async def _probe(self) -> None:
        """Write something: a full Redis and a replica that takes no writes are of no use here."""
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                await self._redis.set(f"{self.prefix}:probe", b"1", px=10_000)
        except (RedisError, OSError, TimeoutError) as exc:
            self._lost(exc)
            return
        if self._told:
            log.info("Redis answers again")
        self._available, self._told = True, False

    def _lost(self, exc: BaseException) -> None:
        self._available = False
        if not self._told:
            log.warning("Redis does not answer, going on without it: %s", _reason(exc))
        self._told = True

    def __repr__(self) -> str:
        return f"<RedisLink {'available' if self._available else 'away'}>"


def linked(url: str, key: str) -> RedisLink:
    """Prepare a link for the gateways that share a signing key: nobody else's names are theirs."""
    return RedisLink(url, prefix=f"avatar-gateway:{hashlib.sha256(key.encode()).hexdigest()[:12]}")


def _reason(exc: BaseException) -> str:
    """Say what went wrong without the address, which may hold a password."""
    if isinstance(exc, ResponseError):
        return f"{type(exc).__name__}: {exc}"
    cause = exc.__cause__ if isinstance(exc.__cause__, OSError) else exc
    detail = cause.strerror if isinstance(cause, OSError) else None
    return f"{type(exc).__name__}: {detail}" if detail else type(exc).__name__
