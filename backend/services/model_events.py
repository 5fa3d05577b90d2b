"""The chat model's event stream, taken apart: bytes in, text and the end of it out. No I/O."""

import json
from enum import Enum

from backend.errors import UpstreamGarbage

# One event of the model; its own are some 80 bytes.
EVENT_BYTES = 64 * 1024
# Events that make no sense are passed over, but not for ever.
MOST_GARBAGE = 100


class End(Enum):
    """How the model ended its answer."""

    FINISHED = "finished"
    ERROR = "error"


class ModelEvents:
    """Reads `data:` lines with one JSON object each, however the network cut or joined them.

    The model writes each event as one line, so a line is an event, with or without the blank line behind it.
    All that one read completed is handled together.
    """

    def __init__(self) -> None:
        self.end: End | None = None
        self._rest = bytearray()
        self._half = ""  # of a character that the model cut in two
        self._garbage = 0

    def feed(self, content: bytes) -> str:
        """Return the text that these bytes completed. Raises UpstreamGarbage beyond the limits."""
        if self.end is not None:
            return ""
        if b"\r" in content:
            # Blank lines mean nothing here, so CRLF may become two ends of a line. JSON has no bare CR.
            content = content.replace(b"\r", b"\n")
        last = content.rfind(b"\n")
        if last < 0:
            self._rest += content
            whole = b""
        else:
            whole = bytes(self._rest) + content[:last]
            self._rest = bytearray(content[last + 1 :])
        if len(self._rest) > EVENT_BYTES:
            raise UpstreamGarbage
        texts = [text for line in whole.split(b"\n") if line and (text := self._line(line))]
        return self._whole_characters("".join(texts)) if texts else ""

    def finish(self) -> str:
        """Return the text of a last line without an end."""
        return self.feed(b"\n")

    def _line(self, line: bytes) -> str:
        if self.end is not None:
            return ""
        if len(line) > EVENT_BYTES:
            raise UpstreamGarbage
        if not line.startswith(b"data:"):
            return ""  # a comment, or a field that the model has no use for
        try:
            event = _DECODE(line[5:].decode("utf-8"))
        except (ValueError, RecursionError):
            return self._nonsense()
        if not isinstance(event, dict):
            return self._nonsense()
        status, chunk = event.get("status"), event.get("chunk")
        if status == "finished":
            self.end = End.FINISHED
        elif status == "error" or (event.get("error") and chunk is None):
            self.end = End.ERROR
            return ""
        if isinstance(chunk, str):
            return chunk
        return "" if chunk is None else self._nonsense()

    def _nonsense(self) -> str:
        self._garbage += 1
        if self._garbage > MOST_GARBAGE:
            raise UpstreamGarbage
        return ""

    def _whole_characters(self, text: str) -> str:
        """Join characters that JSON escapes cut in two, and leave out what cannot be stored or sent."""
        if text.isascii() and not self._half:
            return text.replace("\0", "")
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1] <= "\udbff" and self.end is None:
            text, self._half = text[:-1], text[-1]
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text.replace("\0", "")


def _no_number(text: str) -> None:
    """NaN and Infinity are no JSON (RFC 8259, section 6)."""
    raise ValueError(text)


_DECODE = json.JSONDecoder(parse_constant=_no_number).decode
