"""How often one may try to sign in, and how long a sign-in in use lasts, as a tab sees it."""

import time
from collections.abc import Callable

import jwt
import pytest

from backend.config import Settings
from tests.support.codes import STUDENT
from tests.support.forgeries import claiming
from tests.support.frontend import Frontend, good, hidden, refused
from tests.support.gateway import PASSWORD, Served, serving

pytestmark = pytest.mark.asyncio

HOUR = 3600


async def test_guessing_a_password_is_limited_and_says_when_to_try_again(
    settings: Callable[..., Settings],
) -> None:
    async with serving(settings(gateway_login_limit="3/minute")) as served:
        visitor = Frontend(served.http)
        for _ in range(3):
            refused(await visitor.json("/api/login", {"email": STUDENT, "password": "Wrong-horse1!"}), 401)
        # The right one, too, or guessing would go on.
        answer = await visitor.json("/api/login", {"email": STUDENT.upper(), "password": PASSWORD})
        refused(answer, 429, "too_many_requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 61
        hidden(answer)
        assert await served.token("tutor")  # nobody else waits for it


async def test_one_address_does_not_try_many_emails(settings: Callable[..., Settings]) -> None:
    async with serving(settings(gateway_address_limit="4/minute")) as served:
        tries = [
            await Frontend(served.http).json("/api/login", {"email": f"u{n}@b.co", "password": "x"})
            for n in range(6)
        ]
        assert [answer.status_code for answer in tries] == [401] * 4 + [429] * 2


async def test_request_that_is_no_sign_in_is_not_counted_as_one(settings: Callable[..., Settings]) -> None:
    async with serving(settings(gateway_login_limit="1/minute", gateway_address_limit="1/minute")) as served:
        for _ in range(3):
            refused(await Frontend(served.http).json("/api/login", {"email": STUDENT}), 400)
        assert await served.token()


def older(token: str, hours: float) -> str:
    """The same sign-in as if this token of it had been given out so long ago."""
    issued = int(time.time() - hours * HOUR)
    return claiming(token, iat=issued, nbf=issued, exp=issued + 5 * HOUR)


async def test_tab_in_use_gets_a_new_token_from_its_poll_and_both_are_good(
    served: Served, student: Frontend
) -> None:
    assert student.token is not None
    student.token = older(student.token, 2)
    good(await student.get("/api/tts/models"))
    status = (await student.get("/api/token_status")).json()
    assert set(status) == {"expires_in_seconds", "expires_in_minutes", "token"}
    assert 17_900 <= status["expires_in_seconds"] <= 18_000
    newer = Frontend(served.http, status["token"])
    assert set(good(await newer.get("/api/token_status"))) == {"expires_in_seconds", "expires_in_minutes"}
    assert (await student.get("/api/token_status")).json()["expires_in_seconds"] >= 10_700
    ids = [
        jwt.decode(tab.token or "", options={"verify_signature": False})["jti"] for tab in (student, newer)
    ]
    assert ids[0] == ids[1]
    good(await newer.json("/api/logout"))
    refused(await student.get("/api/tts/models"), 401)


async def test_open_tab_that_only_polls_is_not_kept_signed_in(served: Served, student: Frontend) -> None:
    assert student.token is not None
    used = dict(served.gateway.tokens.life._used)
    for _ in range(3):
        good(await student.get("/api/token_status"))
    assert served.gateway.tokens.life._used == used == {}
    good(await student.get("/api/tts/models"))
    assert list(served.gateway.tokens.life._used) == [1]
