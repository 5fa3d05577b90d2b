"""Sign-in tokens: made, checked, ended.

A token is a signed JWT, but its signature says only who made it. Whether it is still good is known from
`login_session`, of which every process keeps a copy in memory:

    check ──► seen before? ──► times ──► copy fresh? ──► the user's live session?  ──► Principal
                  │ no                        │ no              │ not this one
                  ▼                           ▼                 ▼
              signature, form             503, never open   ask the database once, remember the refusal

A poll keeps the copy fresh: each asks for what changed since the last one, and now and then for everything.
"""

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import NamedTuple

import jwt
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.errors import Conflict, NotAuthenticated, StoreUnavailable
from backend.models import login_session
from backend.models.user import BANNED
from backend.services.accounts import Account
from backend.services.database import Database
from backend.services.recent import Recent

log = logging.getLogger(__name__)

LIFE_SECONDS = 18_000  # five hours, what the frontend was built for
LATEST = 2**40  # of all times, in Unix seconds: what no float can hold would fail where it is compared
LEEWAY_SECONDS = 5.0  # clocks of several machines differ by this much at most
ISSUER = AUDIENCE = "avatar-gateway"
TYPE = "access"
HEADER = {"alg": "HS256", "typ": "JWT"}  # all of it: no kid, jku, jwk, x5u or crit can steer the check
MAX_CHARACTERS = 4096  # ours have about 400
# The short head keeps nested JSON away from the parser, which would exceed the stack.
FORM = re.compile(r"[\w-]{1,100}\.[\w-]+\.[\w-]{43}", re.ASCII)

MAX_AGE_SECONDS = 30.0  # of the copy; beyond, a revoked token might pass: refuse to judge
OVERLAP_SECONDS = 10.0  # each poll asks this much further back, for late commits and differing clocks
FULL_LOAD_SECONDS = 15.0  # everything anew: finds deleted users and edits made by hand
MAX_BACKOFF_SECONDS = 5.0  # between polls while the database is away
MAX_DECODED = 10_000  # tokens whose signature need not be computed again, some 5 MB
MAX_REFUSED = 10_000  # dead tokens that cost no further query

INVALID = "This sign-in is not valid. Please sign in again."
EXPIRED = "This sign-in has expired. Please sign in again."
EARLY = "This sign-in is not valid yet. Please check the clock."
ENDED = "This sign-in has ended. Please sign in again."


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking; `expires_at` is Unix time in seconds."""

    user_id: int
    email: str
    role: str
    jti: str
    expires_at: float

    @property
    def is_tutor(self) -> bool:
        return self.role == "tutor"


class Claims(NamedTuple):
    """What a well-signed token says, its times in Unix seconds."""

    user_id: int
    jti: str
    starts_at: float
    expires_at: float


class Live(NamedTuple):
    """What is known of one user's session: `principal` is None for a banned user and after signing out."""

    changed_at: int
    jti: str | None
    principal: Principal | None


class Tokens:
    """Issues and checks tokens, all on the event loop that `start` ran on, `verify_cached` on any thread."""

    def __init__(
        self,
        key: str,
        database: Database,
        *,
        staleness_seconds: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._database = database
        self._staleness_seconds = staleness_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._decoded: Recent[bytes, Claims] = Recent(MAX_DECODED)
        # An entry that outlives its token does no harm: expired tokens are refused before they get here.
        self._refused: Recent[str, bool] = Recent(MAX_REFUSED)
        self._live: dict[int, Live] = {}
        self._used: dict[int, float] = {}  # last use, Unix seconds, of users who are signed in
        self._lookups: dict[int, asyncio.Task[None]] = {}
        self._refreshing = asyncio.Lock()
        self._polled_at = self._loaded_at = -math.inf  # monotonic
        self._polled_clock = 0.0  # Unix seconds
        self._outage = False
        self._poll_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn every live session and keep learning; while the database is away, checks raise."""
        await self._refreshed()
        self._poll_task = asyncio.create_task(self._poll(), name="token poll")

    async def aclose(self) -> None:
        tasks = [*self._lookups.values(), *([self._poll_task] if self._poll_task else [])]
        self._poll_task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def issue(self, account: Account) -> str:
        """A new token; the user's earlier one ends.

        Raises StoreUnavailable, and NotAuthenticated when the user has just been deleted.
        """
        now = int(self._clock())
        jti = uuid.uuid4().hex
        expires_at = now + LIFE_SECONDS
        try:
            changed_at = await self._database.run(
                lambda s: login_session.begin(s, account.id, jti, _moment(expires_at), self._now_us())
            )
        except Conflict as exc:
            raise NotAuthenticated(ENDED) from exc
        principal = Principal(account.id, account.email, account.role, jti, expires_at)
        self._learn(account.id, Live(changed_at, jti, principal))
        claims = {
            "sub": str(account.id),
            "role": account.role,
            "jti": jti,
            "iat": now,
            "nbf": now,
            "exp": expires_at,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "type": TYPE,
        }
        return jwt.encode(claims, self._key, algorithm="HS256")

    def verify_cached(self, token: str) -> Principal | None:
        """The principal of a token that memory alone can accept, else None; a few microseconds."""
        if len(token) > MAX_CHARACTERS or not token.isascii():
            return None
        claims = self._decoded.get(sha256(token.encode()).digest())
        if claims is None or self._stale or _trouble(claims, self._clock()) is not None:
            return None
        live = self._live.get(claims.user_id)
        return live.principal if live is not None and live.jti == claims.jti else None

    async def verify(self, token: str) -> Principal:
        """Who sent this token, with the role that the database knows.

        Raises NotAuthenticated for every token that is not good, StoreUnavailable when that cannot be known.
        """
        return self.verify_cached(token) or await self._verify(token)

    def used(self, principal: Principal) -> None:
        """Note that a session is in use just now; costs no I/O."""
        self._used[principal.user_id] = self._clock()

    async def revoke(self, token: Principal | str) -> None:
        """End this token's session and no other; does nothing for an ended one and for what is no token."""
        claims = token if isinstance(token, Principal) else self.peek(token)
        if claims is not None and not self._refused.get(claims.jti):
            await self._end(claims.user_id, claims.jti)
            self._refused.put(claims.jti, True)

    async def revoke_user(self, user_id: int) -> None:
        """End whatever session the user has."""
        await self._end(user_id, None)

    async def user_changed(self, user_id: int) -> None:
        """Learn now of a user's new role, status or e-mail, or that there is no such user any more.

        To be called after the change is committed. Raises StoreUnavailable.
        """
        self._live.pop(user_id, None)
        await self._look_up(user_id)

    def peek(self, token: str) -> Claims | None:
        """What a token of ours says, expired or ended as it may be; None when it is not ours."""
        try:
            return self._claims(token)
        except NotAuthenticated:
            return None

    async def refresh(self) -> None:
        """One poll: bring the copy of the live sessions up to date; raises StoreUnavailable."""
        async with self._refreshing:
            began, clock = self._monotonic(), self._clock()
            if began - self._loaded_at >= FULL_LOAD_SECONDS:
                before = dict(self._live)
                unexpired = login_session.unexpired(_moment(clock - LEEWAY_SECONDS))
                self._replace(before, await self._database.run(lambda s: _rows(s, unexpired)))
                self._loaded_at = began
            else:
                # A clock that was set back must not hide what changes now.
                since = _moment(min(self._polled_clock, clock) - OVERLAP_SECONDS)
                rows = await self._database.run(lambda s: _rows(s, *login_session.changed(since)))
                for user_id, live in rows.items():
                    self._learn(user_id, live)
            self._polled_at, self._polled_clock = began, clock

    def __repr__(self) -> str:
        age = self._monotonic() - self._polled_at
        return f"<Tokens {len(self._live)} sessions, {len(self._decoded)} decoded, known {age:.1f} s ago>"

    @property
    def _stale(self) -> bool:
        return self._monotonic() - self._polled_at > MAX_AGE_SECONDS

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)

    async def _verify(self, token: str) -> Principal:
        claims = self._claims(token)
        trouble = _trouble(claims, self._clock())
        if trouble is not None:
            raise NotAuthenticated(trouble)
        if self._stale:
            raise StoreUnavailable
        # A look-up already under way may have read before this token was issued: the one after it decides.
        for _ in range(2):
            principal = self._known(claims)
            if principal is not None:
                return principal
            first = claims.user_id not in self._lookups
            await self._look_up(claims.user_id)
            if first:
                break
        principal = self._known(claims)
        if principal is None:
            self._refused.put(claims.jti, True)
            raise NotAuthenticated(ENDED)
        return principal

    def _known(self, claims: Claims) -> Principal | None:
        """What memory knows of this session, None for nothing; raises NotAuthenticated for an ended one."""
        live = self._live.get(claims.user_id)
        if live is not None and live.jti == claims.jti:
            if live.principal is None:  # banned, until a poll says otherwise
                raise NotAuthenticated(ENDED)
            return live.principal
        if self._refused.get(claims.jti):
            raise NotAuthenticated(ENDED)
        return None

    def _claims(self, token: str) -> Claims:
        if len(token) > MAX_CHARACTERS or FORM.fullmatch(token) is None:
            raise NotAuthenticated(INVALID)
        fingerprint = sha256(token.encode()).digest()
        claims = self._decoded.get(fingerprint)
        if claims is None:
            claims = _decode(token, self._key)
            self._decoded.put(fingerprint, claims)
        return claims

    async def _look_up(self, user_id: int) -> None:
        task = self._lookups.get(user_id)
        if task is None:
            task = self._lookups[user_id] = asyncio.create_task(self._read(user_id), name="token look-up")
            task.add_done_callback(lambda done: self._looked_up(user_id, done))
        await asyncio.shield(task)  # one who leaves takes nothing from the others

    def _looked_up(self, user_id: int, task: asyncio.Task[None]) -> None:
        del self._lookups[user_id]
        if not task.cancelled():
            task.exception()  # the waiters have it, unless all have left

    async def _read(self, user_id: int) -> None:
        rows = await self._database.run(lambda s: _rows(s, login_session.of_user(user_id)))
        for live in rows.values():
            self._learn(user_id, live)

    async def _end(self, user_id: int, jti: str | None) -> None:
        ended = await self._database.run(lambda s: login_session.end(s, user_id, jti, self._now_us()))
        if ended is not None:
            self._learn(user_id, Live(ended, None, None))

    def _learn(self, user_id: int, live: Live) -> None:
        known = self._live.get(user_id)
        if known is None or known.changed_at <= live.changed_at:
            self._live[user_id] = live

    def _replace(self, before: dict[int, Live], loaded: dict[int, Live]) -> None:
        """Trust the load for everything but what was learnt while it ran."""
        for user_id, known in self._live.items():
            if known is not before.get(user_id):
                row = loaded.get(user_id)
                if row is None or row.changed_at < known.changed_at:
                    loaded[user_id] = known
        self._live = loaded

    async def _poll(self) -> None:
        delay = self._staleness_seconds
        while True:
            await asyncio.sleep(delay)
            reached = await self._refreshed()
            delay = self._staleness_seconds if reached else min(delay * 2, MAX_BACKOFF_SECONDS)

    async def _refreshed(self) -> bool:
        try:
            await self.refresh()
        except (StoreUnavailable, SQLAlchemyError) as exc:
            if not self._outage:
                log.warning("sign-ins cannot be read, trying again until they can: %r", exc.__cause__ or exc)
            self._outage = True
            return False
        if self._outage:
            log.info("sign-ins can be read again")
        self._outage = False
        return True


def _decode(token: str, key: str) -> Claims:
    try:
        if jwt.get_unverified_header(token) != HEADER:
            raise NotAuthenticated(INVALID)
        payload = jwt.decode(
            token,
            key,
            algorithms=["HS256"],
            issuer=ISSUER,
            audience=AUDIENCE,
            options={
                "require": ["sub", "role", "jti", "iat", "nbf", "exp", "iss", "aud", "type"],
                "strict_aud": True,
                # Judged at each use, by the clock that was handed in.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as exc:
        raise NotAuthenticated(INVALID) from exc
    times = [payload[name] for name in ("iat", "nbf", "exp")]
    if (
        payload["type"] != TYPE
        or not all(type(moment) is int for moment in times)  # bool is an int, too
        or not 0 < times[0] < times[2] <= times[0] + LIFE_SECONDS < LATEST
        or times[1] > times[2]
        or not re.fullmatch(r"[1-9]\d{0,8}", payload["sub"], re.ASCII)
        or not re.fullmatch(r"[0-9a-f]{32}", payload["jti"])
    ):
        raise NotAuthenticated(INVALID)
    return Claims(int(payload["sub"]), payload["jti"], max(times[:2]), times[2])


def _trouble(claims: Claims, now: float) -> str | None:
    if now >= claims.expires_at + LEEWAY_SECONDS:
        return EXPIRED
    if now < claims.starts_at - LEEWAY_SECONDS:
        return EARLY
    return None


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _rows(session: Session, *queries: login_session.Found) -> dict[int, Live]:
    """Runs in a thread, so that ten thousand sessions do not hold up the loop."""
    live = {}
    for query in queries:
        for user_id, changed_at, jti, expires_at, email, role, status in session.execute(query):
            principal = None
            if jti is not None and status != BANNED:
                principal = Principal(user_id, email, role, jti, expires_at.timestamp())
            live[user_id] = Live(changed_at, jti, principal)
    return live
