"""Cuts a text into sentences for a voice, while the text is still arriving. No I/O."""

import re

# The longest a voice is given at once: some fifteen seconds of speech.
MOST_CHARACTERS = 200

# A sentence ends with Chinese punctuation, with Latin punctuation before a space, or with a line; closing
# quotes and brackets belong to it.
_END = re.compile(
    r"[。！？；…]+[\"'”’）)」』】]*"
    r"|[.!?;]+[\"'”’)\]]*(?=\s)"
    r"|\n+"
)
_MARKS = ".!?;。！？；…\"'”’）)」』】]\n"
# Where a sentence that does not end may be cut: behind a pause, else at a space.
_PAUSE = re.compile(r"[，、：,:—](?!\d)")
# Points that end no sentence: of abbreviations, of initials, of a number at the beginning of a list's line.
_ABBREVIATION = re.compile(
    r"(?:(?:^|[\s(\"“])(?:[A-Z]|Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|vs|cf|al|approx|Figs?|figs?|Eqs?|eqs?|Vol|pp|ca"
    r"|[eE]\.g|[iI]\.e|[aA]\.m|[pP]\.m|U\.S)|^\s*\d{1,3})\.$"
)


class Sentences:
    """Takes text as it arrives; the sentences are the same however it was cut into pieces."""

    def __init__(self, most: int = MOST_CHARACTERS) -> None:
        self._most = most
        self._text = ""
        self._searched = 0  # so far no sentence ends

    def feed(self, text: str) -> list[str]:
        """Return the sentences that are whole by now."""
        self._text += text
        found = []
        while (cut := self._cut()) is not None:
            found.append(self._text[:cut])
            self._text = self._text[cut:]
            self._searched = 0
        return [sentence for part in found if (sentence := _spoken(part))]

    def flush(self) -> list[str]:
        """Return what is left: no more text comes."""
        rest, self._text, self._searched = self._text, "", 0
        sentence = _spoken(rest)
        return [sentence] if sentence else []

    def _cut(self) -> int | None:
        text, most = self._text, self._most
        for match in _END.finditer(text, self._searched):
            if match.end() > most:
                break
            if match.end() == len(text):
                self._searched = match.start()  # more of the same may follow
                return None
            if not (match[0][0] == "." and _ABBREVIATION.search(text, 0, match.start() + 1)):
                return match.end()
        if len(text) <= most:
            # Punctuation counts only with what stands behind it, and a run of it from its beginning.
            self._searched = max(self._searched, len(text.rstrip(_MARKS)))
            return None
        return _pause_within(text[:most])


def _pause_within(text: str) -> int:
    """Return where to cut a text without an end: as late as possible, but not in its first third."""
    pauses = [match.end() for match in _PAUSE.finditer(text, len(text) // 3)]
    if pauses:
        return pauses[-1]
    space = text.rfind(" ", len(text) // 3)
    return space + 1 if space >= 0 else len(text)


# Marks of written text: headings and list items at the beginning, emphasis and code anywhere.
_WRITTEN = re.compile(r"^\s*(?:#+|[*-])\s+|\*\*+|`+|~~+|(?<![\w\s])\*|(?<=\w)\*(?!\w)|(?<!\S)\*(?=\w)")


def _spoken(text: str) -> str:
    """Return a sentence without the marks of written text, or "" when nothing is left to say."""
    plain = " ".join(_WRITTEN.sub("", text).split())
    return plain if any(character.isalnum() for character in plain) else ""
