"""What the bytes of one worker's stream go into: its log file as they are, the console line by line with a prefix.

A sink takes blocks as they were read, never raises and never waits; what it cannot take is lost and accounted for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from supervisor.host.console import Console

LINE_LIMIT = 1 << 16
CONTINUED = b" ...\n"
_PIECES = 64
_NEWLINE = 10


class Sink(Protocol):
    """One of the places that a stream's bytes go to."""

    def write(self, block: bytes) -> None:
        """Take the next bytes, at most ``LINE_LIMIT`` of them."""

    def finish(self) -> None:
        """There are no more bytes: write what was held back, close what is open."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A log file takes nothing: what ``worker.output_dropped`` tells, when it begins and when it is ``over``.

    ``bytes`` is the number lost so far, and all of them when over; ``reason`` the system's words (strerror(3));
    ``labels`` are the plan's: group, role_name, rank, local_rank, attempt.
    """

    labels: Mapping[str, str]
    stream: str
    bytes: int
    reason: str
    over: bool


class Losses:
    """What one stream of one worker has lost: counted for the group always, told once an episode begins and ends."""

    __slots__ = ("_labels", "_on_dropped", "_stream", "_totals", "bytes", "reason")

    def __init__(
        self,
        labels: Mapping[str, str],
        stream: str,
        totals: dict[str, int],
        on_dropped: Callable[[Dropped], None] | None = None,
    ) -> None:
        self.bytes = 0
        self.reason = ""
        self._labels = labels
        self._stream = stream
        self._totals = totals
        self._on_dropped = on_dropped

    def count(self, lost: int) -> None:
        """So many bytes are lost, outside of any episode."""
        self._totals[self._labels["group"]] += lost

    def add(self, lost: int, reason: str) -> None:
        """So many bytes are lost; the first of them begin an episode."""
        self.count(lost)
        begins = not self.bytes
        self.bytes += lost
        self.reason = reason
        if begins:
            self._tell(over=False)

    def end(self) -> None:
        """The episode, if there is one, is over."""
        if self.bytes:
            self._tell(over=True)
            self.bytes = 0

    def _tell(self, *, over: bool) -> None:
        if self._on_dropped is not None:
            self._on_dropped(Dropped(self._labels, self._stream, self.bytes, self.reason, over))


class LogFile:
    """A file that has every byte of a stream, exactly as written by the worker.

    While the file takes nothing (ENOSPC, EDQUOT, EIO) bytes are dropped, so that the worker goes on; the first thing
    it takes again is a line that says how many. ``fd`` is ours from here on, opened with O_APPEND.
    """

    __slots__ = ("_fd", "_losses", "_mid_line")

    def __init__(self, fd: int, losses: Losses) -> None:
        self._fd = fd
        self._losses = losses
        self._mid_line = False

    def write(self, block: bytes) -> None:
        if self._losses.bytes and not self._mark():
            self._losses.add(len(block), self._losses.reason)
            return
        written = 0
        try:
            written = os.write(self._fd, block)
            while written < len(block):
                written += os.write(self._fd, block[written:])
        except OSError as error:
            self._losses.add(len(block) - written, error.strerror or str(error))
        if written:
            self._mid_line = block[written - 1] != _NEWLINE

    def finish(self) -> None:
        if self._losses.bytes:
            self._mark()
            self._losses.end()
        with suppress(OSError):  # close(2): the descriptor is gone whatever it says, and nothing can be tried again
            os.close(self._fd)

    def _mark(self) -> bool:
        """True when the file works again, and has the line that says what is missing."""
        mark = f"[rankd: dropped {self._losses.bytes} bytes: {self._losses.reason}]\n".encode()
        if self._mid_line:
            mark = b"\n" + mark
        try:
            written = os.write(self._fd, mark)
            if written < len(mark):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                return False
        except OSError:
            return False
        self._mid_line = False
        self._losses.end()
        return True


class ConsoleLines:
    """Whole lines on a console that others write to as well, each with its worker's prefix.

    A line longer than ``LINE_LIMIT`` comes in parts, each with the prefix, all but the last marked with ``CONTINUED``.
    """

    __slots__ = ("_console", "_held", "_held_bytes", "_limit", "_losses", "_newline", "_prefix")

    def __init__(self, console: Console, prefix: bytes, losses: Losses, limit: int = LINE_LIMIT) -> None:
        self._console = console
        self._prefix = prefix
        self._newline = b"\n" + prefix
        self._losses = losses
        self._limit = limit
        self._held: list[bytes] = []  # a line begun, in pieces
        self._held_bytes = 0

    def write(self, block: bytes) -> None:
        if self._console.broken is not None:
            return
        first = block.find(b"\n")
        if self._held_bytes + (first if first >= 0 else len(block)) > self._limit:
            block = self._cut(block)
        last = block.rfind(b"\n")
        if last >= 0:
            # Every newline before the last begins a line: all their prefixes in one go.
            lines = b"".join((self._prefix, *self._held, block[:last].replace(b"\n", self._newline), b"\n"))
            self._held.clear()
            self._held_bytes = 0
            self._put(lines)
            block = block[last + 1 :]
        if block:
            self._hold(block)

    def finish(self) -> None:
        if self._held:
            self._put(b"".join((self._prefix, *self._held, b"\n")))
            self._held.clear()
            self._held_bytes = 0

    def _cut(self, block: bytes) -> bytes:
        """What is left of ``block``, and of the line begun before it, once that line is short enough."""
        text = b"".join((*self._held, block))
        self._held.clear()
        self._held_bytes = 0
        newline = text.find(b"\n")
        end = newline if newline >= 0 else len(text)
        parts: list[bytes] = []
        start = 0
        while end - start > self._limit:
            parts += (self._prefix, text[start : start + self._limit], CONTINUED)
            start += self._limit
        self._put(b"".join(parts))
        return text[start:]

    def _hold(self, piece: bytes) -> None:
        if len(self._held) >= _PIECES:  # a worker that writes a byte at a time must not cost an object for each
            self._held = [b"".join(self._held)]
        self._held.append(piece)
        self._held_bytes += len(piece)

    def _put(self, lines: bytes) -> None:
        if not self._console.write(lines) and self._console.broken is None:
            self._losses.count(len(lines))
