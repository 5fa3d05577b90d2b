"""Signing in before any load, and what must work before there is any."""

import asyncio
import time

from performance.answers import Answer, first_avatar, read_json
from performance.gateway import Gateway
from performance.outcome import Unusable
from performance.screen import Screen
from performance.settings import CHECKS, Call, Settings
from performance.tally import TOLD_TO_WAIT

LONGEST_WAIT_SECONDS = 120.0  # for a limit of sign-ins; whoever must wait longer had better know at once
SOON_SECONDS = 1.0  # where a gateway does not say how long


async def sign_in(gateway: Gateway, settings: Settings, screen: Screen) -> str:
    """Return a token; wait where the gateway says so. Raises Unusable."""
    account, url = settings.target.account, f"{settings.target.base_url}/api/login"
    members = {"email": account.email, "password": account.password}
    left = LONGEST_WAIT_SECONDS
    while True:
        request = gateway.request("POST", "/api/login", json=members)
        answer = await gateway.send(request, time.perf_counter(), keep_body=True)
        if answer.status != TOLD_TO_WAIT:
            return token_of(answer, url)
        wait = SOON_SECONDS if answer.retry_after is None else max(answer.retry_after, SOON_SECONDS)
        if wait > left:
            raise Unusable(f"no login at {url}: {answer.failure}; it asks to wait {wait:,.0f} s")
        left -= wait
        screen.say(f"too many sign-ins: waiting {wait:,.0f} s, as the gateway asks")
        await asyncio.sleep(wait)


def token_of(answer: Answer, url: str) -> str:
    """Raises Unusable when the answer to a login holds no token."""
    if answer.failure:
        raise Unusable(f"no login at {url}: {answer.failure}")
    reply = read_json(answer.body)
    token = reply.get("token") if isinstance(reply, dict) else None
    if not isinstance(token, str) or not token:
        raise Unusable(f"no login at {url}: the answer holds no token")
    return token


async def check_endpoints(gateway: Gateway, settings: Settings, screen: Screen) -> str:
    """Call each endpoint once, show the table and return the avatar to ask for. Raises Unusable."""
    answers = {}
    for path in CHECKS:
        request = gateway.prepare(Call("GET", path))
        answers[path] = await gateway.send(request, time.perf_counter(), keep_body=True)
    screen.show_checks(answers, settings.needed_checks)
    if all(answer.status is None for answer in answers.values()):
        raise Unusable(f"no answer from {settings.target.base_url}: {answers[CHECKS[0]].failure}")
    for path in CHECKS:
        if path in settings.needed_checks and (failure := answers[path].failure):
            raise Unusable(f"{settings.title} cannot be measured because GET {path} failed: {failure}")
    if not settings.needs_avatar:
        return settings.avatar
    avatar = first_avatar(read_json(answers["/api/avatar/list"].body))
    if avatar is None:
        raise Unusable("the gateway lists no avatar: name one with --avatar")
    return avatar
