"""What a tutor does in the console: forms that are sent, and pages that are listed."""

from typing import Any

import httpx

from tests.support.frontend import Frontend, good
from tests.support.gateway import Served

FORM = {
    "email": "Sue@School.example",
    "password": "123456",  # what the form proposes
    "username": "Sue",
    "role": "student",
    "status": "inactive",
    "phone": "+1 555",
    "full_name": "Sue Lee",
    "bio": "likes maths",
}
UI_PAGE = {"params[page]": "1", "params[limit]": "100"}


async def send(page: Frontend, method: str, path: str, content: Any = None) -> httpx.Response:
    sent = {} if content is None else {"json": content}
    return await page.http.request(method, path, headers=page.headers, **sent)


async def listed(viewer: Frontend, path: str = "/api/admin/users", /, **wanted: str) -> dict[str, Any]:
    shown: dict[str, Any] = good(await viewer.http.get(path, params=wanted, headers=viewer.headers))
    return shown


async def made(tutor: Frontend, **over: Any) -> str:
    answer = await send(tutor, "POST", "/api/admin/users", FORM | over)
    assert answer.status_code == 201, answer.text
    number = answer.json()["user_id"]
    assert isinstance(number, str)
    assert number.isdigit()
    assert len(number) >= 3
    return number


async def signed_in(served: Served, email: str, password: str) -> Frontend:
    answer = await served.http.post("/api/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    return Frontend(served.http, answer.json()["token"])
