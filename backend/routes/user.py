"""What a user sees and says of themselves: profile and notifications."""

from flask import Blueprint

from backend.context import caller, gateway
from backend.operations import operation
from backend.request_fields import json_body, query, row_id
from backend.responses import GatewayResponse, answer
from backend.schemas.base import Message
from backend.schemas.user import (
    NotificationPage,
    NotificationRow,
    NotificationsQuery,
    OwnProfile,
    ProfileChanges,
)
from backend.shortcut import direct

user = Blueprint("user", __name__, url_prefix="/api/user")


@user.get("/profile")
@operation("Show the own profile.", tag="user", answers={200: OwnProfile})
@direct
async def profile() -> GatewayResponse:
    principal = await caller()
    person = await gateway().profiles.of(principal.user_id)
    return answer(OwnProfile.model_validate(person, from_attributes=True).model_dump(mode="json"))


@user.post("/profile")
@operation(
    "Change the own profile.", tag="user", body=ProfileChanges, answers={200: Message}, errors=(400, 413)
)
@direct
async def change_profile() -> GatewayResponse:
    principal = await caller()
    changes = await json_body(ProfileChanges)
    changed = await gateway().profiles.change(principal, changes.model_dump(exclude_none=True))
    return answer({"msg": "Your profile was saved." if changed else "Your profile is as it was."})


@user.get("/notifications")
@operation(
    "List own notifications, newest first.",
    tag="user",
    query=NotificationsQuery,
    answers={200: NotificationPage},
    errors=(400,),
    description="Open tabs ask by themselves: a call does not prolong the sign-in.",
)
@direct
async def notifications() -> GatewayResponse:
    principal = await caller(passive=True)
    wanted = query(NotificationsQuery)
    page = await gateway().notifications.page(
        principal.user_id, is_read=wanted.read, offset=wanted.offset, limit=wanted.limit
    )
    rows = [NotificationRow.model_validate(row, from_attributes=True) for row in page.notifications]
    shown = NotificationPage(
        notifications=rows,
        unread_count=page.unread_count,
        total=page.total,
        page=wanted.page,
        limit=wanted.limit,
    )
    return answer(shown.model_dump(mode="json"))


@user.put("/notifications/<notification_id>/read")
@operation("Mark an own notification as read.", tag="user", answers={200: Message}, errors=(404,))
@direct
async def mark_read(notification_id: str) -> GatewayResponse:
    principal = await caller()
    await gateway().notifications.mark_read(principal.user_id, row_id(notification_id))
    return answer({"msg": "Marked as read."})
