"""Names of uploaded files: what people see and delete by, and never a name on disk."""

import re
import unicodedata

MOST_CHARACTERS = 150
MOST_NAMESAKES = 999

# Names that mean devices on Windows, where people save what they download.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])", re.IGNORECASE)
# A quote would end the name in the index's own expressions, a backquote in a shell.
_QUOTES = frozenset("\"'`")
# Control, format (with every bidi mark), surrogates, private use, unassigned; line and paragraph separators.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# The frontend does not encode names in addresses: an escape would arrive as what it stands for.
_ESCAPE = re.compile(r"%(?=[0-9A-Fa-f]{2})")


def safe_name(claimed: str) -> str:
    """Return a name of at most MOST_CHARACTERS that looks the same everywhere; the extension stays."""
    name = re.split(r"[\\/]", claimed)[-1]
    visible = "".join(" " if c.isspace() else c for c in name if _visible(c) or c.isspace())
    name = unicodedata.normalize("NFC", _ESCAPE.sub("_", visible))
    return _joined(*_split(re.sub(r" {2,}", " ", name).rstrip(" .")))


def numbered(name: str, number: int) -> str:
    """Return the name as that of the second, third … file that would bear it: `a (2).pdf`."""
    if number == 1:
        return name
    stem, extension = _split(name)
    mark = f" ({number})"
    room = MOST_CHARACTERS - len(extension) - len(mark)
    return f"{stem[:room].rstrip(' .')}{mark}{extension}"


def beginning_of_all(name: str) -> str:
    """Return what all numbered forms of a name begin with."""
    stem, extension = _split(name)
    return stem[: MOST_CHARACTERS - len(extension) - len(f" ({MOST_NAMESAKES})")].rstrip(" .")


def extension_of(name: str) -> str:
    """Return `.pdf` for `A.PDF`, an empty text for a name without one."""
    return _split(name)[1].lower()


def meant(received: str, names: list[str]) -> str | None:
    """Return which of the names is meant by what arrived in an address, None when that is not clear.

    A browser that does not encode names ends them at the first `#`, and at a `?`.
    """
    if received in names:
        return received
    composed = unicodedata.normalize("NFC", received)
    if composed in names:
        return composed
    cut_off = [name for name in names if name.startswith((composed + "#", composed + "?"))]
    return cut_off[0] if composed and len(cut_off) == 1 else None


def _visible(character: str) -> bool:
    return character not in _QUOTES and unicodedata.category(character) not in _INVISIBLE


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if dot and extension and len(extension) <= 10 else (name, "")


def _joined(stem: str, extension: str) -> str:
    # A browser would send nothing at all of a name that begins with what ends an address.
    stem = stem[: MOST_CHARACTERS - len(extension)].rstrip(" .").lstrip(" .#?") or "file"
    if _RESERVED.fullmatch(stem.partition(".")[0].rstrip(" ")):
        stem = f"_{stem}"[: MOST_CHARACTERS - len(extension)].rstrip(" .")
    return stem + extension
