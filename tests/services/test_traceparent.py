import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.headers import Origin, Pair, to_upstream
from backend.services.traceparent import Parent, checked, new_span_id, new_trace_id, parent_of, spelled

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01".encode()
ORIGIN = Origin("192.0.2.7", "http", b"gateway.test", "1.1", "request-id-1")
BAD = {
    "empty": b"",
    "another version's end": GOOD + b"-more",
    "forbidden version": b"ff" + GOOD[2:],
    "upper case": GOOD.upper(),
    "no trace": f"00-{'0' * 32}-{SPAN}-01".encode(),
    "no span": f"00-{TRACE}-{'0' * 16}-01".encode(),
    "short": GOOD[:-1],
    "long": GOOD + b"0",
    "letters": GOOD.replace(b"0af", b"0ax"),
    "blanks": b" " + GOOD,
    "line": GOOD + b"\n",
    "header": GOOD + b"\r\nx: y",
    "huge": b"00-" + b"a" * 100_000,
    "endless version": b"01" + GOOD[2:] + b"-" + b"a" * 1000,
}


def test_a_parent_is_read() -> None:
    assert parent_of([(b"traceparent", GOOD)]) == Parent(TRACE, SPAN, sampled=True)
    assert parent_of([(b"traceparent", GOOD[:-1] + b"0")]) == Parent(TRACE, SPAN, sampled=False)
    assert parent_of([(b"traceparent", b"cc" + GOOD[2:] + b"-later")]) == Parent(TRACE, SPAN, sampled=True)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_anything_else_is_no_parent(value: bytes) -> None:
    assert parent_of([(b"traceparent", value)]) is None


def test_two_parents_are_none() -> None:
    assert parent_of([(b"traceparent", GOOD), (b"traceparent", GOOD)]) is None


@given(st.binary(max_size=80))
def test_no_bytes_make_it_fail(value: bytes) -> None:
    parent_of([(b"traceparent", value)])
    checked([(b"traceparent", GOOD), (b"tracestate", value)])


def passed(*headers: Pair) -> list[Pair]:
    return [pair for pair in to_upstream(headers, ORIGIN) if pair[0] in (b"traceparent", b"tracestate")]


def test_a_valid_parent_and_its_state_reach_the_upstream_untouched() -> None:
    pairs = (
        (b"traceparent", GOOD),
        (b"tracestate", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (b"tracestate", b"tenant@vendor=x"),
    )
    assert passed(*pairs) == [*pairs]


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_an_invalid_one_reaches_nobody_and_neither_does_its_state(value: bytes) -> None:
    assert passed((b"traceparent", value), (b"tracestate", b"rojo=1")) == []


def test_a_state_without_a_parent_reaches_nobody() -> None:
    assert passed((b"tracestate", b"rojo=1")) == []


@pytest.mark.parametrize(
    "state",
    [
        b"no value",
        b"=x",
        b"UPPER=x",
        b"a=b=c",
        b"k=" + b"v" * 600,
        b",".join(b"k%d=v" % n for n in range(40)),
    ],
)
def test_a_malformed_state_does_not_cost_the_parent(state: bytes) -> None:
    assert passed((b"traceparent", GOOD), (b"tracestate", state)) == [(b"traceparent", GOOD)]


def test_new_ids_have_the_form_that_is_asked_of_others() -> None:
    for _ in range(100):
        trace_id, span_id = new_trace_id(), new_span_id()
        assert parent_of([(b"traceparent", spelled(trace_id, span_id))]) == Parent(trace_id, span_id, True)
