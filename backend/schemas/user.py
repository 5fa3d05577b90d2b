"""What people send and see of themselves: profile, picture, notifications."""

from typing import Annotated

from pydantic import Field, StringConstraints

from backend.models.profile import NAME_CHARACTERS, PHONE_CHARACTERS
from backend.schemas.base import LINE, PROSE, Answer, Body, Moment, Paging

BIO_CHARACTERS = 2_000

Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=NAME_CHARACTERS, pattern=LINE)]
Phone = Annotated[str, StringConstraints(strip_whitespace=True, max_length=PHONE_CHARACTERS, pattern=LINE)]
Bio = Annotated[str, StringConstraints(strip_whitespace=True, max_length=BIO_CHARACTERS, pattern=PROSE)]


class ProfileChanges(Body):
    """What is left out, or null, stays as it is; without a user name the e-mail's first part is shown."""

    username: Name | None = None
    full_name: Name | None = None
    bio: Bio | None = None
    phone: Phone | None = None


class OwnProfile(Answer):
    email: str
    role: str
    username: str
    full_name: str
    bio: str
    phone: str
    avatar_url: str | None = Field(description="A path of the gateway; it changes with each picture.")


class PictureForm(Body):
    avatar: str = Field(
        description="PNG, JPEG, WebP or GIF, at most 5 MB and 25 million pixels.",
        json_schema_extra={"format": "binary"},
    )


class PictureStored(Answer):
    msg: str
    avatar_url: str


class NotificationsQuery(Paging):
    limit: int = Field(10, ge=1, le=100)
    unread_only: bool = False
    is_read: bool | None = None

    @property
    def read(self) -> bool | None:
        """Whether only read or only unread ones are wanted; None for both."""
        return False if self.unread_only else self.is_read


class NotificationRow(Answer):
    id: int
    title: str
    message: str
    type: str
    is_read: bool
    created_at: Moment


class NotificationPage(Answer):
    notifications: list[NotificationRow]
    unread_count: int = Field(description="Of all, whatever was asked for.")
    total: int
    page: int
    limit: int
