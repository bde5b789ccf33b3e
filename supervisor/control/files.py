"""The files of a daemon's workers, as somebody reads them who has asked it where they are."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import IO

from supervisor.errors import NOT_PERMITTED, UNAVAILABLE, RankdError

BLOCK = 1 << 16
LONGEST = 1 << 20
"""Bytes of a line whose end is not waited for."""


class Unreadable(RankdError):
    """A file cannot be read; ``is_missing``: there is none."""

    def __init__(self, path: str, error: OSError) -> None:
        self.is_missing = isinstance(error, FileNotFoundError)
        self.exit_code = NOT_PERMITTED if isinstance(error, PermissionError) else UNAVAILABLE
        super().__init__(f"{path}: {error.strerror}")


def reading(path: str) -> IO[bytes]:
    """A regular file, to be read. Raises ``Unreadable``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Unreadable(path, OSError(errno.EINVAL, "not a regular file"))
    return open(fd, "rb", buffering=0)


def seek_last(file: IO[bytes], lines: int) -> None:
    """Go to where the last so many lines begin; what has no end yet counts as one."""
    end = at = file.seek(0, os.SEEK_END)
    left = lines
    while at and left:
        begin = max(0, at - BLOCK)
        file.seek(begin)
        block = file.read(at - begin)
        place = len(block) - (at == end)  # the newline at the very end begins no line
        while left and (place := block.rfind(b"\n", 0, place)) >= 0:
            left -= 1
        at = begin if place < 0 else begin + place + 1
    file.seek(at)


class Followed:
    """A log that grows, and may be rotated meanwhile: what is new in it, as whole lines."""

    def __init__(self, path: str, lines: int | None) -> None:
        """From its last so many lines on (None: from its beginning). Raises ``Unreadable``."""
        self._path = path
        self._file = reading(path)
        self._rest = b""
        if lines is not None:
            seek_last(self._file, lines)

    def close(self) -> None:
        self._file.close()

    def lines(self, *, over: bool = False) -> list[bytes]:
        """Those that are new, without their ends; with ``over`` also what has no end, as nothing will follow it."""
        found = self._rest + self._new()
        *whole, self._rest = found.split(b"\n")
        over = over or len(self._rest) > LONGEST
        if over and self._rest:
            whole.append(self._rest)
            self._rest = b""
        return whole

    def _new(self) -> bytes:
        found = self._file.read()
        try:
            there = os.stat(self._path)
        except OSError:
            return found
        ours = os.fstat(self._file.fileno())
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            found += self._file.read()  # what came before it was put aside
            with suppress(Unreadable):  # it is being put aside again: the next look finds another
                following = reading(self._path)
                self._file.close()
                self._file = following
                found += following.read()
        elif there.st_size < self._file.tell():  # emptied in place
            self._file.seek(0)
            found += self._file.read()
        return found
