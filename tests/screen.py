"""What a person sees: as much of a terminal as it takes to tell which lines remain on its screen, and in what order."""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import struct
import termios
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

_CONTROL = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|.", re.DOTALL)


class Screen:
    """``rows`` are all rows so far, those that have scrolled away included; the cursor is on the last one.

    Understands CR, LF, EL 0, SGR (and forgets it) and DECAWM; anything else that moves a cursor is an error. A
    terminal that gets a character beyond its last column wraps, or overwrites the last one if it must not.
    """

    def __init__(self, columns: int = 80) -> None:
        self.rows = [""]
        self.columns = columns
        self.raw = b""
        self._column = 0
        self._wraps = True
        self._rest = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> None:
        """What a program has written; a sequence that is not whole yet waits for its end."""
        self.raw += data
        text = self._rest + self._decode(data)
        escape = text.rfind("\x1b")
        end = escape if escape >= 0 and not re.search("[A-Za-z]", text[escape:]) else len(text)
        self._rest = text[end:]
        for found in _CONTROL.finditer(text[:end]):
            if found[2] is None:
                self._put(found[0])
            else:
                self._control(found[1], found[2])

    @property
    def lines(self) -> list[str]:
        """All rows but the last."""
        return [row.rstrip() for row in self.rows[:-1]]

    @property
    def bottom(self) -> str:
        """The row where the cursor is."""
        return self.rows[-1].rstrip()

    def _put(self, character: str) -> None:
        match character:
            case "\r":
                self._column = 0
            case "\n":
                self.rows.append("")  # the terminal driver has put a CR before it
            case _:
                assert character >= " ", f"{character!r} moves the cursor"
                if unicodedata.combining(character):
                    return  # it takes no column
                width = 2 if unicodedata.east_asian_width(character) in "WF" else 1
                if self._column + width > self.columns:
                    if not self._wraps:
                        return
                    self.rows.append("")
                    self._column = 0
                row = self.rows[-1].ljust(self._column)
                self.rows[-1] = row[: self._column] + character + row[self._column + 1 :]
                self._column += width

    def _control(self, parameters: str, final: str) -> None:
        match parameters, final:
            case _, "m":
                pass
            case (("" | "0"), "K"):
                self.rows[-1] = self.rows[-1][: self._column]
            case "?7", ("l" | "h"):
                self._wraps = final == "h"
            case _:
                raise AssertionError(f"CSI {parameters} {final}: this screen has never heard of it")


def resize(fd: int, columns: int) -> None:
    """The terminal of that end has so many columns from now on; its foreground hears SIGWINCH."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


@contextmanager
def terminal(columns: int = 80) -> Iterator[tuple[int, int]]:
    """A pseudo-terminal that controls nobody: the end of who looks at it, not blocking, and the program's."""
    ours, theirs = os.openpty()
    resize(ours, columns)
    os.set_blocking(ours, False)
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)
