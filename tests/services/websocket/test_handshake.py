import pytest

from backend.errors import BadRequest, UpgradeRequired, UpstreamGarbage
from backend.services.headers import Pair
from backend.services.websocket import handshake
from backend.services.websocket.handshake import Offer

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of the example in RFC 6455, section 1.3


def offer(*protocols: bytes, takes_token: bool = True) -> Offer:
    lines: list[Pair] = [(b"sec-websocket-version", b"13"), (b"sec-websocket-key", KEY)]
    lines += [(b"sec-websocket-protocol", value) for value in protocols]
    return Offer.of(lines, takes_token=takes_token)


def test_key_is_answered_as_in_the_example() -> None:
    assert handshake.accept(KEY) == ACCEPT


def test_keys_of_the_gateway_are_new_each_time() -> None:
    assert len({handshake.new_key() for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("protocols", "found", "token"),
    [
        ((), (), None),
        ((b"a",), ("a",), None),
        ((b"a, b", b"c"), ("a", "b", "c"), None),
        ((b"bearer, ey.a.b",), (), "ey.a.b"),
        ((b"a, bearer, ey.a.b, c",), ("a", "c"), "ey.a.b"),
        ((b"bearer", b"ey.a.b"), (), "ey.a.b"),
    ],
)
def test_token_stands_behind_bearer_and_is_taken_out(
    protocols: tuple[bytes, ...], found: tuple[str, ...], token: str | None
) -> None:
    read = offer(*protocols)
    assert (read.protocols, read.token) == (found, token)


def test_where_nobody_looks_at_tokens_bearer_is_a_protocol_like_others() -> None:
    assert offer(b"bearer, x", takes_token=False).protocols == ("bearer", "x")


@pytest.mark.parametrize(
    "value", [b"", b"a,", b"a b", b"a,a", b"caf\xc3\xa9", b"a;b", b"bearer", b"a, bearer"]
)
def test_protocols_that_are_malformed_are_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        offer(value)


def test_more_protocols_than_anybody_has_are_refused() -> None:
    with pytest.raises(BadRequest):
        offer(b",".join(b"p%d" % number for number in range(33)))


@pytest.mark.parametrize("versions", [[], [b"8"], [b"13", b"13"], [b"13, 8"]])
def test_another_version_is_told_which_one_is_spoken(versions: list[bytes]) -> None:
    lines = [(b"sec-websocket-key", KEY), *((b"sec-websocket-version", value) for value in versions)]
    with pytest.raises(UpgradeRequired):
        Offer.of(lines, takes_token=True)


def test_browser_hears_a_protocol_of_its_own() -> None:
    assert offer(b"bearer, ey").answer(None) == "bearer"
    assert offer(b"bearer, ey, chat").answer("chat") == "chat"
    assert offer(b"chat").answer(None) is None


GOOD: dict[bytes, bytes] = {
    b"upgrade": b"WebSocket",
    b"connection": b"keep-alive, Upgrade",
    b"sec-websocket-accept": ACCEPT,
}


def test_answer_may_choose_one_of_the_offered_protocols_or_none() -> None:
    assert handshake.chosen(list(GOOD.items()), KEY, ("a", "b")) is None
    lines = [*GOOD.items(), (b"sec-websocket-protocol", b"b")]
    assert handshake.chosen(lines, KEY, ("a", "b")) == "b"


@pytest.mark.parametrize(
    "change",
    [
        {b"upgrade": b"h2c"},
        {b"connection": b"close"},
        {b"sec-websocket-accept": KEY},
        {b"sec-websocket-extensions": b"permessage-deflate"},
        {b"sec-websocket-protocol": b"c"},
        {b"sec-websocket-protocol": b"a, b"},
    ],
)
def test_answer_that_was_not_asked_for_is_garbage(change: dict[bytes, bytes]) -> None:
    with pytest.raises(UpstreamGarbage):
        handshake.chosen(list((GOOD | change).items()), KEY, ("a", "b"))
