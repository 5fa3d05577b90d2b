"""How often one may try: sign-ins, codes and registrations by e-mail and by address, questions by user.

Counted in Redis for all processes together where there is one, else and meanwhile in this process. Windows
slide and are short: who was shut out, by whomever, gets in again within the window of the setting.
"""

import hashlib
import hmac
import ipaddress
import math
from dataclasses import dataclass
from typing import Protocol

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage

from backend.config import Settings
from backend.errors import TooManyRequests
from backend.services.accounts import normalised
from backend.services.redis_link import RedisAway, RedisLink
from backend.services.windows import Counts, Windows

# Who may choose addresses freely within their own network chooses among these many.
IPV6_NETWORK_BITS = 64
SOON_SECONDS = 0.001  # the window slid on between the two questions

TOO_MANY_SIGN_INS = "Too many sign-ins for this e-mail. Please wait a moment and try again."
TOO_MANY_CODES = "Too many codes were sent to this e-mail. Please try again later."
TOO_MANY_QUESTIONS = "You ask faster than can be answered. Please wait a moment."


class Store(Protocol):
    """What counts."""

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool: ...

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]: ...


@dataclass(frozen=True)
class Limit:
    """How many in how many seconds, and what one who wants more is told."""

    kind: str
    amount: int
    seconds: int
    msg: str | None = None

    @classmethod
    def parsed(cls, kind: str, text: str, msg: str | None = None) -> "Limit":
        item: RateLimitItem = parse(text)
        return cls(kind, item.amount, item.get_expiry(), msg)


class RateLimits:
    """Raises TooManyRequests, with the seconds to wait, for whoever asks too often."""

    def __init__(
        self, settings: Settings, key: str, *, link: RedisLink | None = None, memory: Windows | None = None
    ) -> None:
        """`key` keeps e-mails and addresses unreadable where they are counted."""
        self._key = key.encode()
        self._login = Limit.parsed("login", settings.gateway_login_limit, TOO_MANY_SIGN_INS)
        self._code = Limit.parsed("code", settings.gateway_code_limit, TOO_MANY_CODES)
        self._address = Limit.parsed("address", settings.gateway_address_limit)
        self._question = Limit.parsed("question", settings.gateway_chat_limit, TOO_MANY_QUESTIONS)
        self._memory = Windows() if memory is None else memory
        self._link = link
        self._shared: Store | None = None
        if link is not None:
            # The pool knows the address; this one only tells the kind of server.
            self._shared = RedisStorage(
                "async+redis://localhost:6379",
                implementation="redispy",
                key_prefix=f"{link.prefix}:limits",
                connection_pool=link.pool,
            )

    async def login(self, email: str, address: str) -> None:
        """Count an attempt to sign in, right or wrong."""
        await self._count(self._address, _network(address))
        await self._count(self._login, normalised(email))

    async def code(self, email: str, address: str) -> None:
        """Count a verification code that is asked for."""
        await self._count(self._address, _network(address))
        await self._count(self._code, normalised(email))

    async def registration(self, address: str) -> None:
        """Count an attempt to register, or to use a code."""
        await self._count(self._address, _network(address))

    async def question(self, user_id: int) -> None:
        """Count a question to the chat model."""
        await self._count(self._question, str(user_id))

    async def _count(self, limit: Limit, who: str) -> None:
        digest = hmac.new(self._key, f"{limit.kind} {who}".encode("utf-8", "replace"), hashlib.sha256)
        key = f"{limit.kind}/{digest.hexdigest()[:32]}"
        wait: float | None = None
        if self._shared is not None and self._link is not None and self._link.available:
            shared = self._shared
            try:
                wait = await self._link.run(lambda: _wait_seconds(shared, limit, key))
            except RedisAway:
                wait = None
        if wait is None:
            wait = await _wait_seconds(self._memory, limit, key)
        if wait > 0:
            # At the very moment it is still one too many.
            raise TooManyRequests(limit.msg, retry_after_seconds=math.floor(wait) + 1)


async def _wait_seconds(store: Store, limit: Limit, key: str) -> float:
    """Count one more and return 0, or how long one has to wait."""
    if await store.acquire_sliding_window_entry(key, limit.amount, limit.seconds):
        return 0.0
    counts = Counts(*await store.get_sliding_window(key, limit.seconds))
    return max(SOON_SECONDS, counts.wait_seconds(limit.amount, limit.seconds))


def _network(address: str) -> str:
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a server that does not know who calls: all of them together
        return address
    if known.version == 4:
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, IPV6_NETWORK_BITS), strict=False))
