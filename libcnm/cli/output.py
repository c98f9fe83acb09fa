"""Standard output that tells its own failures from all others: a reader that has gone, a device that is full.

click ends the program by itself when a pipe breaks, with a status of its own; an error that is no OSError passes it by.
It never knows what is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO


class OutputFailed(Exception):
    """What was to be printed was not; ``errno`` and ``reason`` are the system's."""

    def __init__(self, error: OSError) -> None:
        self.errno = error.errno
        self.reason = error.strerror or str(error)
        super().__init__(self.reason)


class Output:
    """A text stream whose writes and flushes raise OutputFailed; in everything else it is the stream that it wraps."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream does it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputFailed(error) from None

    def flush(self) -> None:
        """As the stream does it."""
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputFailed(error) from None
