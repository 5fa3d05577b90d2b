"""Names of avatars: what may be one at all. Whether it exists is the catalogue's to say."""

import re

from backend.errors import BadRequest

# Names become folder names and words of a shell command in the services behind: no dots, no slashes,
# and no dash in front that would read as an option.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ -]{0,63}")

# A key of this name in any answer makes the frontend replace its sign-in token with the value.
RESERVED = "token"


def avatar_name(value: str | None, field: str) -> str:
    """Return a usable name. Raises BadRequest that names the form field."""
    name = (value or "").strip()
    if not name:
        raise BadRequest(f"{field} is missing.")
    if not _NAME.fullmatch(name):
        raise BadRequest(f"{field} may hold letters, digits, spaces, - and _, at most 64 of them.")
    if name == RESERVED:
        raise BadRequest(f"{field} cannot be {RESERVED}.")
    return name
