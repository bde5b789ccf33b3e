"""Lines told in one turn of the event loop are written in one go: a system call a turn, not one a line."""

from __future__ import annotations

from collections.abc import Callable


class Together:
    """Takes lines as ``Records`` hands them out; ``write`` gets them joined, in their order.

    ``soon`` runs a callback in the loop's next turn (``loop.call_soon``). ``flush`` is due once the loop has ended.
    """

    def __init__(self, write: Callable[[bytes], object], soon: Callable[[Callable[[], None]], object]) -> None:
        self._write = write
        self._soon = soon
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        """The line will be written before this turn of the loop is over, or right after."""
        self._lines.append(line)
        if len(self._lines) == 1:
            self._soon(self.flush)

    def flush(self) -> None:
        """Everything added so far is written."""
        lines, self._lines = self._lines, []
        if lines:
            self._write(b"".join(lines))
