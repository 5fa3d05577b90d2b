"""What the tester gets to see: without a terminal plain lines, with --quiet nothing but the result."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from performance.answers import Answer

Row = tuple[Sequence[str], bool]  # cells, and whether all is well


class Notice:
    """Counts the answers of one step."""

    def __init__(self, screen: "Screen", bars: Progress, title: str, total: int) -> None:
        self._screen, self._bars, self._title, self._total = screen, bars, title, total
        self._task: TaskID = bars.add_task(title, total=total or None, failed=0)
        self._done = self._failed = 0
        self._began = time.perf_counter()

    def __call__(self, answer: Answer) -> None:
        self._done += 1
        self._failed += answer.failure is not None
        self._bars.update(self._task, advance=1, failed=self._failed)
        if self._done == self._total:
            self.finish()

    def finish(self) -> None:
        """Say how it went; a second time says nothing."""
        if self._total >= 0 and not self._screen.terminal:
            took = time.perf_counter() - self._began
            self._screen.say(f"{self._title:>16}: {self._done:,} done, {self._failed:,} failed, {took:.2f} s")
        self._bars.stop_task(self._task)
        self._total = -1


Watched = Callable[[str, int], Notice]


class Screen:
    """The terminal."""

    def __init__(self, quiet: bool) -> None:
        self.terminal = sys.stdout.isatty()
        self._quiet = quiet
        self._console = Console(width=None if self.terminal else 120, highlight=False, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        if not self._quiet:
            self._console.print(text, style=style, markup=False)

    def result(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False)

    def show_checks(self, answers: Mapping[str, Answer], needed: set[str]) -> None:
        table = Table("check", "status", "ms", "result", box=box.SIMPLE)
        for path, answer in answers.items():
            good = Text("ok", "green")
            bad = Text(f"{answer.failure}", "red" if path in needed else "yellow")
            status = "-" if answer.status is None else str(answer.status)
            table.add_row(path, status, f"{answer.seconds * 1000:.0f}", bad if answer.failure else good)
        if not self._quiet:
            self._console.print(table)

    @contextmanager
    def progress(self) -> Iterator[Watched]:
        counts = TextColumn("{task.completed:>5.0f} done {task.fields[failed]:>5} failed")
        columns = (TextColumn("{task.description:>16}"), BarColumn(), counts, TimeElapsedColumn())
        bars = Progress(*columns, console=self._console, disable=self._quiet or not self.terminal)
        with bars:
            yield lambda title, total: Notice(self, bars, title, total)

    def show_table(self, headings: Sequence[str], rows: Sequence[Row], *, words: int = 0) -> None:
        """The first columns, `words` many, hold words; the others figures."""
        table = Table(box=box.SIMPLE, padding=(0, 1), collapse_padding=True)
        for place, heading in enumerate(headings):
            table.add_column(heading, justify="left" if place < words else "right", no_wrap=place >= words)
        for cells, well in rows:
            table.add_row(*map(Text, cells), style="green" if well else "red")
        if rows:
            self._console.print(table)
