import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services import sketches
from backend.services.counts import BUCKETS, SLOT_SECONDS, WINDOW_SECONDS, Counts, Series, together
from backend.services.figures import OTHER_METHODS, Figures, Trouble
from backend.services.trail import Trail


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ended(clock: Clock, seconds: float = 0.02, route: str = "/x", upstream: float = 0.015) -> Trail:
    """The trail of a request that is over now and had its head at half its time."""
    trail = Trail()
    trail.route, trail.began = route, clock.now - seconds
    trail.upstream_head, trail.head, trail.own = upstream, seconds / 2, 0.001
    trail.upstream = 100 * upstream  # what comes after the head does not count
    return trail


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def figures(clock: Clock) -> Figures:
    return Figures(clock)


def test_a_request_is_counted_with_all_its_times(clock: Clock, figures: Figures) -> None:
    figures.count(ended(clock), "GET", "2xx", None, 10, 300)
    counts = figures.taken()
    series = counts.series["/x", "GET", "2xx"]
    assert (series.count, series.heads) == (1, 1)
    assert series.sums == pytest.approx([0.02, 0.001, 0.015, 0.01])
    assert [sum(buckets) for buckets in series.buckets] == [1, 1, 1, 1]
    assert series.buckets[0][BUCKETS.index(0.025)] == 1
    whole = counts.whole
    assert (whole.requests, whole.errors, whole.received, whole.sent) == (1, 0, 10, 300)
    assert sum(whole.durations) == sum(whole.owns) == 1


def test_a_duration_of_exactly_a_bound_lies_below_it(clock: Clock, figures: Figures) -> None:
    trail = ended(clock)
    trail.head = 0.25
    figures.count(trail, "GET", "2xx", None, 0, 0)
    assert figures.taken().series["/x", "GET", "2xx"].buckets[3][BUCKETS.index(0.25)] == 1


def test_a_client_that_left_before_the_head_has_a_duration_only(clock: Clock, figures: Figures) -> None:
    trail = ended(clock)
    trail.head = None
    figures.count(trail, "GET", "499", Trouble("client", "client_gone"), 0, 0)
    series = figures.taken().series["/x", "GET", "499"]
    assert (series.count, series.heads) == (1, 0)
    assert [sum(buckets) for buckets in series.buckets] == [1, 0, 0, 0]


def test_errors_are_counted_by_fault_code_and_upstream(clock: Clock, figures: Figures) -> None:
    trail = ended(clock)
    trail.upstream_name = "manager"
    for _ in range(3):
        figures.count(trail, "POST", "5xx", Trouble("upstream", "upstream_refused"), 0, 0)
    figures.count(ended(clock), "POST", "4xx", Trouble("client", "bad_request"), 0, 0)
    assert figures.taken().errors == {
        ("upstream", "upstream_refused", "manager"): 3,
        ("client", "bad_request", ""): 1,
    }
    assert figures.taken().whole.errors == 4


@given(
    st.lists(
        st.tuples(st.floats(0, 200_000), st.floats(0, 10), st.sampled_from(["/x", "/y"]), st.booleans()),
        min_size=1,
        max_size=250,
    )
)
def test_many_at_once_are_counted_as_each_by_itself_would_be(
    requests: list[tuple[float, float, str, bool]],
) -> None:
    clock = Clock(300_000.0)
    at_once, one_by_one, bins = Figures(clock), Figures(clock), sketches.empty()
    for seconds, own, route, headed in requests:
        trail = ended(clock, seconds, route)
        trail.own = own
        if not headed:
            trail.head = None
        at_once.count(trail, "GET", "2xx", None, 1, 2)
        one_by_one.count(trail, "GET", "2xx", None, 1, 2)
        one_by_one.taken()
        bins[sketches.bin_of(clock.now - trail.began)] += 1
    both, each = at_once.taken(), one_by_one.taken()
    assert (both.whole.durations, both.whole.owns) == (each.whole.durations, each.whole.owns)
    assert (both.whole.requests, both.whole.received) == (len(requests), len(requests))
    assert both.whole.durations == bins
    assert {key: one.buckets for key, one in both.series.items()} == {
        key: one.buckets for key, one in each.series.items()
    }


def test_invented_methods_share_a_label(clock: Clock, figures: Figures) -> None:
    for number in range(1000):
        figures.count(ended(clock), f"METHOD{number}", "4xx", None, 0, 0)
    assert list(figures.taken().series) == [("/x", OTHER_METHODS, "4xx")]
    assert figures.taken().whole.requests == 1000


def test_the_last_minute_forgets_and_the_whole_does_not(clock: Clock, figures: Figures) -> None:
    for _ in range(200):
        figures.count(ended(clock), "GET", "2xx", None, 0, 0)
        clock.now += 1.0
    lately = figures.taken().lately(clock.now)
    assert WINDOW_SECONDS - SLOT_SECONDS - 1 <= lately.requests <= WINDOW_SECONDS
    assert figures.taken().whole.requests == 200
    clock.now += 10 * WINDOW_SECONDS
    assert figures.taken().lately(clock.now).requests == 0
    assert figures.taken().whole.requests == 200
    assert sum(figures.taken().whole.durations) == 200


def test_slots_do_not_pile_up(clock: Clock, figures: Figures) -> None:
    for _ in range(10_000):
        figures.count(ended(clock), "GET", "2xx", None, 0, 0)
        clock.now += 1.0
    assert len(figures.taken().slots) <= WINDOW_SECONDS / SLOT_SECONDS + 3


def test_what_was_taken_does_not_change_while_counting_goes_on(clock: Clock, figures: Figures) -> None:
    figures.count(ended(clock), "GET", "2xx", None, 0, 0)
    taken = figures.taken()
    figures.count(ended(clock), "GET", "2xx", None, 0, 0)
    assert taken.whole.requests == taken.series["/x", "GET", "2xx"].count == 1
    assert sum(taken.series["/x", "GET", "2xx"].buckets[0]) == 1


def test_counts_taken_over_are_part_of_the_whole_but_not_of_the_last_minute(clock: Clock) -> None:
    before, after = Figures(clock), Figures(clock)
    for figures in (before, after):
        figures.count(ended(clock), "GET", "2xx", Trouble("client", "x"), 5, 7)
    after.take_over(before.taken())
    counts = after.taken()
    whole = counts.whole
    assert (whole.requests, whole.errors, whole.received, whole.sent) == (2, 2, 10, 14)
    assert counts.series["/x", "GET", "2xx"].count == 2
    assert counts.lately(clock.now).requests == 1


def test_counts_go_through_json_form_unchanged(clock: Clock, figures: Figures) -> None:
    figures.count(ended(clock), "GET", "2xx", Trouble("client", "x"), 5, 7)
    packed = figures.taken().packed()
    assert Counts.unpacked(packed).packed() == packed


def test_counts_of_several_workers_add_up(clock: Clock) -> None:
    several = [Figures(clock) for _ in range(3)]
    for number, figures in enumerate(several):
        for _ in range(number + 1):
            figures.count(ended(clock), "GET", "2xx", None, 1, 2)
    whole = together(figures.taken() for figures in several)
    assert whole.series["/x", "GET", "2xx"].count == whole.whole.requests == 6
    assert whole.lately(clock.now).sent == 12


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"series": [], "errors": [], "past": [], "slots": []},
        {"series": [["a", "b", "c", 1, 1, [], []]], "errors": [], "past": [], "slots": []},
        {"series": 3, "errors": 3, "past": 3, "slots": 3},
    ],
)
def test_what_is_no_count_is_refused(told: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError, IndexError)):
        Counts.unpacked(told)


def test_an_empty_series_is_a_zero_to_add() -> None:
    one, nothing = Series(), Series()
    one.count, one.buckets[0][2] = 4, 4
    before = [counts[:] for counts in one.buckets]
    one.add(nothing)
    assert (one.count, one.buckets) == (4, before)
