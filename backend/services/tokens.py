"""Sign-in tokens: made, checked, prolonged, ended.

A token is a signed JWT, but its signature says only who made it. Whether it is still good is known from
`login_session`, of which every process keeps a copy in memory:

    check ──► seen before? ──► times ──► copy fresh? ──► the user's live session?  ──► Principal
                  │ no                        │ no              │ not this one
                  ▼                           ▼                 ▼
              signature, form             503, never open   ask the database once, remember the refusal

A session outlives its first token: whoever uses it gets another one in time, for the same session.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from backend.errors import NotAuthenticated, StoreUnavailable
from backend.models import login_session
from backend.services import claims
from backend.services.accounts import Account
from backend.services.change_feed import ChangeFeed
from backend.services.claims import LIFE_SECONDS, Claims
from backend.services.database import Database
from backend.services.live_sessions import Live, LiveSessions
from backend.services.live_sessions import Principal as Principal
from backend.services.recent import Recent
from backend.services.session_life import WORTH_SECONDS, SessionLife

MAX_DECODED = 10_000  # tokens whose signature need not be computed again, some 5 MB
MAX_REFUSED = 10_000  # dead tokens that cost no further query
# A token gets a successor once it has lived for an hour: most visits never see a second one.
RENEW_BELOW_SECONDS = 0.8 * LIFE_SECONDS

ENDED = "This sign-in has ended. Please sign in again."


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of a sign-in in seconds, and the token that lasts so long if it is another one."""

    seconds: float
    token: str | None


class Tokens:
    """Issues and checks tokens, all on the event loop that `start` ran on, `verify_cached` on any thread."""

    def __init__(
        self,
        key: str,
        database: Database,
        *,
        staleness_seconds: float,
        feed: ChangeFeed | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._database = database
        self._feed = feed
        self._clock = clock
        self._decoded: Recent[bytes, Claims] = Recent(MAX_DECODED)
        # An entry that outlives its token does no harm: expired tokens are refused before they get here.
        self._refused: Recent[str, bool] = Recent(MAX_REFUSED)
        self._sessions = LiveSessions(
            database, staleness_seconds=staleness_seconds, feed=feed, clock=clock, monotonic=monotonic
        )
        self.life = SessionLife(database, self._sessions, clock=clock)

    async def start(self) -> None:
        """Learn every live session and keep learning; while the database is away, checks raise."""
        await self._sessions.start()
        self.life.start()

    async def aclose(self) -> None:
        await self.life.aclose()
        await self._sessions.aclose()

    async def issue(self, account: Account) -> str:
        """A new token; the user's earlier one ends.

        Raises StoreUnavailable, and NotAuthenticated when the user has just been deleted or banned, or has
        another password than the one that was checked.
        """
        now = int(self._clock())
        jti = uuid.uuid4().hex
        expires_at = now + LIFE_SECONDS
        moment, now_us, turn = datetime.fromtimestamp(expires_at, UTC), self._now_us(), self._sessions.turn
        changed_at = await self._database.run(
            lambda s: login_session.begin(s, account.id, jti, moment, now_us, account.password_hash)
        )
        if changed_at is None:
            raise NotAuthenticated(ENDED)
        principal = Principal(account.id, account.email, account.role, jti, expires_at)
        self._changed(account.id, Live(changed_at, jti, principal, now_us / 1_000_000), turn)
        return self._written(principal, now, expires_at)

    def verify_cached(self, token: str) -> Principal | None:
        """The principal of a token that memory alone can accept, else None; a few microseconds."""
        if len(token) > claims.MAX_CHARACTERS or not token.isascii():
            return None
        said = self._decoded.get(sha256(token.encode()).digest())
        if said is None or self._sessions.stale or claims.trouble(said, self._clock()) is not None:
            return None
        live = self._sessions.get(said.user_id)
        return live.principal if live is not None and live.jti == said.jti else None

    async def verify(self, token: str) -> Principal:
        """Who sent this token, with the role that the database knows.

        Raises NotAuthenticated for every token that is not good, StoreUnavailable when that cannot be known.
        """
        return self.verify_cached(token) or await self._verify(token)

    def lives(self, principal: Principal) -> bool:
        """Whether memory alone can tell that a sign-in, accepted earlier, lives; half a microsecond."""
        live = self._sessions.get(principal.user_id)
        return (
            live is not None
            and live.jti == principal.jti
            and live.principal is not None
            and not self._sessions.stale
            and self._clock() < self.life.until(live.principal)
        )

    async def confirm(self, principal: Principal) -> None:
        """Make sure that a sign-in, accepted earlier, has not ended.

        Raises NotAuthenticated, and StoreUnavailable when that cannot be known.
        """
        if self._sessions.stale:
            raise StoreUnavailable
        live = self._sessions.get(principal.user_id) or await self._sessions.look_up(principal.user_id)
        if live is None or live.jti != principal.jti:
            raise NotAuthenticated(ENDED)
        if self._clock() >= self.life.until(_principal(live)):
            raise NotAuthenticated(ENDED)

    def used(self, principal: Principal) -> None:
        """Note that a session is in use just now; costs no I/O."""
        self.life.used(principal.user_id)

    async def remaining(self, token: str) -> Remaining:
        """Tell how long a token lasts; one that was used gets a successor in time, for the same session.

        Earlier tokens of the session stay good till their own end. While the database is away there are no
        successors. Raises as `verify` does.
        """
        principal = await self.verify(token)
        said = self._claims(token)
        now = self._clock()
        left, until = said.expires_at - now, self.life.until(principal)
        if left > RENEW_BELOW_SECONDS or until - said.expires_at < WORTH_SECONDS:
            return Remaining(max(0.0, left), None)
        try:
            # Written first: no token may outlive what every process knows of its session.
            if not await self.life.renew(principal, until):
                raise NotAuthenticated(ENDED)
        except StoreUnavailable:
            return Remaining(max(0.0, left), None)
        # A clock that was set back since the use must not make a token that lasts longer than any may.
        expires_at = min(int(until), int(now) + LIFE_SECONDS)
        return Remaining(expires_at - now, self._written(principal, int(now), expires_at))

    async def revoke(self, token: Principal | str) -> None:
        """End this token's session and no other; does nothing for an ended one and for what is no token."""
        said = token if isinstance(token, Principal) else self.peek(token)
        if said is not None and not self._refused.get(said.jti):
            await self._end(said.user_id, said.jti)
            self._refused.put(said.jti, True)

    async def revoke_user(self, user_id: int) -> None:
        """End whatever session the user has."""
        await self._end(user_id, None)

    async def user_changed(self, user_id: int) -> None:
        """Learn now of a user's new role, status or e-mail, or that there is no such user any more.

        To be called after the change is committed. Other processes are told, or find out with their next
        poll. Raises StoreUnavailable; nothing that was known before is believed even then.
        """
        self._sessions.forget(user_id)
        if self._feed is not None:
            self._feed.announce(user_id)
        await self._sessions.look_up(user_id)

    def peek(self, token: str) -> Claims | None:
        """What a token of ours says, expired or ended as it may be; None when it is not ours."""
        try:
            return self._claims(token)
        except NotAuthenticated:
            return None

    async def refresh(self) -> None:
        """One poll: bring the copy of the live sessions up to date; raises StoreUnavailable."""
        await self._sessions.refresh()

    @property
    def count(self) -> int:
        """How many sign-ins live."""
        return len(self._sessions)

    def __repr__(self) -> str:
        age = self._sessions.age_seconds
        return f"<Tokens {len(self._sessions)} sessions, {len(self._decoded)} decoded, known {age:.1f} s ago>"

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)

    def _written(self, principal: Principal, now: int, expires_at: int) -> str:
        return claims.written(
            self._key,
            user_id=principal.user_id,
            role=principal.role,
            jti=principal.jti,
            issued_at=now,
            expires_at=expires_at,
        )

    async def _verify(self, token: str) -> Principal:
        said = self._claims(token)
        trouble = claims.trouble(said, self._clock())
        if trouble is not None:
            raise NotAuthenticated(trouble)
        if self._sessions.stale:
            raise StoreUnavailable
        found: Live | None = None
        for _ in range(2):
            principal = self._known(said)
            if principal is not None:
                return principal
            # One already under way may have read before this token was issued: the one after it decides.
            begun = not self._sessions.looking_up(said.user_id)
            found = await self._sessions.look_up(said.user_id)
            if begun:
                break
        if found is None or found.jti != said.jti:
            self._refused.put(said.jti, True)  # for good: a session that is not live now never is again
            raise NotAuthenticated(ENDED)
        return _principal(found)

    def _known(self, said: Claims) -> Principal | None:
        """What memory knows of this session, None for nothing; raises NotAuthenticated for an ended one."""
        live = self._sessions.get(said.user_id)
        if live is not None and live.jti == said.jti:
            return _principal(live)
        if self._refused.get(said.jti):
            raise NotAuthenticated(ENDED)
        return None

    def _claims(self, token: str) -> Claims:
        if not claims.formed(token):
            raise NotAuthenticated(claims.INVALID)
        fingerprint = sha256(token.encode()).digest()
        said = self._decoded.get(fingerprint)
        if said is None:
            said = claims.read(token, self._key)
            self._decoded.put(fingerprint, said)
        return said

    async def _end(self, user_id: int, jti: str | None) -> None:
        turn = self._sessions.turn
        ended = await self._database.run(lambda s: login_session.end(s, user_id, jti, self._now_us()))
        if ended is not None:
            self._changed(user_id, Live(ended, None, None, 0.0), turn)

    def _changed(self, user_id: int, live: Live, turn: int) -> None:
        self._sessions.learn(user_id, live, turn)
        if self._feed is not None:
            self._feed.announce(user_id)


def _principal(live: Live) -> Principal:
    if live.principal is None:  # banned, until the database says otherwise
        raise NotAuthenticated(ENDED)
    return live.principal
