"""No text but a token of ours is one."""

import asyncio
import functools
from datetime import UTC, datetime
from typing import cast

import jwt
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import NotAuthenticated
from backend.models import login_session
from backend.services import claims
from backend.services import tokens as subject
from backend.services.database import Database
from backend.services.tokens import Tokens
from tests.support import forgeries
from tests.support.forgeries import encoded
from tests.support.tokens import KEY, NOW, World, refused, world

__all__ = ["world"]

GOOD = {
    "sub": "1",
    "role": "student",
    "jti": "0" * 32,
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 18_000,
    "iss": "avatar-gateway",
    "aud": "avatar-gateway",
    "type": "access",
}
signed = functools.partial(forgeries.signed, default_key=KEY)
FORGED = forgeries.forgeries(GOOD, KEY)


def test_there_are_more_forgeries_than_anybody_asks_for() -> None:
    assert len(FORGED) >= 49
    assert len(set(FORGED.values())) == len(FORGED)


@pytest_asyncio.fixture
async def guarded(world: World) -> Tokens:
    """Knows one live session: the one that GOOD and the forgeries name."""
    assert world.ann.id == int(str(GOOD["sub"]))
    until = datetime.fromtimestamp(NOW + 18_000, UTC)
    with world.database.transaction() as session:
        login_session.begin(session, world.ann.id, str(GOOD["jti"]), until, NOW)
    return await world.started()


@pytest.mark.asyncio
async def test_token_that_the_forgeries_imitate_is_good(guarded: Tokens) -> None:
    assert (await guarded.verify(signed(GOOD))).email == "ann@school.example"
    assert (await guarded.verify(jwt.encode(GOOD, KEY))).email == "ann@school.example"


@pytest.mark.asyncio
@pytest.mark.parametrize("name", FORGED)
async def test_forged_token_is_refused_with_a_plain_sentence(guarded: Tokens, name: str) -> None:
    await guarded.verify(signed(GOOD))  # the true one being cached helps no forgery
    for _ in range(2):
        sentence = await refused(guarded, FORGED[name])
        assert sentence in {claims.INVALID, claims.EXPIRED, claims.EARLY, subject.ENDED}
        assert guarded.verify_cached(FORGED[name]) is None


@pytest.mark.asyncio
async def test_token_of_another_user_with_a_live_jti_is_refused(world: World) -> None:
    tokens = await world.started()
    principal = await tokens.verify(await tokens.issue(world.ann))
    await refused(tokens, signed(GOOD | {"sub": str(world.bob.id), "jti": principal.jti}))


@settings(deadline=None)  # an event loop each
@given(st.one_of(st.text(), st.binary().map(lambda raw: f"{encoded(raw)}.{encoded(raw)}.{'A' * 43}")))
def test_no_text_is_a_token(text: str) -> None:
    tokens = Tokens(KEY, cast(Database, None), staleness_seconds=1)
    assert tokens.peek(text) is None
    with pytest.raises(NotAuthenticated):
        asyncio.run(tokens.verify(text))


@given(st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    token = signed(GOOD)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(max_codepoint=0x17F).filter(lambda c: c != token[place]))
    tokens = Tokens(KEY, cast(Database, None), staleness_seconds=1)
    assert tokens.peek(token) is not None
    assert tokens.peek(token[:place] + other + token[place + 1 :]) is None


@given(st.dictionaries(st.sampled_from([*GOOD]), st.from_type(str) | st.integers() | st.floats() | st.none()))
def test_no_signed_payload_makes_anything_but_claims_or_a_refusal(changes: dict[str, object]) -> None:
    Tokens(KEY, cast(Database, None), staleness_seconds=1).peek(signed(GOOD | changes))
