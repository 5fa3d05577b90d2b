"""Threads for work that blocks, with a bounded queue in front of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from backend.errors import Overloaded


class Threads:
    """A pool of `size` threads; at most `waiting` more calls may stand in line."""

    def __init__(self, size: int, *, waiting: int, name: str) -> None:
        self.executor = ThreadPoolExecutor(size, thread_name_prefix=name)
        self._most = size + waiting
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place in line. Raises Overloaded when there is none."""
        if self._taken >= self._most:
            raise Overloaded
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    def close(self) -> None:
        """Let running work end, drop what waits."""
        self.executor.shutdown(wait=False, cancel_futures=True)
