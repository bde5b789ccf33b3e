"""The daemon's own stdout or stderr takes whole lines and never makes the daemon wait.

Records and worker lines share it. What cannot be written now is held, up to a bound; beyond the bound whole chunks are
dropped, counted and, when the console works again, marked.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
from collections.abc import Callable
from functools import partial

from supervisor import clock
from supervisor.host.disk import SETTLES_WITHIN, DiskWrites

LIMIT = 1 << 20
RESERVE = 1 << 17

RANK_COLOURS = (36, 33, 32, 35, 94, 96, 93, 92, 95)
"""Foregrounds that can be read on dark and on light, by rank modulo their number (ECMA-48, SGR). Red is for errors."""

# The device has no room now and may have some later; no readiness event will say when.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOBUFS, errno.ENOMEM})


class Console:
    """A file descriptor shared with others, written without ever blocking and without changing its flags.

    O_NONBLOCK belongs to the open file description, which the shell, the workers that inherit it and whoever else
    holds it would share (open(2)). So a pipe or a terminal is opened anew through /proc, a socket is sent to with
    MSG_DONTWAIT, a regular file is written by a thread, and where a second opening is refused (another user's
    terminal) poll(2) is asked before every PIPE_BUF bytes.

    ``limit`` bytes are held at most, and ``reserve`` more for what is urgent. ``mark`` makes the line that stands for
    so many dropped bytes (none: no line). ``on_dropped`` is called with that number once an episode, when the console
    works again, ``on_broken`` once with the reason when it never will (its reader or terminal is gone). ``broken`` is
    that reason, and is set from the start for a descriptor that is closed; ``lines_at_break`` had been taken and were
    lost then. ``colour``: workers' prefixes are coloured. Two Consoles on one file would tear each other's lines: if
    ``os.path.sameopenfile``, make one.
    """

    def __init__(
        self,
        fd: int,
        *,
        limit: int = LIMIT,
        reserve: int = RESERVE,
        colour: bool = False,
        mark: Callable[[int], bytes] | None = None,
        on_dropped: Callable[[int], None] | None = None,
        on_broken: Callable[[str], None] | None = None,
    ) -> None:
        self.broken: str | None = None
        self.dropped_bytes = 0
        self.lines_at_break = 0
        self.on_room: Callable[[], object] = _nothing
        """Called when ``keeps_up`` is true again, by the loop."""
        self._limit = limit
        self._reserve = reserve
        self._colour = colour
        self._mark = mark
        self._on_dropped = on_dropped
        self._on_broken = on_broken
        self._front = memoryview(b"")  # being written: it may begin in the middle of a line
        self._behind: list[bytes] = []
        self._behind_bytes = 0
        self._missing = 0
        self._full = False
        self._waiting_in: asyncio.AbstractEventLoop | None = None
        self._fd = -1
        self._close: Callable[[], None] = _nothing
        self._file: DiskWrites | None = None
        try:
            self._write = self._open(fd)
        except OSError as error:
            self.broken = error.strerror or str(error)

    def _open(self, fd: int) -> Callable[[bytes | memoryview], int]:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            sender = socket.socket(fileno=os.dup(fd))
            self._fd, self._close = sender.fileno(), sender.close
            return lambda data: sender.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if stat.S_ISREG(mode):
            self._own(os.dup(fd))  # and not opened anew: the offset is everybody's who holds this file
            self._file = DiskWrites(self._fd, on_room=self._has_room)
            return self._file.write
        try:
            self._own(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        except OSError:
            self._own(os.dup(fd))
            return partial(_write_when_polled, self._fd)
        return partial(os.write, self._fd)

    def _own(self, fd: int) -> None:
        self._fd, self._close = fd, partial(os.close, fd)

    @property
    def behind(self) -> bool:
        """Whether something is held, or was dropped and is not marked yet, because the console takes no more."""
        return bool(self._front or self._behind or self._missing)

    def prefix(self, text: bytes, rank: int) -> bytes:
        """The prefix of a worker's lines as this console shows it: the same colour for the same rank, always."""
        if not self._colour or not text:
            return text
        return b"\x1b[%dm%b\x1b[0m" % (RANK_COLOURS[rank % len(RANK_COLOURS)], text)

    def write(self, data: bytes, *, urgent: bool = False) -> bool:
        """Whole lines are written now or held for later; False when they are dropped. Never raises, never waits.

        What is urgent (records) may use the reserve, so that a flood of worker lines does not push it out.
        """
        if self.broken is not None:
            self.dropped_bytes += len(data)
            return False
        if self._waiting_in is not None or ((self._front or self._missing) and not self._catch_up()):
            return self._hold(data, urgent)
        self._front = self._push(data)
        return self.broken is None

    def takes_more(self) -> bool:
        """Whether nothing waits to be written (or never will be), so that nothing written now is dropped."""
        waits = self._front or self._behind or self._missing
        return not waits or self.broken is not None or (self._full and self._catch_up())

    def keeps_up(self) -> bool:
        """False while a file is behind, but no more: what is written now would fill what is held for a slower one."""
        return self._file is None or self._file.keeps_up()

    def settle(self, behind: int = 0) -> None:
        """What was written to a file can be read there but for so many bytes, unless its disk is slow."""
        if self._file is not None and self._file.behind > behind:
            self._file.settle(SETTLES_WITHIN)

    def flush(self, timeout: float) -> bool:
        """Everything held is written, waiting at most ``timeout`` seconds; False when it could not be."""
        deadline = clock.now() + timeout
        writable = select.poll()
        if self._fd >= 0:
            writable.register(self._fd, select.POLLOUT)
        while not self._catch_up():
            left = deadline - clock.now()
            if left <= 0 or self._full or self.broken is not None:
                return False
            if self._file is None:
                writable.poll(left * 1000)
            elif not self._file.settle(left):
                return False
        return self._file is None or self._file.settle(max(0.0, deadline - clock.now()))

    def close(self) -> None:
        """The descriptor of its own is given back; the one it was made for stays open. What is held is lost."""
        self._stop_waiting()
        if self._file is not None:
            self._file.close()
            self._file = None
        close, self._close, self._fd = self._close, _nothing, -1
        close()
        self.broken = self.broken or "closed"

    def _has_room(self) -> None:
        self._catch_up()
        self.on_room()

    def _hold(self, data: bytes, urgent: bool) -> bool:
        held = len(self._front) + self._behind_bytes + len(data)
        # Once something is dropped, so is all that follows until everything held is out: one mark tells of one gap.
        if self.broken is None and held <= self._limit + self._reserve and (
            urgent or (held <= self._limit and not self._missing)
        ):  # fmt: skip
            self._behind.append(data)
            self._behind_bytes += len(data)
            return True
        self._missing += len(data)
        self.dropped_bytes += len(data)
        return False

    def _catch_up(self) -> bool:
        """True when everything held is written, and the mark if something was dropped."""
        while self.broken is None:
            if not self._front:
                if not self._behind:
                    break
                self._front = memoryview(b"".join(self._behind))
                self._behind.clear()
                self._behind_bytes = 0
            self._front = self._push(self._front)
            if self._front:
                return False
        self._stop_waiting()
        if self._missing and self.broken is None:
            missing, self._missing = self._missing, 0
            if self._mark is not None:
                self._front = self._push(self._mark(missing))
            if self._on_dropped is not None:
                self._on_dropped(missing)
        return self.broken is None and not self._front

    def _push(self, data: bytes | memoryview) -> memoryview:
        """What is left of ``data`` when the console takes no more for now."""
        self._full = False
        rest = data
        try:
            sent = self._write(rest)
            while sent < len(rest):
                rest = memoryview(rest)[sent:]
                sent = self._write(rest)
            return memoryview(b"")
        except BlockingIOError:
            self._wait()
        except OSError as error:
            if error.errno in _FULL:
                self._full = True  # tried again with the next write
                self._stop_waiting()
            else:
                self._break(error.strerror or str(error), bytes(rest))
                return memoryview(b"")
        return memoryview(rest)

    def _break(self, reason: str, unwritten: bytes) -> None:
        self.broken = reason
        unwritten = (self._file.left if self._file is not None else b"") + unwritten
        self.dropped_bytes += len(unwritten) + self._behind_bytes
        self.lines_at_break = sum(data.count(b"\n") for data in (unwritten, *self._behind))
        self._front = memoryview(b"")
        self._behind.clear()
        self._behind_bytes = self._missing = 0
        if self._on_broken is not None:
            self._on_broken(reason)

    def _wait(self) -> None:
        if self._waiting_in is not None or self._file is not None:
            return  # a file says by itself when it has room
        try:
            loop = asyncio.get_running_loop()
            loop.add_writer(self._fd, self._catch_up)
        except (RuntimeError, OSError):
            return  # no loop runs, or it cannot watch this file: tried again with the next write, or by flush()
        self._waiting_in = loop

    def _stop_waiting(self) -> None:
        loop, self._waiting_in = self._waiting_in, None
        if loop is not None and not loop.is_closed():
            loop.remove_writer(self._fd)


def _nothing() -> None:
    pass


def _write_when_polled(fd: int, data: bytes | memoryview) -> int:
    """write(2) of as much as a writable pipe takes without blocking: PIPE_BUF bytes (pipe(7))."""
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    if not writable.poll(0):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return os.write(fd, data[: select.PIPE_BUF])
