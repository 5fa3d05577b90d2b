"""Charts as inline SVG; colours come from the page, so that they follow light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from performance.axes import Axis, apart, figure, linear, logarithmic

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 38
LABEL_ROOM = 34
BAR_HEIGHT, BAR_GAP, BAR_LEFT, BAR_RIGHT = 12, 16, 112, 62


@dataclass(frozen=True)
class Line:
    """Points of one colour, `c1` to `c4` or `quiet`; a band shows the spread of rounds."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    colour: str
    dashed: bool = False
    filled: bool = False
    dots: bool = True
    width: float = 2.2
    band: tuple[tuple[float, float, float], ...] = ()

    @property
    def known(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if y is not None]


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    *,
    x_ticks: Sequence[float] = (),
    logs: bool = False,
) -> str:
    """Return a figure; with `x_ticks` its x axis is logarithmic, with `logs` the other one."""
    xs = [x for line in lines for x, _ in line.known]
    ys = [y for line in lines for _, y in line.known] + [high for line in lines for _, _, high in line.band]
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM
    x = logarithmic(xs, LEFT, right, sorted(set(x_ticks))) if x_ticks else linear(xs, LEFT, right, tight=True)
    y = logarithmic(ys, foot, TOP) if logs else linear(ys, foot, TOP)
    parts = [*_grid(x, y), *(shape for line in lines for shape in _shapes(line, x, y))]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 4, x_name, "middle", "axis"))
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return _figure(title, y_name, [(line.name, line.colour, line.dashed) for line in lines], svg)


def bar_chart(title: str, rows: Sequence[tuple[str, float, float]], unit: str) -> str:
    """Two bars on one another for each name: the usual value, and the one that few exceed."""
    height = len(rows) * (BAR_HEIGHT + BAR_GAP) + 26
    axis = linear([high for _, _, high in rows], BAR_LEFT, WIDTH - BAR_RIGHT)
    parts = []
    for tick in apart(axis, LABEL_ROOM):
        place = axis.place(tick)
        parts.append(f'<line class="grid" x1="{place}" x2="{place}" y1="4" y2="{height - 20}"/>')
        parts.append(_text(place, height - 6, figure(tick), "middle", "axis"))
    for number, (name, low, high) in enumerate(rows):
        top = 10 + number * (BAR_HEIGHT + BAR_GAP)
        tip = f"<title>{escape(name)}: p50 {figure(low)} {unit}, p95 {figure(high)} {unit}</title>"
        parts.append(_text(BAR_LEFT - 8, top + BAR_HEIGHT - 2, _short(name), "end", "name"))
        for value, kind in ((high, "faint"), (low, "")):
            width = max(axis.place(value) - BAR_LEFT, 1)
            box = f'x="{BAR_LEFT}" y="{top}" width="{width:.1f}" height="{BAR_HEIGHT}" rx="3"'
            parts.append(f'<rect class="bar c1 {kind}" {box}>{tip}</rect>')
        said = f"{figure(low)} · {figure(high)}"
        parts.append(_text(axis.place(high) + 6, top + BAR_HEIGHT - 2, said, "start", "value"))
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
    return _figure(title, unit, [("p50", "c1", False), ("p95", "c1 faint", False)], svg)


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for tick in y.ticks:
        place = y.place(tick)
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{place}" y2="{place}"/>')
        parts.append(_text(x.start - 7, place + 4, figure(tick), "end", "axis"))
    parts += [
        _text(x.place(tick), y.start + 17, figure(tick), "middle", "axis") for tick in apart(x, LABEL_ROOM)
    ]
    return parts


def _shapes(line: Line, x: Axis, y: Axis) -> list[str]:
    places = [(x.place(one), y.place(other)) for one, other in line.known]
    if not places:
        return []
    path = " ".join(f"{one},{other}" for one, other in places)
    parts = []
    if line.band:
        upper = [f"{x.place(at)},{y.place(high)}" for at, _, high in line.band]
        lower = [f"{x.place(at)},{y.place(low)}" for at, low, _ in reversed(line.band)]
        parts.append(f'<polygon class="area {line.colour}" points="{" ".join(upper + lower)}"/>')
    if line.filled:
        foot = f"{places[-1][0]},{y.start} {places[0][0]},{y.start}"
        parts.append(f'<polygon class="area {line.colour}" points="{path} {foot}"/>')
    dashed = " dashed" if line.dashed else ""
    kind = f'class="line {line.colour}{dashed}" stroke-width="{line.width}"'
    parts.append(f'<polyline {kind} points="{path}"/>')
    if line.dots:
        radius = f"{line.width + 1.3:.1f}"
        for (one, other), (at, value) in zip(places, line.known, strict=True):
            tip = f"<title>{escape(line.name)}, {figure(at)}: {figure(value)}</title>"
            parts.append(
                f'<circle class="dot {line.colour}" cx="{one}" cy="{other}" r="{radius}">{tip}</circle>'
            )
    return parts


def _figure(title: str, unit: str, legend: Sequence[tuple[str, str, bool]], svg: str) -> str:
    keys = "".join(
        f'<span><i class="key {colour}{" dashed" if dashed else ""}"></i>{escape(name)}</span>'
        for name, colour, dashed in legend
    )
    head = f"<figcaption><b>{escape(title)}</b> <small>{escape(unit)}</small><div>{keys}</div></figcaption>"
    return f"<figure>{head}{svg}</figure>"


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str) -> str:
    return name if len(name) <= 15 else f"{name[:14]}…"
