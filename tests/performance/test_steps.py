"""What waves and rounds of them say."""

import math

from performance.answers import Answer, Failure
from performance.steps import Rung, Step, kinds


def test_one_failure_among_many_does_not_round_up_to_all() -> None:
    answers = [Answer(1.0)] * 19_999 + [Answer(1.0, failure=Failure("503 busy"))]
    step = Step.of(answers, [1.0])
    assert math.isclose(step.success_percent, 99.9)


def test_rounds_are_told_by_their_middle_and_their_ends() -> None:
    rung = Rung(2, [Step.of([Answer(wall), Answer(wall / 2)], [1.0]) for wall in (3.0, 1.0, 2.0)])
    spread = rung.spread(lambda step: step.wall)
    assert spread is not None
    assert (spread.lowest, spread.middle, spread.highest, rung.wall) == (1.0, 2.0, 3.0, 2.0)


def test_failures_are_counted_by_kind_with_the_first_request_id() -> None:
    failures = [Failure("503 busy", "a"), Failure("500 x", "b"), Failure("503 busy", "c")]
    assert kinds(failures) == [(Failure("503 busy", "a"), 2), (Failure("500 x", "b"), 1)]
