"""Forged and stale tokens at the door of a running gateway: 401, whatever they are."""

import contextlib
import re

import jwt
import pytest

from tests.support.forgeries import forgeries, signed
from tests.support.gateway import KEY, Served, raw

CASES = forgeries({"sub": "1", "role": "student", "iat": 7, "jti": "0" * 32}, KEY)
# What a header can carry, on one line and within the limit of heads.
SENDABLE = [name for name, token in CASES.items() if re.fullmatch(r"[\x20-\x7e\t]{0,20000}", token)]


# For tutors from elsewhere, and for everybody on this machine who sends no token.
FIGURES = ("/stats", "/api/stats", "/metrics", "/api/stats/stream")


async def asked(served: Served, token: bytes, path: str = "/api/token_status") -> bytes:
    head = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer "
    return await raw(served.port, head % path.encode() + token + b"\r\n\r\n")


@pytest.mark.asyncio
async def test_every_forged_token_is_answered_with_401(served: Served) -> None:
    token = await served.token()
    good = jwt.decode(token, options={"verify_signature": False})
    made = forgeries(good, KEY)
    assert len(SENDABLE) > 100
    assert (await asked(served, signed(good, key=KEY).encode())).startswith(b"HTTP/1.1 200")
    # Around the token, white space is the header's and not the token's: RFC 9110, section 5.5.
    told = {name: await asked(served, made[name].encode()) for name in SENDABLE if name != "space before"}
    assert {name: answer[:80] for name, answer in told.items() if b"HTTP/1.1 401" not in answer} == {}
    assert all(b'"retryable":false' in answer for answer in told.values())
    assert (await asked(served, token.encode())).startswith(b"HTTP/1.1 200")  # and the true one goes on


@pytest.mark.asyncio
async def test_no_forged_token_shows_figures_or_the_dashboards_stream(served: Served) -> None:
    """Some of them make a tutor of a student: tests have the tutor as user 2."""
    student, tutor = await served.token(), await served.token("tutor")
    made = forgeries(jwt.decode(student, options={"verify_signature": False}), KEY)
    for number, name in enumerate(one for one in SENDABLE if one != "space before"):
        path = FIGURES[number % len(FIGURES)]
        answer = await asked(served, made[name].encode(), path)
        assert answer.startswith(b"HTTP/1.1 401"), (name, path)
        assert b"total_requests" not in answer
    for path in FIGURES[:-1]:  # the last one goes on for ever
        assert (await asked(served, tutor.encode(), path)).startswith(b"HTTP/1.1 200")
        assert (await asked(served, student.encode(), path)).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("token", [b"\xff\xfe", "é".encode(), b"\xed\xa0\x80", b"a\x00b", b"x" * 1_000_000])
@pytest.mark.asyncio
async def test_a_token_that_is_no_text_is_refused_and_nothing_breaks(served: Served, token: bytes) -> None:
    answer = b""
    with contextlib.suppress(ConnectionError):  # refused while it was still being sent
        answer = await asked(served, token)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer) or not answer
    assert (await served.http.get("/api/ping")).status_code == 200
