"""The last lines of a log file: what a worker that failed had to say."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

TAIL_LINES = 20
TAIL_BYTES = 16 * 1024

_BLOCKS = 4 * TAIL_LINES  # of a worker that writes line by line, with its newlines apart


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
    return _whole_lines(data) if start > begins_at else data


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


class LastBlocks:
    """The end of a stream that goes to no file: what was read last is kept as it is, and let go of with the next."""

    __slots__ = ("_blocks", "_bytes", "_is_cut")

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()
        self._bytes = 0
        self._is_cut = False

    def write(self, block: bytes) -> None:
        if len(block) > TAIL_BYTES:
            block = block[-TAIL_BYTES:]
            self._is_cut = True
        self._blocks.append(block)
        self._bytes += len(block)
        while self._bytes - len(self._blocks[0]) >= TAIL_BYTES or len(self._blocks) > _BLOCKS:
            self._bytes -= len(self._blocks.popleft())
            self._is_cut = True

    def finish(self) -> None:
        """It is asked for after the stream's end as well."""

    def end(self) -> bytes:
        """As ``read_end``; less than that if it came in very small pieces."""
        data = b"".join(self._blocks)
        return _whole_lines(data) if self._is_cut else data


def _whole_lines(data: bytes) -> bytes:
    """Without the rest of a line whose beginning is cut off, if that is not all there is."""
    return data[data.find(b"\n", 0, -1) + 1 :]
