"""What a sign-in token says: written, read and judged; whether its session still lives is not known here."""

import re
from typing import NamedTuple

import jwt

from backend.errors import NotAuthenticated

# Five hours from the last use: what the frontend was built for.
LIFE_SECONDS = 18_000
LATEST = 2**40  # of all times, in Unix seconds: what no float can hold would fail where it is compared
LEEWAY_SECONDS = 5.0  # clocks of several machines differ by this much at most
ISSUER = AUDIENCE = "avatar-gateway"
TYPE = "access"
HEADER = {"alg": "HS256", "typ": "JWT"}  # all of it: no kid, jku, jwk, x5u or crit can steer the check
MAX_CHARACTERS = 4096  # ours have about 400
# The short head keeps nested JSON away from the parser, which would exceed the stack.
FORM = re.compile(r"[\w-]{1,100}\.[\w-]+\.[\w-]{43}", re.ASCII)

INVALID = "This sign-in is not valid. Please sign in again."
EXPIRED = "This sign-in has expired. Please sign in again."
EARLY = "This sign-in is not valid yet. Please check the clock."


class Claims(NamedTuple):
    """What a well-signed token says, its times in Unix seconds."""

    user_id: int
    jti: str
    starts_at: float
    expires_at: float


def written(key: str, *, user_id: int, role: str, jti: str, issued_at: int, expires_at: int) -> str:
    """Return a signed token; times in Unix seconds."""
    said = {
        "sub": str(user_id),
        "role": role,
        "jti": jti,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": expires_at,
        "iss": ISSUER,
        "aud": AUDIENCE,
        "type": TYPE,
    }
    return jwt.encode(said, key, algorithm="HS256")


def formed(token: str) -> bool:
    """Tell whether a text has the form of a token of ours, whoever signed it."""
    return len(token) <= MAX_CHARACTERS and FORM.fullmatch(token) is not None


def read(token: str, key: str) -> Claims:
    """Return what a token of ours says, whatever the time. Raises NotAuthenticated for any other text."""
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


def trouble(claims: Claims, now: float) -> str | None:
    """Say what is wrong with a token at this time, None for nothing."""
    if now >= claims.expires_at + LEEWAY_SECONDS:
        return EXPIRED
    if now < claims.starts_at - LEEWAY_SECONDS:
        return EARLY
    return None
