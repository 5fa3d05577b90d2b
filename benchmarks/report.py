"""Results for people: tables for a terminal, Markdown everywhere else."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.figures import Limit, Spread


@dataclass(frozen=True)
class Table:
    """Rows of text; the first `left` columns are words, the others figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def number(value: float) -> str:
    """Three figures are all that such a measurement is worth: 12,300, 412, 1.25, 0.034."""
    if abs(value) >= 1000:
        return f"{round(value, 2 - len(str(int(abs(value)))) + 1):,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def with_unit(value: float, unit: str) -> str:
    return f"{number(value)}{unit}" if unit == "×" else f"{number(value)} {unit}"


def spread(said: Spread) -> str:
    return f"{number(said.lowest)} … {number(said.highest)}"


def limits(limit: Limit | None) -> tuple[str, str]:
    """Return what is asked at least, and the goal."""
    if limit is None:
        return "", ""
    goal = with_unit(limit.goal, limit.unit) if limit.goal is not None else ""
    return with_unit(limit.at_least, limit.unit), goal


def markdown(machine: Mapping[str, str], tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    parts = [", ".join(f"{name} {value}" for name, value in machine.items()) + "."]
    for table in tables:
        parts.append(f"**{table.title}**")
        marks = ["---" if place < table.left else "---:" for place in range(len(table.columns))]
        parts.append("\n".join(_line(cells) for cells in (table.columns, marks, *table.rows)))
    return "\n\n".join([*parts, *notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def show(machine: Mapping[str, str], tables: Sequence[Table], notes: Sequence[str] = ()) -> None:
    """Print to standard output."""
    if not sys.stdout.isatty():
        print(markdown(machine, tables, notes), end="", flush=True)
        return
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), style="dim")
    for table in tables:
        drawn = RichTable(title=table.title, box=box.SIMPLE, title_justify="left")
        for place, column in enumerate(table.columns):
            drawn.add_column(column, justify="left" if place < table.left else "right")
        for row in table.rows:
            drawn.add_row(*(_coloured(cell) for cell in row))
        console.print(drawn)
    for note in notes:
        console.print(note, style="dim")


def _coloured(cell: str) -> str:
    colour = {"short": "red", "ok": "green", "ok, goal": "bold green"}.get(cell)
    return f"[{colour}]{cell}[/]" if colour else cell


def progress(text: str) -> None:
    """Tell what is going on, where it does not get into a report."""
    print(text, file=sys.stderr, flush=True)


def save(path: Path | None, content: str | Mapping[str, Any]) -> None:
    if path is not None:
        text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
        path.write_text(text, "utf-8")
