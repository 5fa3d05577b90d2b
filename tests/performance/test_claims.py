"""Claims held against what was measured: met, missed and not measured."""

from performance.answers import Answer, Failure
from performance.claims import MET, MISSED, UNKNOWN, claims, preface
from performance.record import Record
from performance.steps import Rung, Step
from performance.tally import Tally


def climbed(walls: dict[int, float], call: float = 3.0, failed: int = 0) -> Record:
    record = Record(serial=[call] * 3)
    for users, wall in walls.items():
        answers = [
            Answer(wall, failure=Failure("503") if number < failed else None) for number in range(users)
        ]
        record.rungs.append(Rung(users, [Step.of(answers, record.serial)]))
    return record


def held(record: Record, users: int, answered: int, seconds: float) -> Record:
    record.window = Tally(users, ("x",))
    for _ in range(answered):
        record.window.add("x", Answer(3.0), seconds)
    record.window.seconds = seconds
    return record


def verdicts(record: Record) -> dict[str, str]:
    return {claim.claim: claim.verdict for claim in claims(record)}


def test_gateway_that_forwards_together_meets_what_it_claims() -> None:
    record = held(climbed({1: 3.0, 2: 3.0, 5: 3.02, 10: 3.05, 100: 3.2}), 100, 1990, 60.0)
    told = verdicts(record)
    assert told.pop("processor use from 30 to 60 %") == "no gain by itself"
    assert set(told.values()) == {MET}
    assert len(told) == 4 + 3 + 3


def test_gateway_that_forwards_one_by_one_misses_them() -> None:
    told = verdicts(held(climbed({1: 3.0, 2: 6.0, 5: 15.0, 10: 30.0, 100: 300.0}), 100, 20, 60.0))
    assert told["1 user waits 3 s"] == MET
    for users in (2, 5, 10):
        assert told[f"{users} users at once wait 3 s"] == MISSED
        assert told[f"{users} users one by one wait {users * 3} s"] == MET
    assert told["more than 100 users at once"] == MISSED
    assert told["together: 400 calls a minute"] == MISSED


def test_a_failed_call_misses_the_claim() -> None:
    assert verdicts(climbed({10: 3.0}, failed=1))["10 users at once wait 3 s"] == MISSED


def test_what_was_not_tried_is_not_judged() -> None:
    told = verdicts(climbed({1: 3.0}))
    assert told["5 users at once wait 3 s"] == UNKNOWN
    assert told["more than 100 users at once"] == UNKNOWN
    assert told["together: 400 calls a minute"] == UNKNOWN


def test_largest_step_that_waits_no_longer_is_named() -> None:
    many = next(one for one in claims(climbed({100: 3.1, 1000: 3.9})) if one.claim.startswith("more than"))
    assert many.verdict == MET
    assert "1,000: 100 % answered, the last after 3.90 s; 100 waited no longer" in many.measured


def test_quicker_call_is_held_against_claims_in_proportion() -> None:
    record = climbed({10: 0.31}, call=0.3)
    assert verdicts(record)["10 users at once wait 0.3 s"] == MET
    assert "this one takes 0.30 s" in preface(record)
    assert "takes" not in preface(climbed({10: 3.0}))


def test_nothing_measured_claims_nothing() -> None:
    assert claims(Record()) == []
