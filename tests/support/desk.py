"""Verification at its desk: with a clock that can be set, and letters that are kept."""

import re
from typing import Any

from sqlalchemy import select

from backend.models import VerificationCode
from backend.models.verification_code import Purpose
from backend.services.database import Database
from backend.services.mail import Letter, Mail
from backend.services.verification import Verification

KEY = "a key for tests only, thirty-two bytes or more"
ANN = "ann@school.example"
NOW = 1_800_000_000.0


class Post(Mail):
    """Keeps the letters instead of sending them."""

    def __init__(self) -> None:
        super().__init__(None, "gateway@school.example", development=True)
        self.letters: list[Letter] = []
        self.trouble: Exception | None = None

    def _post(self, letter: Letter) -> bool:
        self.letters.append(letter)
        return False

    def place(self) -> Any:
        if self.trouble is not None:
            raise self.trouble
        return super().place()

    @property
    def code(self) -> str:
        """The code in the last letter."""
        match = re.search(r"\b\d{6}\b", self.letters[-1].text)
        assert match is not None
        return match[0]


class Desk:
    """Verification with a clock that can be set and another process beside it."""

    def __init__(self, database: Database, key: str = KEY) -> None:
        self.database = database
        self.now = NOW
        self.mail = Post()
        self.verification = Verification(key, database, self.mail, lambda: self.now)

    async def send(self, email: str = ANN, purpose: Purpose = "register") -> str:
        await self.verification.send(email, purpose)
        return self.mail.code

    async def attempt(self, code: str, email: str = ANN, purpose: Purpose = "register") -> bool:
        return await self.database.run(lambda s: self.verification.attempt(s, email, purpose, code))

    async def spend(self, code: str, email: str = ANN, purpose: Purpose = "register") -> bool:
        return await self.database.run(lambda s: self.verification.spend(s, email, purpose, code))

    async def rows(self) -> list[VerificationCode]:
        return await self.database.run(lambda s: list(s.scalars(select(VerificationCode))))
