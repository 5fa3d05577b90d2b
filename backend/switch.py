"""Lets synchronous code wait for the event loop it runs on, by switching greenlets.

Flask's dispatch is synchronous and calls async views in its middle. Run inside `run`, it may `wait`
for an awaitable: the stack is set aside, the loop goes on, and the call returns with the result.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import greenlet

T = TypeVar("T")
P = ParamSpec("P")


class _OnLoop(greenlet.greenlet):
    """A stack that may be set aside while the loop works; it shares its starter's context variables."""

    def __init__(self, work: Callable[..., Any], parent: greenlet.greenlet) -> None:
        super().__init__(work, parent)
        self.gr_context = parent.gr_context


def inside() -> bool:
    """Tell whether the caller runs inside `run`, and so may `wait`."""
    return isinstance(greenlet.getcurrent(), _OnLoop)


def wait(awaitable: Awaitable[T]) -> T:
    """Return the awaitable's result to synchronous code that runs inside `run`."""
    current = greenlet.getcurrent()
    if not isinstance(current, _OnLoop) or current.parent is None:
        raise RuntimeError("only code inside `run` can wait for the loop")
    result: T = current.parent.switch(awaitable)
    return result


async def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run synchronous `work` on this loop; wherever it waits, other tasks run.

    A cancellation of the task is raised inside `work` at the place where it waits.
    """
    stack = _OnLoop(work, greenlet.getcurrent())
    outcome: Any = stack.switch(*args, **kwargs)
    while not stack.dead:
        try:
            value = await outcome
        except BaseException:
            outcome = stack.throw(*sys.exc_info())
        else:
            outcome = stack.switch(value)
    result: T = outcome
    return result
