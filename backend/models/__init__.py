"""The tables; importing this package makes `Base.metadata` complete."""

from backend.models.avatar_session import AvatarSession
from backend.models.base import Base
from backend.models.login_session import LoginSession
from backend.models.user import User

__all__ = ["AvatarSession", "Base", "LoginSession", "User"]
