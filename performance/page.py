"""The report as one page that needs nothing else: no script, no font, no request."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from performance.claims import CONTRADICTIONS, MET, MISSED, claims, preface
from performance.columns import act_cells, act_headings, step_cells, step_headings
from performance.conclusions import conclusions
from performance.machine import described
from performance.outcome import CALL_FAILED, FINE, VERDICTS
from performance.page_charts import of_crowd, of_ladder
from performance.page_style import STYLE
from performance.record import Crowd, Record
from performance.settings import Settings

# Nothing outside is asked for, whatever a gateway's message may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
KINDS = {FINE: "good", CALL_FAILED: "bad"}
MARKS = {MET: "good", MISSED: "bad"}


def as_html(settings: Settings, record: Record) -> str:
    code = record.exit_code(settings.limit_seconds)
    body = [
        header(settings, f'<span class="verdict {KINDS.get(code, "warn")}">{escape(VERDICTS[code])}</span>'),
        *ladder(settings, record),
        *(part for crowd in record.crowds for part in of_one_crowd(settings, crowd)),
        *(of_claims(record) if settings.claims_seconds is not None and record.serial else ()),
        "<h2>What it says</h2>",
        listed(conclusions(settings, record)[:-1]),
        "<h2>Machine of the load</h2>",
        machine(),
        "<footer>Made by test_async_performance.py. Times are those of successful calls, from the moment a"
        " user calls to the last byte.</footer>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(settings.title)}: load test</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def header(settings: Settings, verdict: str) -> str:
    title = f"{settings.title} by N users at once" if settings.scenario is None else settings.title
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    rounds = settings.load.rounds
    how_often = f", {rounds} rounds, middle ones shown" if rounds > 1 else ""
    about = f"{escape(settings.target.base_url)}, {when}{how_often}"
    return f"<header><h1>{escape(title)}</h1><p>{about}</p>{verdict}</header>"


def ladder(settings: Settings, record: Record) -> list[str]:
    if not record.steps:
        return []
    top, rounds = max(record.steps, key=lambda rung: rung.users), settings.load.rounds
    serial = top.users * (record.serial_mean or 0.0)
    tiles = [
        (f"{top.wall:.2f} s", f"until the last of {top.users:,} users at once is served"),
        (f"{serial:,.{0 if serial >= 100 else 1}f} s", "one by one"),
        (f"{serial * top.success_percent / 100 / top.wall:,.0f}×", "as fast"),
        (f"{top.success_percent:g} %", "of them answered"),
    ]
    slow = record.too_slow(settings.limit_seconds)
    rows = [
        (step_cells(rung, rounds), "bad" if rung.failures or rung in slow else "") for rung in record.steps
    ]
    charts = "".join(of_ladder(record))
    return [tiled(tiles), f'<div class="charts">{charts}</div>', "<h2>Step by step</h2>",
            table(step_headings(rounds), rows)]  # fmt: skip


def of_one_crowd(settings: Settings, crowd: Crowd) -> list[str]:
    rounds = settings.load.rounds
    headings, cells = act_headings(rounds), act_cells("all", crowd.rounds, rounds)
    known = dict(zip(headings, cells, strict=True))
    tiles = [
        (known["calls"], f"calls of {crowd.users:,} users"),
        (known["req/s"], "answered a second"),
        (f"{known['p50 s']} s", "the usual wait"),
        (f"{known['p95 s']} s", "what 95 % do not exceed"),
        (f"{known['ok %']} %", "of them answered"),
    ]
    rows = []
    for name in crowd.names:
        failed = any(tally.count(name).failed for tally in crowd.rounds)
        rows.append((act_cells(name, crowd.rounds, rounds), "bad" if failed else ""))
    charts = "".join(of_crowd(crowd))
    return [f"<h2>{crowd.users:,} users</h2>", tiled(tiles), f'<div class="charts">{charts}</div>', "<br>",
            table(headings, [*rows, (cells, "all")], words=1)]  # fmt: skip


def of_claims(record: Record) -> list[str]:
    rows = []
    for claim in claims(record):
        mark = MARKS.get(claim.verdict, "warn")
        verdict = f'<span class="{mark}">{escape(claim.verdict)}</span>'
        rows.append(
            f"<tr><td>{escape(claim.claim)}</td><td>{escape(claim.measured)}</td><td>{verdict}</td></tr>"
        )
    head = "<tr><th>claimed</th><th>measured</th><th>verdict</th></tr>"
    return [
        f"<h2>Claims</h2><p>{escape(preface(record))}</p>",
        f'<div class="card words"><table>{head}{"".join(rows)}</table></div>',
        "<h2>Where the claims contradict themselves</h2>",
        listed(CONTRADICTIONS),
    ]


def tiled(tiles: Sequence[tuple[str, str]]) -> str:
    each = (
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    return f'<div class="tiles">{"".join(each)}</div>'


def table(headings: Sequence[str], rows: Iterable[tuple[Sequence[str], str]], words: int = 0) -> str:
    def marked(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=word' if place < words else ''}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f'<tr class="{kind}">{marked("td", cells)}</tr>' for cells, kind in rows)
    return f'<div class="card"><table><tr>{marked("th", headings)}</tr>{body}</table></div>'


def listed(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def machine() -> str:
    known = ((name, value) for name, value in described().items() if value is not None)
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in known)
    return f'<div class="card"><dl>{rows}</dl></div>'
