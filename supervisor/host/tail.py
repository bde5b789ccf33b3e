"""The last lines of a log file: what a worker that failed had to say."""

from __future__ import annotations

import os
from dataclasses import dataclass

TAIL_LINES = 20
TAIL_BYTES = 16 * 1024


def last_lines(written: bytes) -> str:
    """The last ``TAIL_LINES`` lines as text; bytes that are not UTF-8 are replaced.

    Of a line that was written over (a progress bar's carriage returns) what a terminal would show at its end.
    """
    lines = written.decode("utf-8", "replace").removesuffix("\n").split("\n")[-TAIL_LINES:]
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def read_end(fd: int, begins_at: int = 0) -> bytes:
    """The last ``TAIL_BYTES`` of a file, from ``begins_at`` on; without the rest of a line whose beginning is cut off.

    Raises ``OSError``.
    """
    size = os.fstat(fd).st_size
    start = max(begins_at, size - TAIL_BYTES)
    data = os.pread(fd, TAIL_BYTES, start)
    if start > begins_at:
        newline = data.find(b"\n", 0, -1)
        data = data[newline + 1 :]
    return data


@dataclass(frozen=True, slots=True)
class Begun:
    """Where one worker's part of a file begins, and which file that was: its directory may be the worker's own."""

    path: str
    device: int
    inode: int
    at: int

    @classmethod
    def of(cls, path: str, fd: int) -> Begun:
        """What is written to ``fd`` from now on."""
        status = os.fstat(fd)
        return cls(path, status.st_dev, status.st_ino, status.st_size)

    def end(self) -> bytes:
        """The end of it; nothing if another file has taken its place. Raises ``OSError``."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (self.device, self.inode):
                return b""
            return read_end(fd, self.at)
        finally:
            os.close(fd)
