"""Work that one process at a time does for all: who does it, and till when."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from backend.models.base import Base, UtcDateTime


class Lease(Base):
    """A named piece of work in the hands of `holder` until `until`, unless it is renewed."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    holder: Mapped[str] = mapped_column(String(32))
    until: Mapped[datetime] = mapped_column(UtcDateTime)

    def __repr__(self) -> str:
        return f"<Lease {self.name} of {self.holder} until {self.until:%H:%M:%S}>"
