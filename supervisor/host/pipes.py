"""All the workers' pipes are one thing to the loop: an epoll of ours, read fairly and in bounded pieces.

The loop calls once a turn whatever the number of pipes, and the kernel serves them in rotation: epoll_wait(2) puts a
level-triggered descriptor that it reported at the end of its list.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from supervisor.host.sinks import Sink

BLOCK = LARGE = 1 << 18
"""Bytes of one read: what a pipe holds that we have enlarged. A new one holds a quarter of that (pipe(7))."""

PIPES_A_TURN = 16
BYTES_A_TURN = 1 << 19
"""Pipes read in one turn of the loop, a block each, however many are ready; fewer, if they are likely to bring more
bytes than that: what has left the processor's cache by the time it is written costs twice as much.
"""

SHORT = 1 << 15
QUICK = 0.0002
STREAK = 4
GATHER_FOR = 0.001
"""After ``STREAK`` turns within ``QUICK`` seconds of each other that brought less than ``SHORT`` bytes each, we wait.

A worker that writes line by line as fast as it can would otherwise be read line by line, at three times the cost. At a
thousand lines a second from a thousand workers a timer costs more than it saves: there each line is read as it comes.
"""

REST_FOR = 0.01
LONGEST_REST = 0.25
"""Seconds until a pipe whose gate was shut is looked at again: at first, and at most, if nothing changes."""

LARGE_PIPES = 64
"""A pipe found with ``SHORT`` bytes or more is enlarged, so that its worker need not wait for each of our reads, and
each brings more: so many at a time, a quarter of what the pipes of an unprivileged user may hold
(pipe-user-pages-soft, pipe(7)). A pipe is rarely full to the brim: small writes are not split over pages.
"""


class Pipe:
    """The reading end of one worker's stream and the sinks that its bytes go to; ``fd`` is -1 once it is closed.

    ``gate``, where there is one, says whether the sinks take anything: if not, the pipe is not read, and its writer
    will have to wait.
    """

    __slots__ = ("fd", "gate", "large", "name", "sinks")

    def __init__(self, fd: int, name: tuple[str, str], *sinks: Sink) -> None:
        self.fd = fd
        self.name = name
        self.sinks = sinks
        self.large = False
        self.gate: Callable[[], bool] | None = None


class Pipes:
    """Reads every pipe that flows; ``counts`` has the bytes read so far by the pipes' names."""

    def __init__(self, counts: dict[tuple[str, str], int], settle: Callable[[], object]) -> None:
        """``settle`` is called after a turn that has brought much."""
        self._settle = settle
        self._counts = counts
        self._pipes: dict[int, Pipe] = {}
        self._ready = select.epoll()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gathering: asyncio.TimerHandle | None = None
        self._turned_at = 0.0
        self._streak = 0
        self._at_once = PIPES_A_TURN
        self._large = 0
        self._resting: set[Pipe] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._rest_for = REST_FOR
        # glibc returns free memory at the top of the heap to the kernel and faults it in anew for the next block, which
        # doubles the cost of a tee. Freeing a mapping of this size raises that threshold to twice as much (mallopt(3)).
        bytes(16 * BLOCK)

    def add(self, pipe: Pipe) -> None:
        """The pipe is ours to end, and rests. Needs a running loop; raises ``OSError`` (epoll_ctl(2))."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._listen()
        self._ready.register(pipe.fd, 0)  # here, where a failure can still be answered by not starting the worker
        self._pipes[pipe.fd] = pipe

    def flow(self, pipe: Pipe) -> None:
        """Whatever comes through the pipe is read from here on, until its end."""
        if pipe.fd >= 0:
            self._ready.modify(pipe.fd, select.EPOLLIN)

    def drain(self, pipe: Pipe) -> None:
        """What is in the pipe at this moment is read, and no more: somebody may fill it as fast as we read."""
        if pipe.fd < 0:
            return
        left = int.from_bytes(fcntl.ioctl(pipe.fd, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0 and (taken := self._take(pipe)):
            left -= taken

    def end(self, pipe: Pipe) -> None:
        """The pipe is closed and its sinks finished. Idempotent."""
        if pipe.fd < 0:
            return
        if self._pipes.pop(pipe.fd, None) is not None:
            # Before the close: a process between fork and exec still holds the pipe, and with it the registration.
            self._ready.unregister(pipe.fd)
        self._resting.discard(pipe)
        os.close(pipe.fd)
        pipe.fd = -1
        self._large -= pipe.large
        for sink in pipe.sinks:
            sink.finish()

    def wake(self) -> None:
        """Pipes whose gates were shut are looked at again: something has changed."""
        if self._waking is not None:
            self._waking.cancel()
            self._wake()

    def close(self) -> None:
        """Every pipe is drained and ended, and the loop knows nothing of us. Idempotent."""
        for pipe in list(self._pipes.values()):
            self.drain(pipe)
            self.end(pipe)
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        if not self._ready.closed:
            self._ignore()
            self._ready.close()

    def _turn(self) -> None:
        assert self._loop is not None
        ready = self._ready.poll(0, self._at_once)
        taken = 0
        for fd, _ in ready:
            pipe = self._pipes.get(fd)  # None: what an earlier one led to has closed it
            if pipe is not None:
                taken += self._take(pipe)
        if taken >= SHORT:
            self._at_once = min(PIPES_A_TURN, max(1, BYTES_A_TURN * len(ready) // taken))
            self._settle()
        else:
            self._at_once = PIPES_A_TURN
        now = self._loop.time()
        if now - self._turned_at > QUICK:
            self._streak = 0
        elif taken < SHORT and len(ready) < PIPES_A_TURN:
            self._streak += 1
            if self._streak >= STREAK:
                self._ignore()
                self._gathering = self._loop.call_later(GATHER_FOR, self._gathered)
        self._turned_at = now

    def _take(self, pipe: Pipe) -> int:
        """The number of bytes moved from the pipe into its sinks, a block at most; 0: nothing is there now."""
        if pipe.gate is not None and not pipe.gate():
            self._rest(pipe)
            return 0
        try:
            block = os.read(pipe.fd, BLOCK)
        except BlockingIOError:
            return 0
        if not block:
            self.end(pipe)
            return 0
        taken = len(block)
        self._counts[pipe.name] += taken
        if taken >= SHORT and not pipe.large and self._large < LARGE_PIPES:
            pipe.large = True
            self._large += 1
            with suppress(OSError):  # the user's limit is reached, or memory is short: it goes on as it is
                fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, LARGE)
        for sink in pipe.sinks:
            sink.write(block)
        return taken

    def _rest(self, pipe: Pipe) -> None:
        if pipe in self._resting:
            return
        assert self._loop is not None
        self._resting.add(pipe)
        self._ready.modify(
            pipe.fd, select.EPOLLET
        )  # epoll_ctl(2): the writer's end is told in any case, so let it be once
        if self._waking is None:
            self._waking = self._loop.call_later(self._rest_for, self._wake)

    def _wake(self) -> None:
        assert self._loop is not None
        self._waking = None
        awake = [pipe for pipe in self._resting if pipe.gate is None or pipe.gate()]
        self._resting.difference_update(awake)
        for pipe in awake:
            self.flow(pipe)
        self._rest_for = REST_FOR if awake else min(2 * self._rest_for, LONGEST_REST)
        if self._resting:
            self._waking = self._loop.call_later(self._rest_for, self._wake)

    def _gathered(self) -> None:
        assert self._loop is not None
        self._gathering = None
        self._turned_at = self._loop.time()
        self._listen()

    def _listen(self) -> None:
        assert self._loop is not None
        self._loop.add_reader(self._ready.fileno(), self._turn)

    def _ignore(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._ready.fileno())
