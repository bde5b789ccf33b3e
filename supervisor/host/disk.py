"""What may have to wait for a disk is done by a thread: a file system that does not answer holds up nobody but its own.

A write(2) to a regular file cannot be interrupted, nor asked not to wait: RWF_NOWAIT is refused for buffered writes by
ext4 and tmpfs, among others (preadv2(2)). While the thread writes one block, the loop reads the next.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from supervisor import clock

STUCK_AFTER = 1.0
"""Seconds after which a call that has not returned means that the disk does not answer: no worker waits any longer."""

HELD_OF_EACH = 1 << 20
HELD_OF_CONSOLE = 1 << 22
HELD_IN_ALL = 1 << 26
"""Bytes that wait for a disk: of one stream beyond which its worker waits or loses
something, of the file that is the console of all, and of all files of a disk."""

SMALL = 1 << 14
GATHER_FOR = 0.01
"""Writes of less than ``SMALL`` bytes wait so many seconds for others: waking the thread costs more than they do."""

SETTLES_WITHIN = 0.02
"""Seconds that the loop waits for what a worker wrote last, so that its files are whole when it is said to be gone."""

FAREWELL = 0.5
LONGEST_FAREWELL = 5.0
"""Seconds that closing waits for one call to return, and for all."""

SILENT = "the disk does not answer"

_Job = tuple[Callable[..., object], tuple[object, ...]]


class Disk:
    """The thread that works for one file system; it does what it is given in that order. Has to be closed.

    Belongs to one event loop; only ``tell`` is for the thread.
    """

    def __init__(self) -> None:
        self.given = 0
        self.taken = 0
        """Bytes that files have handed over (counted by the loop), and that are done with (by the thread)."""
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._gathered: list[_Job] = []
        self._gathering: asyncio.TimerHandle | None = None
        self._said: deque[_Job] = deque()
        self._began_at = 0.0  # the call in progress; 0: none
        self._in_vain = 0.0  # when the one began that we have waited for already
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def do(self, job: Callable[..., object], *args: object) -> None:
        """Have the thread call that, after all that it was given before. What it raises is raised into the loop."""
        self._gathered.append((job, args))
        self._hand_over()

    def write(self, size: int, job: Callable[..., object], *args: object) -> None:
        """As ``do``, of so many bytes to be written: perhaps a little later."""
        self.given += size
        self._gathered.append((job, args))
        if size >= SMALL or self._loop is None:
            self._hand_over()
        elif self._gathering is None:
            self._gathering = self._loop.call_later(GATHER_FOR, self._hand_over)

    @property
    def stuck(self) -> bool:
        """Whether a call has not returned for ``STUCK_AFTER`` seconds."""
        began_at = self._began_at
        return began_at > 0 and clock.now() - began_at > STUCK_AFTER

    @property
    def behind(self) -> int:
        """Bytes that wait."""
        return self.given - self.taken

    def settle(self, timeout: float) -> bool:
        """Whether all that was given is done, waiting for it at most so long, and once only for a call that hangs."""
        if self._thread is None:
            return True
        if self._began_at and self._began_at == self._in_vain:
            return False
        done = threading.Lock()
        done.acquire()
        self.do(done.release)
        if done.acquire(timeout=timeout):
            self._hear()
            return True
        self._in_vain = self._began_at
        return False

    def tell(self, what: Callable[..., object], *args: object) -> None:
        """From the thread: have the loop call that, or ``close`` if the loop turns no more."""
        self._said.append((what, args))
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._hear)

    def close(self) -> bool:
        """Whether all is done. A call that does not return is left alone: the thread ends with it, or with us."""
        if self._thread is None:
            return True
        self._hand_over()
        thread, self._thread = self._thread, None
        self._jobs.put(None)
        until = clock.now() + LONGEST_FAREWELL
        while thread.is_alive() and (now := clock.now()) < until and now - (self._began_at or now) < FAREWELL:
            thread.join(FAREWELL / 10)
        self._hear()
        return not thread.is_alive()

    def _hand_over(self) -> None:
        if self._thread is None:
            with suppress(RuntimeError):  # no loop runs: ``close`` does what is told
                self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name="rankd disk", daemon=True)
            self._thread.start()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        jobs, self._gathered = self._gathered, []
        self._jobs.put(jobs)

    def _hear(self) -> None:
        while self._said:
            what, args = self._said.popleft()
            what(*args)

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the loop's
        while (jobs := self._jobs.get()) is not None:
            jobs.reverse()
            while jobs:  # none is kept once it is done: each may have a block
                self._call(*jobs.pop())

    def _call(self, job: Callable[..., object], args: tuple[object, ...]) -> None:
        self._began_at = clock.now()
        try:
            job(*args)
        except BaseException as error:  # noqa: BLE001 - raised again where somebody sees it
            self.tell(_raise, error)
        self._began_at = 0.0


class DiskWrites:
    """write(2) of one regular file as if it could not block, and nothing else: a disk for itself. Has to be closed.

    What goes wrong is said when the next bytes come: what came before is tried again, and if that fails these
    are not taken.
    """

    def __init__(self, fd: int, *, on_room: Callable[[], object]) -> None:
        """``on_room`` is called by the loop when more can be taken again."""
        self._fd = fd
        self._on_room = on_room
        self._disk = Disk()
        self._left: deque[bytes | memoryview] = deque()
        self._error: OSError | None = None
        self._wanted = False

    def write(self, data: bytes | memoryview) -> int:
        """All of it is on its way. Raises ``BlockingIOError`` when too much is, else what write(2) has met."""
        if self._error is not None:
            self.settle(SETTLES_WITHIN)
            if self._error is not None:
                raise self._error
        if self._disk.behind >= HELD_OF_CONSOLE:
            self._wanted = True
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self._left.append(data)
        self._disk.write(len(data), self._work)
        return len(data)

    def keeps_up(self) -> bool:
        """False while more waits than should, of a disk that will take it in a moment."""
        if self._disk.behind < HELD_OF_CONSOLE:
            return True
        self._wanted = True
        return self._error is not None or self._disk.stuck

    @property
    def behind(self) -> int:
        """Bytes that wait."""
        return self._disk.behind

    @property
    def left(self) -> bytes:
        """What is not written yet."""
        return b"".join(tuple(self._left))

    def settle(self, timeout: float) -> bool:
        """Whether all is written, waiting for it at most so long."""
        if self._error is not None:
            self._error = None
            self._disk.do(self._work)
        return not self._disk.behind or (self._disk.settle(timeout) and not self._disk.behind)

    def close(self) -> None:
        """What the disk does not take in a moment is lost. The descriptor stays open."""
        self._disk.close()

    def _work(self) -> None:
        while self._left and self._error is None:
            data = self._left.popleft()
            while self._left and len(data) < SMALL:
                data = b"".join((data, self._left.popleft()))
            written = 0
            try:
                written = os.write(self._fd, data)
            except OSError as error:
                self._error = error
            self._disk.taken += written
            if written < len(data):
                self._left.appendleft(memoryview(data)[written:])
            if self._wanted and self._disk.behind < HELD_OF_CONSOLE // 2:
                self._wanted = False
                self._disk.tell(self._on_room)


def _raise(error: BaseException) -> None:
    raise error
