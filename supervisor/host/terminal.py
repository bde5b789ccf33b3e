"""A terminal has whole lines, and below them one line that says how things stand and moves down with what is written.

Everything that is written goes through ``Terminal``: it erases the bottom line, writes whole lines and draws it again,
in one write(2). With a bottom line, lines come in bunches, at most ten a second: nobody reads faster, the line neither
flickers nor costs more under a flood, and each bunch is one system call.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from supervisor import clock
from supervisor.host.console import Console

PAUSE = 0.1
"""Seconds between two drawings, unless ``BUNCH`` bytes of lines have come."""

BUNCH = 1 << 16

TICK = 1.0
"""Seconds after which the line is looked at again if nothing was written: up times have grown. The one periodic timer
there is, and only while a line is shown."""

ECHO = 2
"""Columns left free at the right: a Ctrl-C is echoed there as ``^C`` (termios(3), ECHOCTL), and must not wrap."""

USUAL_COLUMNS = 80

# Whatever colour a worker has left behind ends here. While the line is drawn the terminal does not wrap (DECAWM), so
# that a character wider than we think costs a column and not a row.
ERASE = b"\r\x1b[0m\x1b[K"
BEFORE = b"\x1b[0m\x1b[?7l"
AFTER = b"\x1b[?7h"


class Terminal(Console):
    """A ``Console`` on a terminal. Until ``show`` and after ``take_down`` it is just that.

    A job in the background (``rankd run ... &``) writes its lines and draws nothing: the bottom row is the shell's.
    After the terminal is made narrower, what it has made of the line drawn before stays above. ``limit`` must be more
    than ``BUNCH``: a bunch that the terminal does not take is held, never dropped.
    """

    def __init__(self, fd: int, *, mark: Callable[[int], bytes] | None = None, **more: Any) -> None:
        super().__init__(fd, mark=None if mark is None else partial(self._above, mark), **more)
        self._line: Callable[[int], str] | None = None
        self._shown = b""  # what the bottom row has, framing included
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._drawn_at = -PAUSE
        self._text = b""
        self._text_at = -PAUSE
        self._timer: asyncio.TimerHandle | None = None

    def show(self, line: Callable[[int], str]) -> None:
        """From here on the bottom row has what ``line`` says when asked with a number of columns; "" for no line.

        Needs a running loop.
        """
        self._line = line
        self._draw()

    def refresh(self) -> None:
        """What the line says, or the width of the terminal, has changed: draw it soon."""
        if self._line is not None:
            self._draw_at(max(clock.now(), self._drawn_at + PAUSE))

    def take_down(self) -> None:
        """The line is gone, for good, and every line given to us written. Idempotent."""
        self._line = None
        self._cancel()
        if self._gathered or self._shown:
            self._through(self._taken(), urgent=True)

    def write(self, data: bytes, *, urgent: bool = False) -> bool:
        if self._line is None or self.behind or self.broken is not None:
            return self._through(data, urgent=urgent)
        self._gathered.append(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= BUNCH or clock.now() >= self._drawn_at + PAUSE:
            self._draw()
        else:
            self._draw_at(self._drawn_at + PAUSE)
        return self.broken is None

    def flush(self, timeout: float) -> bool:
        if self._gathered:
            self._draw()
        return super().flush(timeout)

    def close(self) -> None:
        """As ``Console.close``; what is on the bottom row stays there."""
        self._line = None
        self._cancel()
        super().close()

    def _through(self, data: bytes, *, urgent: bool) -> bool:
        """Lines without a bottom line after them: while the terminal takes nothing, none is drawn that it must take."""
        taken = super().write(self._erasing() + data, urgent=urgent)
        if taken:
            self._shown = b""
        return taken

    def _draw(self) -> None:
        """Write the lines that wait and the bottom line after them; nothing, if neither is new."""
        self._cancel()
        if self.broken is not None or self._line is None:
            return
        now = clock.now()
        if not self.behind:
            text = self._framed(now) if self._in_foreground() else b""
            if self._gathered or text != self._shown:
                super().write(b"".join((self._erasing(), self._taken(), text)), urgent=True)
                self._shown = text
            self._drawn_at = now
        if self._shown and self.broken is None:
            self._draw_at(now + TICK)

    def _framed(self, now: float) -> bytes:
        if now >= self._text_at + PAUSE:
            assert self._line is not None
            text = self._line(self._columns() - ECHO).encode()
            self._text = BEFORE + text + AFTER if text else b""
            self._text_at = now
        return self._text

    def _taken(self) -> bytes:
        lines = b"".join(self._gathered)
        self._gathered.clear()
        self._gathered_bytes = 0
        return lines

    def _erasing(self) -> bytes:
        return ERASE if self._shown and self._in_foreground() else b""

    def _above(self, mark: Callable[[int], bytes], missing: int) -> bytes:
        erase, self._shown = self._erasing(), b""
        return erase + mark(missing)

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._fd).columns or USUAL_COLUMNS
        except OSError:
            return USUAL_COLUMNS

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True  # not the terminal that controls us: no shell of ours has a prompt there

    def _draw_at(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        self._draw()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
