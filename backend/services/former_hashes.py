"""Password hashes of the backend before this one, as werkzeug writes them: checked, never made.

scrypt:32768:8:1$salt$hex        n, r, p
pbkdf2:sha256:260000$salt$hex    digest, iterations
"""

import hmac
import re
from hashlib import pbkdf2_hmac, scrypt

SCRYPT = re.compile(r"scrypt:(\d{1,7}):(\d{1,2}):(\d{1,2})\$([^$]+)\$([0-9a-f]{128})")
PBKDF2 = re.compile(r"pbkdf2:(sha1|sha256|sha512):(\d{1,7})\$([^$]+)\$([0-9a-f]{40,128})")
# Of one sign-in; what werkzeug writes takes a quarter of it.
MAX_SCRYPT_BYTES = 128 << 20


def former(hashed: str) -> bool:
    """Whether a stored hash has the former form."""
    return hashed.startswith(("scrypt:", "pbkdf2:"))


def fits(hashed: str, password: bytes) -> bool:
    """Whether the password fits; a hash that makes no sense fits nothing. Takes some 60 ms."""
    try:
        made = _made(hashed, password)
    except (ValueError, OverflowError):
        return False
    return made is not None and hmac.compare_digest(made, hashed.rpartition("$")[2])


def _made(hashed: str, password: bytes) -> str | None:
    if match := SCRYPT.fullmatch(hashed):
        n, r, p = (int(number) for number in match.groups()[:3])
        needed = 132 * n * r * p
        if needed > MAX_SCRYPT_BYTES:
            return None
        return scrypt(password, salt=match[4].encode(), n=n, r=r, p=p, maxmem=needed).hex()
    if match := PBKDF2.fullmatch(hashed):
        return pbkdf2_hmac(match[1], password, match[3].encode(), int(match[2])).hex()
    return None
