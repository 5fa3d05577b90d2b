"""Draws docs/diagrams/*.dot as SVG with graphviz: `python -m scripts.draw_diagrams [--check]`.

Each drawing carries the digest of the text it was made from, so that checking needs no graphviz.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "diagrams"
# Light and dark by the reader's choice: shapes take their colours from here.
STYLE = """<style>
svg { --ink: #1f2933; --line: #7b8794; --fill: #eef3f8; }
@media (prefers-color-scheme: dark) { svg { --ink: #e4e7eb; --line: #9aa5b1; --fill: #26323f; } }
text { fill: var(--ink); font-family: system-ui, sans-serif; }
.node path, .node polygon { fill: var(--fill); stroke: var(--line); }
.edge path { stroke: var(--line); } .edge polygon { fill: var(--line); stroke: var(--line); }
</style>"""
LOOK = (
    *(
        "-Gbgcolor=transparent",
        "-Gpad=0.2",
        "-Gnodesep=0.35",
        "-Granksep=0.5",
        "-Glabelloc=t",
        "-Gfontsize=15",
    ),
    *("-Nshape=box", "-Nstyle=rounded,filled", "-Nfontsize=12", "-Nmargin=0.18,0.12", "-Nfontname=Helvetica"),
    *("-Efontsize=11", "-Earrowsize=0.7", "-Efontname=Helvetica", "-Gfontname=Helvetica"),
)


def main(arguments: list[str]) -> int:
    old = [text for text in sorted(FOLDER.glob("*.dot")) if not _is_drawn(text)]
    if "--check" in arguments:
        for text in old:
            print(f"{text.name}: its drawing is old: run python -m scripts.draw_diagrams", file=sys.stderr)
        return 1 if old else 0
    if old and shutil.which("dot") is None:
        print("graphviz is missing; on Debian as root: apt-get install graphviz", file=sys.stderr)
        return 1
    for text in old:
        text.with_suffix(".svg").write_text(drawn(text), encoding="utf-8")
        print(f"drawn: {text.with_suffix('.svg').name}")
    return 0


def drawn(text: Path) -> str:
    """Return the SVG of a diagram. Raises CalledProcessError for what graphviz does not understand."""
    command = ["dot", "-Tsvg", *LOOK, str(text)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)  # noqa: S603 - our own
    svg = made.stdout[made.stdout.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.S)
    svg = re.sub(r"<title>.*?</title>\n?", "", svg)
    head, _, rest = svg.partition(">")
    return f'<!-- {_digest(text)} -->\n{head} role="img">\n{STYLE}{rest}'


def _is_drawn(text: Path) -> bool:
    svg = text.with_suffix(".svg")
    return svg.is_file() and _digest(text) in svg.read_text(encoding="utf-8").partition("\n")[0]


def _digest(text: Path) -> str:
    """The digest of what a drawing comes from: the text, and how it is drawn."""
    parts = (text.read_text(encoding="utf-8"), STYLE, *LOOK)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
