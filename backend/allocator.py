"""The C library's memory: few places to take it from, so that what one thread gave back serves the next."""

import ctypes

# malloc.h of glibc.
M_ARENA_MAX = -8
# By default eight for each core: pieces of 20 uploads at once then lie in as many arenas as threads held one,
# and Granian grew by 31 MB instead of 17. Python's threads take turns anyway.
ARENAS = 2


def few_arenas() -> bool:
    """Let threads share ARENAS arenas from now on; tell whether this C library knows how."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, macOS: no arenas
        return False
    return bool(mallopt(M_ARENA_MAX, ARENAS))
