"""Log files that we write ourselves: every byte of a stream exactly as the worker wrote it, whatever the disk does."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from supervisor import clock
from supervisor.host.sinks import Losses
from supervisor.plan import Rotation

_NEWLINE = 10
_MAY_PASS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS})
"""Why a file takes nothing now and may take it later."""

LOOKS_EVERY = 1.0
"""Seconds after which a write looks whether the file still has a name."""


def open_log(path: str) -> int:
    """A regular file to append to.

    The directory may be the worker's user's own: what is put there in the file's place (a link, a pipe without a
    reader) must neither lead us elsewhere nor hold us up.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o640)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    os.set_blocking(fd, True)
    return fd


class LogFile:
    """A file that has every byte of a stream, exactly as written by the worker.

    While the file takes nothing (ENOSPC, EDQUOT, EIO) bytes are dropped, so that the worker goes on; the first thing
    it takes again is a line that says how many. With ``patient`` bytes that it may take later are held instead: nothing
    more may be written before ``ready`` says so.

    Once somebody has removed the file, or its directory, another one is begun; what was written since it was last seen
    to have a name is counted as dropped.
    """

    __slots__ = (
        "_fd", "_held", "_look_at", "_losses", "_mid_line", "_next", "_open", "_path", "_unseen", "patient",
    )  # fmt: skip

    def __init__(
        self, path: str, losses: Losses, *, open_file: Callable[[str], int] = open_log, patient: bool = False
    ) -> None:
        """``open_file`` opens ``path``, now and later; raises ``OSError``."""
        self.patient = patient
        self._path = path
        self._open = open_file
        self._fd = open_file(path)
        self._losses = losses
        self._mid_line = False
        self._next = -1  # opened already; written to once the line begun here is whole
        self._held = b""
        self._look_at = clock.now() + LOOKS_EVERY
        self._unseen = 0

    def write(self, block: bytes) -> int:
        """Take the next bytes; returns how many have been written."""
        if clock.now() >= self._look_at:
            self._look()
        if self._next >= 0:
            block = self._to_the_next(block)
            if not block:
                return 0
        if self._losses.bytes and not self._mark():
            self._losses.add(len(block), self._losses.reason)
            return 0
        written = 0
        try:
            written = os.write(self._fd, block)
            while written < len(block):
                written += os.write(self._fd, block[written:])
        except OSError as error:
            reason = error.strerror or str(error)
            if self.patient and error.errno in _MAY_PASS:
                self._held = block[written:]
                self._losses.wait(reason)
            else:
                self._losses.add(len(block) - written, reason)
        if written:
            self._mid_line = block[written - 1] != _NEWLINE
            self._unseen += written
        return written

    def _look(self) -> None:
        self._look_at = clock.now() + LOOKS_EVERY
        if os.fstat(self._fd).st_nlink or self._next >= 0:
            self._unseen = 0
            return
        try:
            fd = self._open(self._path)
        except OSError:
            return  # until the next look nobody can read what is written, and that will be counted, too
        self._turn_to(fd)
        self._losses.add(self._unseen, "the file was removed")
        self._unseen = 0

    @property
    def holds(self) -> bool:
        """Whether bytes are held that the file did not take."""
        return bool(self._held)

    def hold(self, block: bytes) -> None:
        """These come after what is held."""
        self._held += block

    def lost(self, lost: int, reason: str) -> None:
        """So many bytes never came here; nobody has to be told, but the file."""
        self._losses.inherit(lost, reason)
        self._mark()

    def ready(self) -> bool:
        """Whether all that came so far is written; what is held is tried again."""
        if self._held:
            held, self._held = self._held, b""
            self.write(held)
            if not self._held:
                self._losses.waited()
        return not self._held

    def reopen(self) -> None:
        """Somebody may have moved the file away: go on in the one of that name, with the next line that begins."""
        if self._fd < 0:
            return
        try:
            fd = self._open(self._path)
        except OSError as error:
            self._note(f"cannot open this file anew: {error.strerror}")
            return
        if self._next >= 0:
            os.close(self._next)
        self._next = fd
        if not self._mid_line:
            self._turn_to(fd)

    def give_up(self) -> None:
        """Wait no more: what cannot be written now is dropped."""
        self.patient = False
        self.ready()

    def finish(self) -> None:
        self.give_up()
        if self._losses.bytes:
            self._mark()
            self._losses.end()
        for fd in {self._fd, self._next} - {-1}:
            with suppress(OSError):  # close(2): it is gone whatever it says, and nothing can be tried again
                os.close(fd)
        self._fd = self._next = -1

    def _to_the_next(self, block: bytes) -> bytes:
        """What is left of ``block`` when the line begun in the old file is whole."""
        line_end = block.find(b"\n") + 1
        if not line_end:
            return block
        fd, self._next = self._next, -1
        LogFile.write(self, block[:line_end])
        if self._held:
            self._next = fd
            self._held += block[line_end:]
            return b""
        self._turn_to(fd)
        return block[line_end:]

    def _turn_to(self, fd: int) -> None:
        for old in {self._fd, self._next} - {fd, -1}:
            with suppress(OSError):
                os.close(old)
        self._fd = fd
        self._next = -1
        self._mid_line = False

    def _note(self, what: str) -> None:
        """Say it where it will be looked for: in the file itself."""
        line = f"{chr(10) if self._mid_line else ''}[rankd: {what}]\n".encode()
        with suppress(OSError):  # a full disk is told of when the worker's own bytes meet it
            os.write(self._fd, line)
            self._mid_line = False

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


class RotatedFile(LogFile):
    """A log file that begins anew after the line with which it has reached ``max_bytes``; ``keep`` old ones stay.

    ``stdout.log.1`` is the youngest of those. A line is torn only if it has no end within twice ``max_bytes``. No byte
    is copied, and none is missing between two files.
    """

    __slots__ = ("_rules", "_size")

    def __init__(
        self,
        path: str,
        losses: Losses,
        rules: Rotation,
        *,
        open_file: Callable[[str], int] = open_log,
        patient: bool = False,
    ) -> None:
        super().__init__(path, losses, open_file=open_file, patient=patient)
        self._rules = rules
        self._size = os.fstat(self._fd).st_size

    def write(self, block: bytes) -> int:
        limit = self._rules.max_bytes
        total = 0
        while block:
            if self._size >= limit and (not self._mid_line or self._size >= 2 * limit):
                self._rotate()
            end = len(block)
            if self._size + end > limit:
                line_end = block.find(b"\n", max(0, limit - self._size - 1)) + 1
                end = min(line_end or end, 2 * limit - self._size)
            written = super().write(block[:end])
            self._size += written
            total += written
            block = block[end:]
            if self._held:
                self._held += block
                break
        return total

    def _rotate(self) -> None:
        self._size = 0  # whatever comes of it: if nothing, it is tried again when as much has been written
        try:
            os.stat(self._path)
            for number in range(self._rules.keep - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.rename(f"{self._path}.{number}", f"{self._path}.{number + 1}")
            os.rename(self._path, f"{self._path}.1")
        except FileNotFoundError:
            pass  # somebody has moved it, or the directory, away: so has the work been done
        except OSError as error:
            self._note(f"cannot be rotated: {error.strerror}")
            return
        try:
            fd = self._open(self._path)
        except OSError as error:
            self._note(f"cannot begin a new file: {error.strerror}")
            return
        torn = self._mid_line
        self._turn_to(fd)
        self._mid_line = torn

    def _turn_to(self, fd: int) -> None:
        super()._turn_to(fd)
        self._size = os.fstat(fd).st_size
