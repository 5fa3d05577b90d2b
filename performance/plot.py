"""The ladder as a picture, drawn by matplotlib."""

import importlib
import io
from typing import Any

from performance.outcome import Unusable
from performance.record import Record
from performance.settings import Settings
from performance.steps import Step


def load_figure_class() -> Any:
    """Imported late: only --plot needs it, and it is slow. Raises Unusable."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise Unusable("--plot needs matplotlib: python -m pip install matplotlib") from error


def as_svg(settings: Settings, record: Record) -> str:
    svg = io.StringIO()
    draw(settings, record).savefig(svg, format="svg")
    return svg.getvalue()


def draw(settings: Settings, record: Record) -> Any:
    """Two panels: wall time against one by one, and how the waiting is spread."""
    rungs = sorted(record.steps, key=lambda rung: rung.users)
    users = [rung.users for rung in rungs]
    figure = load_figure_class()(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(f"{settings.call}, N users at once")
    wall, spread = figure.subplots(1, 2)
    serial = [rung.rounds[0].serial_seconds for rung in rungs]
    wall.plot(users, serial, "o--", color="0.55", label="one by one (extrapolated)")
    wall.plot(users, [rung.wall for rung in rungs], "o-", color="tab:blue", label="at once (measured)")
    wall.set(title="until the last user is served", yscale="log")
    for percent, colour in ((99, "tab:red"), (95, "tab:orange"), (50, "tab:green")):

        def at(step: Step, percent: int = percent) -> float | None:
            return step.at(percent)

        spread.plot(users, [rung.middle(at) for rung in rungs], "o-", color=colour, label=f"p{percent}")
    spread.set(title="how long one user waits", ylim=(0, spread.get_ylim()[1] * 1.05))
    for axes in (wall, spread):
        axes.set(xscale="log", xlabel="users at once", ylabel="seconds")
        axes.set_xticks(users, [f"{count:,}" for count in users])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure
