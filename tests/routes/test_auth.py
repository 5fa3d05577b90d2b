import re
from collections.abc import Callable

import jwt
import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from werkzeug.security import generate_password_hash

from backend.config import Settings
from backend.demo.faults import Switch
from backend.demo.world import World
from backend.models import User
from tests.routes.conftest import Stage
from tests.support.codes import STUDENT
from tests.support.forgeries import claiming
from tests.support.frontend import FILM, Frontend, form_of, good, refused
from tests.support.gateway import PASSWORD, Served, mount, serving

# Everything else asks who is calling: a new route that does not has to be named here.
PUBLIC = {
    ("POST", "/api/login"),
    ("POST", "/api/logout"),
    ("POST", "/api/register"),
    ("POST", "/api/send_verification"),
    ("GET", "/api/ping"),
    ("GET", "/api/health"),
    ("GET", "/api/health/detailed"),
    ("GET", "/static/avatars/offer"),
    ("GET", "/docs"),
    ("GET", "/docs/offer"),
    ("GET", "/console"),
    ("GET", "/dashboard"),
    ("GET", "/dashboard/offer"),
    ("GET", "/console/offer"),
}


# Figures are told without a token to whoever is on the same machine, and does not ask for somebody else.
FROM_ELSEWHERE = {"X-Forwarded-For": "203.0.113.9"}


def routes_of(served: Served) -> list[tuple[str, str]]:
    """Every method and path of the application, with something plausible in its variable parts."""
    return [
        (method, re.sub("<[^>]+>", "offer", rule.rule))
        for rule in served.application.flask.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]


def unsigned(token: str) -> str:
    return jwt.encode(jwt.decode(token, options={"verify_signature": False}), None, algorithm="none")


def with_other_signature(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{signature[:-2][::-1]}AA"


@pytest.mark.asyncio
async def test_right_password_gives_a_token_and_nothing_else(served: Served, visitor: Frontend) -> None:
    answer = await visitor.json("/api/login", {"email": STUDENT, "password": PASSWORD})
    assert answer.status_code == 200
    assert list(answer.json()) == ["token"]
    status = await Frontend(served.http, answer.json()["token"]).get("/api/token_status")
    assert status.status_code == 200


@pytest.mark.asyncio
async def test_email_of_a_login_may_be_spelt_in_capitals(visitor: Frontend) -> None:
    answer = await visitor.json("/api/login", {"email": f" {STUDENT.upper()} ", "password": PASSWORD})
    assert answer.status_code == 200


@pytest.mark.asyncio
@pytest.mark.parametrize("sessionid", ["123456", 123456, None, [], {"a": 1}])
async def test_session_number_in_a_login_is_let_be(visitor: Frontend, sessionid: object) -> None:
    fields = {"email": STUDENT, "password": PASSWORD, "sessionid": sessionid}
    answer = await visitor.http.post("/api/login", json=fields, headers={"sessionid": "123456"})
    assert answer.status_code == 200


@pytest.mark.asyncio
async def test_account_of_the_former_backend_signs_in_with_its_old_password(
    served: Served, visitor: Frontend
) -> None:
    def take_over(session: Session) -> None:
        hashed = generate_password_hash("former password", "scrypt")
        session.execute(update(User).where(User.email == STUDENT).values(password_hash=hashed))

    await served.gateway.database.run(take_over)
    refused(await visitor.json("/api/login", {"email": STUDENT, "password": "another password"}), 401)
    for _ in range(2):
        answer = await visitor.json("/api/login", {"email": STUDENT, "password": "former password"})
        assert answer.status_code == 200
    user = await served.gateway.database.run(lambda s: s.scalar(select(User).where(User.email == STUDENT)))
    assert user is not None
    assert user.password_hash.startswith("$argon2id$")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "fields",
    [
        {"email": STUDENT, "password": "Wrong-horse1!"},
        {"email": "nobody@test.local", "password": PASSWORD},
        {"email": "nobody@test.local\x00", "password": "\x00"},
    ],
)
async def test_wrong_credentials_are_401(visitor: Frontend, fields: dict[str, str]) -> None:
    shown = refused(await visitor.json("/api/login", fields), 401, "not_authenticated")
    assert shown["msg"] == "Wrong email or password."


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/x-www-form-urlencoded", b"email=student%40test.local&password=x"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"null"),
        ("application/json", b"[]"),
        ("application/json", b'"text"'),
        ("application/json", b"\xff\xfe\x00"),
        ("application/json", b'{"email": "a@b.co", "password": ' + b"9" * 5000 + b"}"),
        ("application/json", b"[" * 100_000),
        ("application/json", b"{}"),
        ("application/json", b'{"email": "student@test.local"}'),
        ("application/json", b'{"email": null, "password": "x"}'),
        ("application/json", b'{"email": ["student@test.local"], "password": "x"}'),
        ("application/json", b'{"email": "student@test.local", "password": 123456}'),
        ("application/json", b'{"email": "", "password": ""}'),
    ],
)
async def test_login_that_is_no_login_is_400(stage: Stage, content_type: str, content: bytes) -> None:
    visitor = Frontend(stage.served.http)
    headers = visitor.headers | {"Content-Type": content_type}
    refused(await visitor.http.post("/api/login", content=content, headers=headers), 400, "bad_request")


@pytest.mark.asyncio
async def test_login_of_more_than_a_megabyte_is_413(visitor: Frontend) -> None:
    fields = {"email": STUDENT, "password": "x" * (1 << 20)}
    refused(await visitor.json("/api/login", fields), 413, "too_large")


@pytest.mark.asyncio
async def test_token_status_tells_the_time_left(student: Frontend) -> None:
    status = good(await student.get("/api/token_status"))
    assert set(status) == {"expires_in_seconds", "expires_in_minutes"}
    assert type(status["expires_in_seconds"]) is int
    assert 17_900 <= status["expires_in_seconds"] <= 18_000
    assert status["expires_in_minutes"] == round(status["expires_in_seconds"] / 60, 2)


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["refuse", "hang", "500"])
async def test_token_status_does_not_depend_on_the_services_behind(
    student: Frontend, world: World, fault: str
) -> None:
    for service in ("catalogue", "manager", "instance"):
        await world.control.put(Switch(service, fault))
    good(await student.get("/api/token_status"))
    assert world.ledger("catalogue").calls + world.ledger("manager").calls == 0


@pytest.mark.asyncio
async def test_second_login_ends_the_first(served: Served, student: Frontend) -> None:
    newer = Frontend(served.http, await served.token("student"))
    refused(await student.get("/api/token_status"), 401, "not_authenticated")
    good(await newer.get("/api/token_status"))


@pytest.mark.asyncio
async def test_login_of_one_user_leaves_another_signed_in(served: Served, student: Frontend) -> None:
    await served.token("tutor")
    good(await student.get("/api/token_status"))


@pytest.mark.asyncio
async def test_logout_ends_the_token_and_can_be_repeated(student: Frontend) -> None:
    good(await student.json("/api/logout"))
    refused(await student.get("/api/token_status"), 401)
    good(await student.json("/api/logout"))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer null", "Bearer undefined", "Bearer", "", "Basic dTpw", "Bearer a.b.c", "x" * 5000],
)
async def test_logout_is_never_401(stage: Stage, authorization: str | None) -> None:
    visitor = Frontend(stage.served.http)
    headers = {} if authorization is None else {"Authorization": authorization}
    for _ in range(2):
        good(await visitor.http.post("/api/logout", json={}, headers=visitor.headers | headers))


@pytest.mark.asyncio
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"a=b"])
async def test_logout_does_not_mind_what_it_is_sent(student: Frontend, content: bytes) -> None:
    good(await student.http.post("/api/logout", content=content, headers=student.headers))
    refused(await student.get("/api/token_status"), 401)


@pytest.mark.asyncio
async def test_logout_with_a_forged_token_ends_nobodys_session(student: Frontend, visitor: Frontend) -> None:
    assert student.token is not None
    visitor.token = claiming(student.token, "another key, as long as the real one is")
    good(await visitor.json("/api/logout"))
    good(await student.get("/api/token_status"))


MAKE_BAD: dict[str, Callable[[str], str | bytes | None]] = {
    "no header": lambda _: None,
    "null": lambda _: "Bearer null",
    "empty": lambda _: "Bearer",
    "basic": lambda _: "Basic dXNlcjpwYXNz",
    "scheme missing": lambda token: token,
    "forged": lambda token: f"Bearer {claiming(token, 'another key, as long as the real one is')}",
    "other signature": lambda token: f"Bearer {with_other_signature(token)}",
    "unsigned": lambda token: f"Bearer {unsigned(token)}",
    "expired": lambda token: f"Bearer {claiming(token, iat=1, nbf=1, exp=2)}",
    "not yet valid": lambda token: f"Bearer {claiming(token, nbf=4_000_000_000, exp=4_000_000_100)}",
    "another session": lambda token: f"Bearer {claiming(token, jti='0' * 32)}",
    "another user": lambda token: f"Bearer {claiming(token, sub='2')}",
    "nobody": lambda token: f"Bearer {claiming(token, sub='99')}",
    "other type": lambda token: f"Bearer {claiming(token, type='refresh')}",
    "cut": lambda token: f"Bearer {token[:-1]}",
    "not ascii": lambda token: f"Bearer {token}".encode() + b"\xc3\xa9",
    "long": lambda token: f"Bearer {token}{'x' * 5000}",
}


@pytest.mark.asyncio
async def test_every_route_but_the_public_ones_refuses_every_bad_token(
    settings: Callable[..., Settings], world: World
) -> None:
    mounts = [mount("/m", world.catalogue_url, auth="required", methods=["GET", "POST", "PUT", "DELETE"])]
    async with serving(settings(gateway_mounts=mounts)) as served:
        token = await served.token("student")
        routes = routes_of(served)
        assert set(routes) >= PUBLIC | {("POST", "/api/webrtc/offer"), ("PUT", "/m/offer")}
        for kind, make in MAKE_BAD.items():
            authorization = make(token)
            headers = {} if authorization is None else {"Authorization": authorization}
            for method, path in sorted(set(routes) - PUBLIC):
                answer = await served.http.request(method, path, headers=headers | FROM_ELSEWHERE)
                assert (kind, method, path, answer.status_code) == (kind, method, path, 401)
                refused(answer, 401, "not_authenticated")
        assert world.ledger("catalogue").calls == 0
        # The token itself was good all along.
        good(await Frontend(served.http, token).get("/api/token_status"))


@pytest.mark.asyncio
async def test_ended_token_is_refused_on_every_route(served: Served) -> None:
    tutor = Frontend(served.http, await served.token("tutor"))
    good(await tutor.json("/api/logout"))
    for method, path in sorted(set(routes_of(served)) - PUBLIC):
        answer = await served.http.request(method, path, headers=tutor.headers)
        assert (method, path, answer.status_code) == (method, path, 401)


@pytest.mark.asyncio
async def test_banned_user_is_out_at_once_and_cannot_come_back(served: Served, student: Frontend) -> None:
    def ban(session: Session) -> None:
        session.execute(update(User).where(User.email == STUDENT).values(status="banned"))

    await served.gateway.database.run(ban)
    await served.gateway.tokens.refresh()
    refused(await student.get("/api/token_status"), 401)
    refused(await student.json("/api/login", {"email": STUDENT, "password": PASSWORD}), 401)


@pytest.mark.asyncio
async def test_no_success_but_a_login_carries_a_token_or_null(student: Frontend, tutor: Frontend) -> None:
    for answer in (
        await student.get("/api/token_status"),
        await student.get("/api/avatar/list"),
        await student.get("/api/tts/models"),
        await student.get("/api/health"),
        await student.get("/api/health/detailed"),
        await student.multipart("/api/avatar/start", avatar_name="Ada Demo"),
        await student.json("/api/webrtc/offer", {"sdp": "v=0", "type": "offer"}),
        await student.json("/api/avatar/disconnect"),
        await tutor.add(form_of(), prompt_face=("a.mp4", FILM)),
        await tutor.multipart("/api/avatar/delete", name="New One"),
        await student.json("/api/logout"),
    ):
        assert isinstance(good(answer), dict)
