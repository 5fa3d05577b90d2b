"""The report as Markdown, for issues and wikis."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from performance.claims import CONTRADICTIONS, claims, preface
from performance.columns import act_cells, act_headings, step_cells, step_headings
from performance.conclusions import conclusions
from performance.machine import described, in_words
from performance.record import Record
from performance.settings import Settings


def as_markdown(settings: Settings, record: Record) -> str:
    rounds = settings.load.rounds
    title = f"{settings.title} by N users at once" if settings.scenario is None else settings.title
    parts = [
        f"# {title}",
        f"{settings.target.base_url}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {in_words(described())}",
    ]
    if record.steps:
        parts.append(table(step_headings(rounds), (step_cells(rung, rounds) for rung in record.steps)))
    for crowd in record.crowds:
        names = [*crowd.names, "all"]
        rows = (act_cells(_escaped(name), crowd.rounds, rounds) for name in names)
        parts += [f"## {crowd.users:,} users", table(act_headings(rounds), rows, words=1)]
    if settings.claims_seconds is not None and record.serial:
        parts += ["## Claims", *of_claims(record)]
    parts.append("\n".join(f"- {_escaped(line)}" for line in conclusions(settings, record)))
    return "\n\n".join(parts) + "\n"


def of_claims(record: Record) -> list[str]:
    rows = ([claim.claim, claim.measured, claim.verdict] for claim in claims(record))
    return [
        preface(record),
        table(["claimed", "measured", "verdict"], rows, words=3),
        "\n".join(f"- {line}" for line in CONTRADICTIONS),
    ]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 0) -> str:
    marks = ["---" if place < words else "---:" for place in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
