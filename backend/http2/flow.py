"""How far clients may send ahead of those who read (RFC 9113, section 5.2)."""

from backend.http2.frames import DEFAULT_WINDOW, Code, ConnectionFault, StreamFault

# What a stream may send before anything of it was read. Every stream has this much, so it is small:
# 250 streams that nobody reads hold 16 MiB.
STREAM_WINDOW = DEFAULT_WINDOW
# What it grows to while its reader keeps up: a video at 20 MB/s over 50 ms.
MOST_STREAM_WINDOW = 1024 * 1024
# What the streams of a connection may grow by together: sixteen large uploads at a time.
GROWTH = 16 * 1024 * 1024
# The connection's window is given back at once, because the streams' windows bound what is held; so no
# stream waits for another's reader. It only has to be larger than what is under way.
CONNECTION_WINDOW = 16 * 1024 * 1024


class Growth:
    """What the windows of one connection's streams may still grow by."""

    def __init__(self) -> None:
        self.left = GROWTH


class ConnectionReceipts:
    """The connection's window."""

    def __init__(self) -> None:
        self._left = CONNECTION_WINDOW
        self._owed = 0

    def received(self, length: int) -> int:
        """Count a DATA frame; return the increment to send, 0 for none. Raises ConnectionFault."""
        self._left -= length
        if self._left < 0:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "connection window overrun")
        self._owed += length
        if self._owed < CONNECTION_WINDOW // 2:
            return 0
        increment, self._owed = self._owed, 0
        self._left += increment
        return increment


class StreamReceipts:
    """A stream's window: opened as its body is read, and widened as long as its reader keeps up."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth
        self._size = self._left = STREAM_WINDOW
        self._owed = 0

    def received(self, stream_id: int, length: int) -> None:
        """Count a DATA frame. Raises StreamFault."""
        self._left -= length
        if self._left < 0:
            raise StreamFault(stream_id, Code.FLOW_CONTROL_ERROR, "stream window overrun")

    def read(self, length: int) -> int:
        """Count what was read; return the increment to send, 0 for none."""
        self._owed += length
        if self._owed < self._size // 2:
            return 0
        increment, self._owed = self._owed, 0
        wider = min(self._size, MOST_STREAM_WINDOW - self._size, self._growth.left)
        self._growth.left -= wider
        self._size += wider
        self._left += increment + wider
        return increment + wider

    def release(self) -> None:
        """Give back what the window had grown by."""
        self._growth.left += self._size - STREAM_WINDOW
        self._size = STREAM_WINDOW
