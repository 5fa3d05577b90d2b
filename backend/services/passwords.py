"""Password hashing with argon2id, in threads of its own so that a storm of sign-ins slows nothing else."""

import asyncio
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from backend.errors import BadRequest, Overloaded
from backend.services import former_hashes

T = TypeVar("T")

MAX_CHARACTERS = 1024  # longer ones are no passwords but work for the processor
THREADS = 2
WAITING = 100  # about two seconds of work
# One of OWASP's equivalent settings (19 MiB, 2 passes, 1 lane), chosen because the library's default takes
# 64 MiB and four cores for each sign-in.
HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class Passwords:
    """Hashes and checks passwords; raises BadRequest for an impossible one, Overloaded on a full queue."""

    def __init__(
        self, hasher: PasswordHasher | None = None, *, threads: int = THREADS, waiting: int = WAITING
    ) -> None:
        self._hasher = hasher or HASHER
        self._dummy = _fits_nothing(self._hasher)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._places = BoundedSemaphore(threads + waiting)

    async def hash(self, password: str) -> str:
        return await self._in_thread(lambda: self.hash_now(password))

    def hash_now(self, password: str) -> str:
        """Hash in the calling thread, some 20 ms: for the command line, never for the event loop."""
        return self._hasher.hash(_usable(password))

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Whether the password fits; with None (nobody has that e-mail) it takes as long and says no."""
        usable = _usable(password)
        fits = await self._in_thread(lambda: self._fits(hashed or self._dummy, usable))
        return fits and hashed is not None

    def needs_rehash(self, hashed: str) -> bool:
        """Whether the hash was made in another way than today's."""
        return former_hashes.former(hashed) or self._hasher.check_needs_rehash(hashed)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)

    def _fits(self, hashed: str, password: bytes) -> bool:
        if former_hashes.former(hashed):
            return former_hashes.fits(hashed, password)
        try:
            return self._hasher.verify(hashed, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(blocking=False):
            raise Overloaded
        try:
            future = self._executor.submit(work)
        except RuntimeError as exc:  # shut down
            self._places.release()
            raise Overloaded from exc
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)


def _fits_nothing(hasher: PasswordHasher) -> str:
    """Return what costs as much to check as a hash does, made without the work of one: it is all zeros."""
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    salt, digest = (
        b64encode(bytes(size)).decode().rstrip("=") for size in (hasher.salt_len, hasher.hash_len)
    )
    return f"$argon2id$v=19${cost}${salt}${digest}"


def _usable(password: str) -> bytes:
    if len(password) > MAX_CHARACTERS:
        raise BadRequest(f"A password has at most {MAX_CHARACTERS} characters.")
    try:
        return password.encode()
    except UnicodeEncodeError as exc:  # half a surrogate pair, which JSON can spell
        raise BadRequest("The password has characters that do not exist.") from exc
