import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import (
    BadRequest,
    Conflict,
    GatewayError,
    NoFreePlace,
    NotFound,
    TooLarge,
    UnsupportedMedia,
    UpstreamBroken,
    UpstreamBusy,
    UpstreamFirstByteTimeout,
    UpstreamGarbage,
    UpstreamRejected,
)
from backend.services.dialects import (
    ANSWER_BYTES,
    INSTANCE,
    LIVETALKING,
    MANAGER,
    MANAGER_BY_STATUS,
    Dialect,
    json_object,
    json_value,
    read_answer,
    refusal,
)
from tests.support.forms import Pieces


@pytest.mark.parametrize(
    ("status", "payload", "meaning"),
    [
        (200, {"status": "success"}, None),
        (200, {"code": 0}, None),
        (200, {"sdp": "v=0"}, None),
        (201, None, None),
        (200, ["error"], None),
        (200, {"code": -1, "msg": "full"}, UpstreamBusy),
        (200, {"status": "error"}, UpstreamRejected),
        (302, None, UpstreamGarbage),
        (304, None, UpstreamGarbage),
        (400, None, BadRequest),
        (401, None, UpstreamRejected),
        (403, None, UpstreamRejected),
        (404, {"code": -1}, NotFound),
        (409, None, Conflict),
        (413, None, TooLarge),
        (415, None, UnsupportedMedia),
        (422, None, BadRequest),
        (429, None, UpstreamBusy),
        (500, None, UpstreamRejected),
        (502, None, UpstreamRejected),
        (503, None, UpstreamBusy),
        (504, None, UpstreamFirstByteTimeout),
        (599, None, UpstreamRejected),
    ],
)
def test_answer_means(status: int, payload: object, meaning: type[GatewayError] | None) -> None:
    found = refusal(status, payload)
    assert (None if found is None else type(found)) is meaning


def test_sign_in_of_the_user_is_never_what_a_service_complains_of() -> None:
    """A 401 would sign the user out: the gateway alone says that."""
    assert {401, 403}.isdisjoint(refusal(status, None).status for status in range(300, 600))  # type: ignore[union-attr]


def test_manager_says_400_when_it_is_full() -> None:
    with pytest.raises(UpstreamBusy):
        json_object(400, b'{"status":"error"}', MANAGER_BY_STATUS)
    with pytest.raises(NotFound):
        json_object(404, b"{}", MANAGER_BY_STATUS)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[1]", b"null", b'"x"', b"1", b'{"a":NaN}', b'{"a":Infinity}', b"[" * 100_000],
)
def test_success_without_an_object_is_garbage(content: bytes) -> None:
    with pytest.raises(UpstreamGarbage):
        json_object(200, content)


def test_refusal_is_told_by_its_status_whatever_is_inside() -> None:
    with pytest.raises(UpstreamRejected):
        json_object(500, b"<html>\xff")


@settings(deadline=None)
@given(st.binary(max_size=50))
def test_any_bytes_are_json_or_garbage(content: bytes) -> None:
    try:
        json_value(content)
    except UpstreamGarbage:
        return


@pytest.mark.asyncio
async def test_answer_is_read_whole_and_let_go_of() -> None:
    body = Pieces(b"ab", b"c")
    assert await read_answer(body) == b"abc"
    assert body.closed == 1


@pytest.mark.asyncio
async def test_answer_over_a_megabyte_is_garbage_and_let_go_of() -> None:
    body = Pieces(*[bytes(1 << 18)] * 100)
    with pytest.raises(UpstreamGarbage):
        await read_answer(body)
    assert body.closed == 1
    assert body.reads == ANSWER_BYTES // (1 << 18) + 1


@pytest.mark.asyncio
async def test_answer_that_breaks_is_let_go_of() -> None:
    class Breaking(Pieces):
        async def read(self) -> bytes:
            raise UpstreamBroken

    body = Breaking()
    with pytest.raises(UpstreamBroken):
        await read_answer(body)
    assert body.closed == 1


FAILURES = [
    (MANAGER, 400, "已达到最大实例数限制: 5", NoFreePlace),
    (MANAGER, 400, "没有可用端口", NoFreePlace),
    (MANAGER, 400, "启动失败", UpstreamBusy),
    (MANAGER, 400, "数字人未运行", NotFound),
    (MANAGER, 400, "缺少必要参数: avatar_id", UpstreamRejected),
    (MANAGER, 404, "", NotFound),
    (MANAGER, 500, "已达到最大实例数限制", NoFreePlace),
    (INSTANCE, 200, "max session reached", UpstreamBusy),
    (INSTANCE, 200, "session not found", NotFound),
    (INSTANCE, 200, "list index out of range", UpstreamBusy),
    (INSTANCE, 503, "", UpstreamBusy),
    (LIVETALKING, 200, "reach max session", UpstreamBusy),
    (LIVETALKING, 200, "'123456'", NotFound),
    (LIVETALKING, 200, "123456", NotFound),
    (LIVETALKING, 500, "", NotFound),
    (LIVETALKING, 502, "", UpstreamRejected),
]


@pytest.mark.parametrize(("dialect", "status", "told", "meaning"), FAILURES)
def test_each_kind_of_service_is_understood_in_its_own_words(
    dialect: Dialect, status: int, told: str, meaning: type[GatewayError]
) -> None:
    for field in ("msg", "message"):
        content = json.dumps({"code": -1, "status": "error", field: told}).encode()
        with pytest.raises(GatewayError) as failure:
            dialect.object(status, content)
        assert type(failure.value) is meaning
        assert told not in failure.value.msg or not told


@pytest.mark.parametrize("dialect", [MANAGER, INSTANCE, LIVETALKING])
def test_words_of_a_success_mean_nothing(dialect: Dialect) -> None:
    content = {"code": 0, "status": "success", "msg": "session not found, limit 5"}
    assert dialect.object(200, json.dumps(content).encode()) == content


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"null", b'{"msg":5}', b"{" * 5000])
def test_failure_without_words_is_told_by_its_status(content: bytes) -> None:
    with pytest.raises(UpstreamBusy):
        MANAGER.object(400, content)
