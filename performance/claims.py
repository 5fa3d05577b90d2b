"""What asynchronous forwarding was promised to do, held against what was measured.

The promises are those of a gateway whose call takes 3 s: before, users waited one for another; after, all
wait as long as one.
"""

from dataclasses import dataclass

from performance.record import Record
from performance.steps import Rung

CLAIMED_CALL_SECONDS = 3.0
TOLERANCE = 0.1  # claims have one figure
AT_ONCE = (1, 2, 5, 10)
IN_A_ROW = (2, 5, 10)
MANY_USERS = 100
BEFORE_A_MINUTE, AFTER_A_MINUTE = 20.0, 400.0
MET, MISSED, UNKNOWN = "met", "missed", "not measured"

CONTRADICTIONS = (
    "100 users of a 3 s call make 2,000 calls a minute, not 400: that many are made by 20 users. The two"
    " claims cannot both be the limit.",
    "Processor use that grows from 30 to 60 % is claimed as a gain. It is none by itself: what counts is the"
    " work done for it, and this script does not see the gateway's processor time.",
    '"No further configuration" does not hold: asynchronous views need Flask\'s async extra, and a server'
    " that runs them side by side. The plain adapter makes one call at a time.",
    "Retries are among the claims, but the code that they were made for had none. A gateway may repeat only"
    " what was never sent or does no harm twice; a ladder cannot see that.",
)


@dataclass(frozen=True)
class Claim:
    """One promise, what was measured, and whether it holds."""

    claim: str
    measured: str
    verdict: str


def claims(record: Record) -> list[Claim]:
    call = record.serial_mean
    if call is None:
        return []
    scale = scale_of(record)
    return [
        *(_at_once(record, users, scale) for users in AT_ONCE),
        *(_in_a_row(users, call, len(record.serial), scale) for users in IN_A_ROW),
        _many(record, scale),
        _before(call, scale),
        _after(record, scale),
        Claim("processor use from 30 to 60 %", _processor(record), "no gain by itself"),
    ]


def scale_of(record: Record) -> float:
    """Return how long a call takes here beside the claimed 3 s; 1 where it is about that."""
    scale = (record.serial_mean or CLAIMED_CALL_SECONDS) / CLAIMED_CALL_SECONDS
    return 1.0 if abs(scale - 1) <= TOLERANCE else scale


def preface(record: Record) -> str:
    scale = scale_of(record)
    if scale == 1.0:
        return f"Met means within {TOLERANCE:.0%}."
    took = f"{record.serial_mean:.2f} s"
    return (
        f"The claims are about a call of {CLAIMED_CALL_SECONDS:g} s and this one takes {took}: times are held"
        f" against {scale:.3g} of what was claimed, rates against {1 / scale:.3g} times. Met means within"
        f" {TOLERANCE:.0%}."
    )


def _excuse(rung: Rung) -> str:
    usual = rung.middle(lambda step: step.at(50))
    full = any(effort.crowded or effort.limits(usual, at_once=True) for effort in rung.efforts)
    return "; the machine that the load comes from was at its limit" if full else ""


def _verdict(holds: bool) -> str:
    return MET if holds else MISSED


def _at_once(record: Record, users: int, scale: float) -> Claim:
    claimed = CLAIMED_CALL_SECONDS * scale
    claim = f"{users} {'user waits' if users == 1 else 'users at once wait'} {claimed:.3g} s"
    rung = next((rung for rung in record.steps if rung.users == users), None)
    if rung is None:
        return Claim(claim, "this step was not climbed", UNKNOWN)
    measured = f"{rung.wall:.2f} s until the last had it"
    if rung.failures:
        return Claim(claim, f"{measured}, but only {rung.success_percent:g} % were answered", MISSED)
    holds = rung.wall <= claimed * (1 + TOLERANCE)
    return Claim(claim, measured if holds else measured + _excuse(rung), _verdict(holds))


def _in_a_row(users: int, call: float, calls: int, scale: float) -> Claim:
    claimed = users * CLAIMED_CALL_SECONDS * scale
    how = "measured" if calls >= users else f"from {calls} calls in a row"
    holds = abs(users * call - claimed) <= claimed * TOLERANCE
    return Claim(
        f"{users} users one by one wait {claimed:.3g} s", f"{users * call:.2f} s, {how}", _verdict(holds)
    )


def _many(record: Record, scale: float) -> Claim:
    claim = f"more than {MANY_USERS} users at once"
    tried = [rung for rung in record.steps if rung.users >= MANY_USERS]
    if not tried:
        most = max((rung.users for rung in record.steps), default=0)
        return Claim(claim, f"the ladder ended at {most}", UNKNOWN)
    top = max(tried, key=lambda rung: rung.users)
    limit = CLAIMED_CALL_SECONDS * scale * (1 + TOLERANCE)
    fine = [rung.users for rung in tried if not rung.failures and rung.wall <= limit]
    measured = f"{top.users:,}: {top.success_percent:g} % answered, the last after {top.wall:.2f} s"
    if fine and max(fine) < top.users:
        measured += f"; {max(fine):,} waited no longer than one does"
    if fine:
        return Claim(claim, measured, MET)
    longer = ", longer than one waits" if any(rung.success_percent == 100 for rung in tried) else ""
    return Claim(claim, f"{measured}{longer}{_excuse(top)}", MISSED)


def _before(call: float, scale: float) -> Claim:
    claimed, measured = BEFORE_A_MINUTE / scale, 60 / call
    holds = abs(measured - claimed) <= claimed * TOLERANCE
    return Claim(f"one by one: {claimed:,.0f} calls a minute", f"{measured:,.1f} a minute", _verdict(holds))


def _after(record: Record, scale: float) -> Claim:
    claimed = AFTER_A_MINUTE / scale
    claim = f"together: {claimed:,.0f} calls a minute"
    if record.window is None or not record.window.total.answered:
        return Claim(claim, "no steady load was made", UNKNOWN)
    window, rate = record.window, record.window.rate * 60
    possible = window.users * 60 / (CLAIMED_CALL_SECONDS * scale)
    measured = (
        f"{rate:,.0f} a minute by {window.users} users in {window.seconds:.0f} s;"
        f" so many could make {possible:,.0f} at most"
    )
    return Claim(claim, measured, _verdict(rate >= claimed * (1 - TOLERANCE)))


def _processor(record: Record) -> str:
    effort = None if record.window is None else record.window.effort
    if effort is None or effort.machine is None:
        return "not seen from here"
    return f"all of this machine, this script included: {effort.machine:.0%} in the steady load"
