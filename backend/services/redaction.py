"""Takes secrets and personal data out of what is about to be written to the log, whoever wrote it.

It looks at finished texts, tracebacks included, so that no caller has to think of it. What it does not know
by its form, such as a name, must not be logged in the first place.
"""

import re
from collections.abc import Iterable

HIDDEN = "***"

# Words whose value is nobody's business: keys of JSON, forms, headers, keyword arguments.
_KEYS = (
    r"(?:password|passwd|pwd|secret|token|authorization|api[_-]?key|cookie|credential|jwt|session_?id)"
    r"[\w-]{0,32}[\"']?\s{0,4}[:=]\s{0,4}"
)
_NAME = r"[^\s@\"'<>()\[\]{},:;=/*?\\]"
# Each looks at a character a bounded number of times: lines hold what strangers sent.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # A signed token, wherever it stands.
        (r"eyJ[\w-]{4,}(?:\.[\w-]*){0,4}", HIDDEN),
        (r"\b(bearer|basic)\s{1,4}[^\s\"',;]+", rf"\1 {HIDDEN}"),
        # The user part of an address: postgresql://gateway:secret@host.
        (r"(://)[^\s/@\"']{1,256}@", rf"\1{HIDDEN}@"),
        (rf"({_KEYS}b?)\"(?:[^\"\\]|\\.)*\"?", rf'\1"{HIDDEN}"'),
        (rf"({_KEYS}b?)'(?:[^'\\]|\\.)*'?", rf"\1'{HIDDEN}'"),
        (rf"({_KEYS})[^\s\"'&,;)}}\]]+", rf"\1{HIDDEN}"),
        # A query string.
        (r"(?<=[\w/.~%-])\?[^\s\"]+", f"?{HIDDEN}"),
        # E-mail addresses, also with names that are not ASCII, and percent-encoded.
        (rf"{_NAME}{{1,64}}@{_NAME}{{1,255}}", HIDDEN),
        (r"[\w.+%-]{1,64}%40[\w.-]{1,255}", HIDDEN),
    )
)
# Beyond it a line is cut: it would be a body or a page, and cost more to look through than it can tell.
MOST_CHARACTERS = 16_384


class Redaction:
    """Knows what secrets look like, and some secrets by themselves: those of the settings."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({secret for secret in secrets if len(secret) >= 6}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if len(text) > MOST_CHARACTERS:
            text = text[:MOST_CHARACTERS] + "… (cut)"
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        return text
