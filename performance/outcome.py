"""How a run ends: its exit codes, and the one error that a tester is told of."""

FINE, CALL_FAILED, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
VERDICTS = {
    FINE: "Passed.",
    CALL_FAILED: "Failed: a call failed or took too long.",
    INTERRUPTED: "Stopped early: only what was finished is shown.",
}


class Unusable(Exception):
    """The run cannot start or be reported; the text says what the tester can change."""
