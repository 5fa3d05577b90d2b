"""The numbers that instances give to peer connections, as clients spell them."""

# What the column holds; real numbers have six digits.
_MOST = 2**63 - 1

NOT_YOURS = "This is not the number of your avatar session."


def session_number(value: object) -> int | None:
    """Return a session as a number, also from its digits; None for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        return None
    return value
