"""Calls that have a home: every process ranks addresses alike, and only those move whose home is out."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from backend.services.balancing import ranked
from tests.support.balancing import HOLDS_SECONDS, A, B, C, Town, town


@given(st.text(), st.integers(2, 8))
def test_every_process_ranks_addresses_alike_in_whatever_order_they_are_set(key: str, count: int) -> None:
    origins = [*town(count).traffic.addresses]
    assert ranked(key, origins) == ranked(key, reversed(origins))
    assert sorted(ranked(key, origins)) == sorted(origins)


def test_the_ranking_is_the_same_after_a_restart() -> None:
    """Hashes that Python salts would move every conversation."""
    assert ranked("conversation", [A, B, C]) == [A, C, B]


@given(
    st.lists(st.uuids().map(str), min_size=1, max_size=60, unique=True), st.integers(2, 6), st.integers(0, 5)
)
def test_only_those_move_whose_address_is_out(keys: list[str], count: int, which: int) -> None:
    here = town(count)
    homes = {key: here.traffic.next((), key) for key in keys}
    out = [*here.traffic.addresses][which % count]
    here.traffic.checked(out, "down", HOLDS_SECONDS)
    for key, home in homes.items():
        now = here.traffic.next((), key)
        assert now != out
        assert home in (now, out)
    here.traffic.checked(out, "up", HOLDS_SECONDS)
    assert {key: here.traffic.next((), key) for key in keys} == homes


def test_conversations_are_spread_and_stay_however_busy_their_address_is() -> None:
    here = Town(A, B, C)
    homes = Counter(here.traffic.next((), f"chat {number}") for number in range(900))
    assert all(200 < homes[origin] < 400 for origin in (A, B, C))
    home = here.traffic.next((), "chat")
    assert home is not None
    here.busy(home, 500)
    assert here.traffic.next((), "chat") == home
    second = here.traffic.next([home], "chat")
    assert second == ranked("chat", [A, B, C])[1]
