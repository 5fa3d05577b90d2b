"""What a code is: six digits made of a seed by the signing key, known again by a keyed hash."""

import hmac

from backend.models.verification_code import Purpose


class Codes:
    """Makes and hashes codes, each with a key of its own.

    What one use of the signing key shows must not help against another.
    """

    def __init__(self, key: str) -> None:
        self._hashing = hmac.digest(key.encode(), b"verification codes", "sha256")
        self._making = hmac.digest(key.encode(), b"verification codes in the mail", "sha256")

    def made_of(self, seed: str) -> str:
        """Return the code of a seed; who knows the seed alone knows nothing of it."""
        number = int.from_bytes(hmac.digest(self._making, seed.encode(), "sha256"))
        return f"{number % 1_000_000:06d}"

    def hashed(self, email: str, purpose: Purpose, code: str) -> str:
        """Neither an e-mail that is possible nor a purpose has a line break, so nothing can be shifted."""
        said = f"{purpose}\n{email}\n{code}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._hashing, said, "sha256").hex()
