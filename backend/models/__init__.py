"""The tables; importing this package makes `Base.metadata` complete."""

from backend.models.action_log import ActionLog
from backend.models.avatar_session import AvatarSession
from backend.models.avatar_ticket import AvatarTicket
from backend.models.base import Base
from backend.models.chat import Chat, Message
from backend.models.lease import Lease
from backend.models.login_session import LoginSession
from backend.models.notification import Notification
from backend.models.profile import Profile
from backend.models.stored_file import StoredFile
from backend.models.user import User
from backend.models.verification_code import VerificationCode

__all__ = [
    "ActionLog",
    "AvatarSession",
    "AvatarTicket",
    "Base",
    "Chat",
    "Lease",
    "LoginSession",
    "Message",
    "Notification",
    "Profile",
    "StoredFile",
    "User",
    "VerificationCode",
]
