"""Server-sent events: bytes as they come in, data of whole events out."""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024


class EventTooLargeError(ValueError):
    """An event does not end."""


class SseDecoder:
    """Decodes one stream. Lines end in LF, CRLF or CR; comments and fields other than data are skipped."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes.

        Raises
        ------
        EventTooLargeError
            If an event is larger than MAX_EVENT_BYTES.
        """
        buffer = self._rest + chunk if self._rest else chunk
        if b"\r" in buffer:
            # a CR at the very end may be half of a CRLF
            tail = b"\r" if buffer.endswith(b"\r") else b""
            buffer = buffer[: len(buffer) - len(tail)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + tail
        *lines, self._rest = buffer.split(b"\n")
        found: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                piece = line[6:] if line[5:6] == b" " else line[5:]
                self._data.append(piece)
                self._size += len(piece)
            elif not line and self._data:
                found.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data, self._size = [], 0
        if len(self._rest) + self._size > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
        return found
