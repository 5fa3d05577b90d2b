"""The pages of the documents, and the code in them."""

import re
from pathlib import Path

from tests.support.gateway import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_lines(text: str) -> list[str]:
    """The lines of indented and fenced code, without their comments."""
    fenced = [
        line for block in re.findall(r"```(?:bash|ini)\n(.*?)```", text, re.S) for line in block.splitlines()
    ]
    plain = re.sub(r"```.*?```", "", text, flags=re.S)
    indented = [line.strip() for line in plain.splitlines() if line.startswith("    ")]
    return [line.partition("  #")[0].rstrip() for line in fenced + indented]
