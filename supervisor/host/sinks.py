"""What the bytes of one worker's stream go into: here what takes them line by line, in ``logfile`` as they are.

A sink takes blocks as they were read, never raises and never waits; what it cannot take is lost and accounted for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from supervisor import clock
from supervisor.host.console import Console

LINE_LIMIT = 1 << 16
CONTINUED = b" ...\n"
STAMP = "\0"
"""Stands in a prefix for the instant at which a line was read: configured texts have no NUL."""

_PIECES = 64


class Sink(Protocol):
    """One of the places that a stream's bytes go to."""

    def write(self, block: bytes) -> object:
        """Take the next bytes."""

    def finish(self) -> None:
        """There are no more bytes: write what was held back, close what is open."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something takes nothing: what ``worker.output_dropped`` tells, when it begins and when it is ``over``.

    ``bytes`` is the number lost so far, and all of them when over; ``reason`` the system's words (strerror(3));
    ``labels`` are the plan's: group, role_name, rank, local_rank, attempt. ``stream`` is "stdout" or "stderr", and
    ``into`` what takes nothing: "stdout.log", "journal" ... ``waits``: nothing is lost, the worker has to wait.
    """

    labels: Mapping[str, str]
    stream: str
    bytes: int
    reason: str
    over: bool
    into: str = ""
    waits: bool = False


class Losses:
    """What one stream of one worker has lost: counted for the group always, told once an episode begins and ends."""

    __slots__ = ("_into", "_labels", "_on_dropped", "_stream", "_totals", "_waits", "bytes", "reason")

    def __init__(
        self,
        labels: Mapping[str, str],
        stream: str,
        totals: dict[str, int],
        on_dropped: Callable[[Dropped], None] | None = None,
        into: str = "",
    ) -> None:
        """``into`` is what loses it; the stream's own file if not given."""
        self.bytes = 0
        self.reason = ""
        self._labels = labels
        self._stream = stream
        self._totals = totals
        self._on_dropped = on_dropped
        self._into = into or f"{stream}.log"
        self._waits = False

    @property
    def told_to(
        self,
    ) -> tuple[Mapping[str, str], str, dict[str, int], Callable[[Dropped], None] | None, str]:
        """What another one of the same is made with."""
        return self._labels, self._stream, self._totals, self._on_dropped, self._into

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

    def inherit(self, lost: int, reason: str) -> None:
        """So many bytes are lost, counted and told of by another: the episode is ours to end."""
        self.bytes += lost
        self.reason = reason

    def end(self) -> None:
        """The episode, if there is one, is over."""
        if self.bytes:
            self._tell(over=True)
            self.bytes = 0

    def wait(self, reason: str) -> None:
        """Nothing is lost, but the worker has to wait from now on."""
        if not self._waits:
            self._waits = True
            self.reason = reason
            self._tell(over=False, waits=True)

    def waited(self) -> None:
        """It need not wait any more."""
        if self._waits:
            self._waits = False
            self._tell(over=True, waits=True)

    def _tell(self, *, over: bool, waits: bool = False) -> None:
        lost = 0 if waits else self.bytes
        self._say(Dropped(self._labels, self._stream, lost, self.reason, over, self._into, waits))

    def _say(self, dropped: Dropped) -> None:
        if self._on_dropped is not None:
            self._on_dropped(dropped)


class Lines(ABC):
    """Whole lines, each with a prefix, made of blocks that are cut anywhere; ``_put`` takes them, newlines and all.

    A line longer than ``LINE_LIMIT`` comes in parts, each with the prefix, all but the last marked with ``CONTINUED``.
    """

    __slots__ = ("_held", "_held_bytes", "_limit", "_losses", "_newline", "_prefix")

    def __init__(self, prefix: bytes, losses: Losses, limit: int = LINE_LIMIT) -> None:
        self._prefix = prefix
        self._newline = b"\n" + prefix
        self._losses = losses
        self._limit = limit
        self._held: list[bytes] = []  # a line begun, in pieces
        self._held_bytes = 0

    def write(self, block: bytes) -> None:
        if len(block) > self._limit and not self._has_short_lines(block):
            for at in range(0, len(block), self._limit):
                self._take(block[at : at + self._limit])
        else:
            self._take(block)

    def _has_short_lines(self, block: bytes) -> bool:
        """Whether no line in it is longer than ``_limit``, found without looking at all of it.

        Such a line covers one of the stretches of half that length that begin at multiples of it.
        """
        step = self._limit // 2 or 1
        return all(block.find(b"\n", at, at + step) >= 0 for at in range(0, len(block) - step + 1, step))

    def _take(self, block: bytes) -> None:
        first = block.find(b"\n")
        parts = b""
        if self._held_bytes + (first if first >= 0 else len(block)) > self._limit:
            parts, block = self._cut(block)
        last = block.rfind(b"\n")
        if last >= 0:
            # Every newline before the last begins a line: all their prefixes in one go.
            lines = b"".join((parts, self._prefix, *self._held, block[:last].replace(b"\n", self._newline), b"\n"))
            self._held.clear()
            self._held_bytes = 0
            self._put(lines)
            block = block[last + 1 :]
        elif parts:
            self._put(parts)
        if block:
            self._hold(block)

    def finish(self) -> None:
        if self._held:
            self._put(b"".join((self._prefix, *self._held, b"\n")))
            self._held.clear()
            self._held_bytes = 0

    def _cut(self, block: bytes) -> tuple[bytes, bytes]:
        """The parts of a line that is too long, and what is left of it and of ``block`` once it is short enough."""
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
        return b"".join(parts), text[start:]

    def _hold(self, piece: bytes) -> None:
        if len(self._held) >= _PIECES:  # a worker that writes a byte at a time must not cost an object for each
            self._held = [b"".join(self._held)]
        self._held.append(piece)
        self._held_bytes += len(piece)

    @abstractmethod
    def _put(self, lines: bytes) -> None: ...


class ConsoleLines(Lines):
    """Whole lines on a console that others write to as well."""

    __slots__ = ("_console",)

    def __init__(self, console: Console, prefix: bytes, losses: Losses, limit: int = LINE_LIMIT) -> None:
        super().__init__(prefix, losses, limit)
        self._console = console

    def _put(self, lines: bytes) -> None:
        if not self._console.write(lines) and self._console.broken is None:
            self._losses.count(len(lines))


class StampedLines(ConsoleLines):
    """Lines with the instant in their prefix: all that come with one read have come at one instant."""

    __slots__ = ("_template",)

    def __init__(self, console: Console, prefix: bytes, losses: Losses, limit: int = LINE_LIMIT) -> None:
        super().__init__(console, stamped(prefix), losses, limit)
        self._template = prefix

    def write(self, block: bytes) -> None:
        self._prefix = stamped(self._template)
        self._newline = b"\n" + self._prefix
        super().write(block)


def stamped(prefix: bytes) -> bytes:
    """The prefix with this instant where ``STAMP`` stands."""
    return prefix.replace(STAMP.encode(), clock.rfc3339(clock.now()).encode())
