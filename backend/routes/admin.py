"""The tutors' console: people, the chat model, public material, and the trail of changes."""

from dataclasses import asdict

from flask import Blueprint

from backend.context import gateway, tutor
from backend.operations import operation
from backend.request_fields import json_body, json_body_or_none, query, row_id
from backend.responses import GatewayResponse, answer
from backend.schemas.admin import (
    ActionPage,
    ActionRow,
    ActionsQuery,
    Deletion,
    KnowledgePage,
    KnowledgeRow,
    MemberPage,
    MemberRow,
    ModelPage,
    ModelRow,
    NewUser,
    UserChanges,
    UserMade,
    UsersQuery,
)
from backend.schemas.base import Message, Paging
from backend.services import administration, audit
from backend.services.account_changes import Operator
from backend.services.tokens import Principal
from backend.shortcut import direct

admin = Blueprint("admin", __name__, url_prefix="/api/admin")

# Colours of tags as the frontend's library names them, by the state of a file.
TAG_COLORS = {"indexed": "green", "failed": "red", "deleting": "orange"}


@admin.get("/users")
@operation(
    "List users, the newest first.",
    tag="admin",
    access="tutor",
    query=UsersQuery,
    answers={200: MemberPage},
    errors=(400,),
    description="`params[page]=2` is read as `page=2`, and wins.",
)
@direct
async def list_users() -> GatewayResponse:
    await tutor()
    wanted = query(UsersQuery)
    kind = administration.Wanted(wanted.search, wanted.role, wanted.status)
    members, total = await gateway().administration.members(kind, offset=wanted.offset, limit=wanted.limit)
    rows = [MemberRow.model_validate(asdict(member) | {"id": f"U{member.id:03d}"}) for member in members]
    page = MemberPage(users=rows, total=total, page=wanted.page, limit=wanted.limit)
    return answer(page.model_dump(mode="json"))


@admin.post("/users")
@operation(
    "Make a user.",
    tag="admin",
    access="tutor",
    body=NewUser,
    answers={201: UserMade},
    errors=(400, 409, 413),
)
@direct
async def create_user() -> GatewayResponse:
    principal = await tutor()
    new = await json_body(NewUser)
    made = await gateway().administration.create(_operator(principal), new.password, new.said())
    return answer({"msg": "The user was made.", "user_id": f"{made:03d}"}, 201)


@admin.put("/users/<user_id>")
@operation(
    "Change a user.",
    tag="admin",
    access="tutor",
    body=UserChanges,
    answers={200: Message},
    errors=(400, 404, 409, 413),
    description="A new e-mail, role or status ends the user's sign-in. An active tutor always remains.",
)
@direct
async def change_user(user_id: str) -> GatewayResponse:
    principal = await tutor()
    number = row_id(user_id)
    changes = await json_body(UserChanges)
    changed = await gateway().administration.change(_operator(principal), number, changes.said())
    return answer({"msg": "The user was changed." if changed else "The user is as before."})


@admin.delete("/users/<user_id>")
@operation(
    "Delete a user with everything that is theirs.",
    tag="admin",
    access="tutor",
    body=Deletion,
    body_required=False,
    answers={200: Message},
    errors=(400, 404, 409, 413),
)
@direct
async def delete_user(user_id: str) -> GatewayResponse:
    principal = await tutor()
    number = row_id(user_id)
    deletion = await json_body_or_none(Deletion)
    reason = None if deletion is None else deletion.reason
    await gateway().administration.delete(_operator(principal), number, reason)
    return answer({"msg": "The user was deleted."})


@admin.get("/models")
@operation(
    "List the chat models.",
    tag="admin",
    access="tutor",
    query=Paging,
    answers={200: ModelPage},
    errors=(400,),
)
@direct
async def list_models() -> GatewayResponse:
    await tutor()
    wanted = query(Paging)
    models = await gateway().language_models.all()
    rows = [
        ModelRow(
            id=model.id,
            name=model.name,
            type=model.type,
            status=model.status,
            version=model.version,
            owner=model.owner,
            created_at=model.known_since,
            selected=True,
        )
        for model in models[wanted.offset : wanted.offset + wanted.limit]
    ]
    page = ModelPage(models=rows, total=len(models), page=wanted.page, limit=wanted.limit)
    return answer(page.model_dump(mode="json"))


@admin.get("/knowledge")
@operation(
    "List what is public, the newest first.",
    tag="admin",
    access="tutor",
    query=Paging,
    answers={200: KnowledgePage},
    errors=(400,),
)
@direct
async def list_knowledge() -> GatewayResponse:
    await tutor()
    wanted = query(Paging)
    files, total = await gateway().administration.public_files(offset=wanted.offset, limit=wanted.limit)
    rows = [
        KnowledgeRow(
            id=str(file.id),
            name=file.name,
            type=file.kind,
            status=file.state,
            tag_color=TAG_COLORS.get(file.state, "blue"),
            selected=False,
            created_at=file.created_at,
        )
        for file in files
    ]
    page = KnowledgePage(knowledge=rows, total=total, page=wanted.page, limit=wanted.limit)
    return answer(page.model_dump(mode="json"))


@admin.get("/user-action-logs")
@operation(
    "Show who changed what, newest first.",
    tag="admin",
    access="tutor",
    query=ActionsQuery,
    answers={200: ActionPage},
    errors=(400,),
)
@direct
async def list_actions() -> GatewayResponse:
    await tutor()
    wanted = query(ActionsQuery)
    kind = audit.Wanted(wanted.operator_email, wanted.target_user_email, wanted.action)
    found, total = await gateway().audit.page(kind, offset=wanted.offset, limit=wanted.per_page)
    rows = [ActionRow.model_validate(row, from_attributes=True) for row in found]
    page = ActionPage(logs=rows, total=total, page=wanted.page, per_page=wanted.per_page)
    return answer(page.model_dump(mode="json"))


def _operator(principal: Principal) -> Operator:
    return Operator(principal.user_id, principal.email, principal.role)
