"""What a command printed, kept within bounds while it is read: the beginning and the end.

It does not know who prints, or when that has to stop.
"""

from __future__ import annotations


class Output:
    """Keeps the first and the last half of at most `limit` bytes.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._half = limit // 2
        self._head_size = limit - self._half
        self._head, self._tail = bytearray(), bytearray()

    def add(self, data: bytes) -> None:
        """Take what came next."""
        self.total += len(data)
        room = self._head_size - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > 2 * self._half + 2**16:  # not each time: that would copy all of it for every byte
            del self._tail[: -self._half or None]

    @property
    def left_out(self) -> int:
        """Bytes that are not kept."""
        return self.total - len(self._head) - min(self._half, len(self._tail))

    @property
    def parts(self) -> tuple[bytes, bytes]:
        """The beginning and, if there was more, the end."""
        return bytes(self._head), bytes(self._tail[max(0, len(self._tail) - self._half) :])
