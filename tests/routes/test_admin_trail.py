"""The trail of what tutors did to users."""

import json

import pytest
from sqlalchemy import insert

from backend.models import ActionLog
from tests.routes.conftest import Stage
from tests.support.admin import listed, made, send
from tests.support.frontend import Frontend, good, refused
from tests.support.gateway import Served


@pytest.mark.asyncio
async def test_trail_shows_what_changed_newest_first_and_never_a_password(tutor: Frontend) -> None:
    number = await made(tutor)
    good(await send(tutor, "PUT", f"/api/admin/users/{number}", {"role": "tutor", "bio": "x"}))
    page = await listed(tutor, "/api/admin/user-action-logs", page="1", per_page="10")
    assert (page["total"], page["page"], page["per_page"]) == (2, 1, 10)
    update_row, create_row = page["logs"]
    assert (update_row["action"], create_row["action"]) == ("update_user", "create_user")
    assert update_row["details"] == {"role": ["student", "tutor"], "bio": ["likes maths", "x"]}
    assert update_row["operator_email"] == "tutor@test.local"
    assert (update_row["target_user_id"], update_row["timestamp"][-1]) == (int(number), "Z")
    assert all(len(pair) == 2 for row in page["logs"] for pair in row["details"].values())
    assert "123456" not in json.dumps(page)
    assert "argon2" not in json.dumps(page)
    assert (await listed(tutor, "/api/admin/user-action-logs", operator_email="TUTOR@"))["total"] == 2
    assert (await listed(tutor, "/api/admin/user-action-logs", action="create"))["total"] == 1
    assert (await listed(tutor, "/api/admin/user-action-logs", target_user_email="nobody"))["logs"] == []
    assert len((await listed(tutor, "/api/admin/user-action-logs", per_page="1", page="2"))["logs"]) == 1


@pytest.mark.asyncio
async def test_rows_of_a_former_trail_are_shown_whatever_they_hold(served: Served, tutor: Frontend) -> None:
    rows = [
        {"operator_email": "", "role": "", "action": "x", "details": odd} for odd in ("text", [1], 7, None)
    ]
    await served.gateway.database.run(lambda session: session.execute(insert(ActionLog), rows).close())
    logs = (await listed(tutor, "/api/admin/user-action-logs"))["logs"]
    assert [row["details"] for row in logs] == [None, {"details": 7}, {"details": [1]}, {"details": "text"}]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "wanted", ["per_page=0", "per_page=101", "page=x", "action=%00", "operator_email=a%0ab"]
)
async def test_senseless_question_about_the_trail_is_refused(stage: Stage, wanted: str) -> None:
    answer = await stage.tutor.http.get(f"/api/admin/user-action-logs?{wanted}", headers=stage.tutor.headers)
    refused(answer, 400)
