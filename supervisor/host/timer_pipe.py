"""torch's named pipe: where ``torch.distributed.elastic.timer.FileTimerClient`` writes its requests.

A client opens the pipe O_WRONLY|O_NONBLOCK for each request, writes one line of JSON of at most PIPE_BUF bytes, and
raises in the worker's code if there is no reader or no room (torch 2.13, timer/file_based_local_timer.py). So there
is a reader from before the first worker's start, and much room.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from supervisor import clock
from supervisor.core.timers import TimerRequest

ROOM = 1 << 20
"""Bytes asked for: ten thousand requests. Refused above /proc/sys/fs/pipe-max-size, or the user's soft limit."""

LINE = 4096
"""The longest line that a client sends (PIPE_BUF)."""

NOT_NOW = frozenset({errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS})
"""Errors of a read that may be tried again."""

_BLOCK = 1 << 16
_BLOCKS = 32
_SIGNALS = 64
_PIDS = 1 << 22  # of 64-bit Linux (proc_sys_kernel_pid_max(5))
_BEGINNING = b'{"version"'
_AS_WRITTEN = re.compile(
    r'^\{"version": 1, "pid": ([1-9][0-9]{0,5}), "scope_id": "([ !#-\[\]-~]{0,2000})",'
    r' "expiration_time": ((?:-?[1-9][0-9]{0,11}|0)(?:\.[0-9]{1,12})?), "signal": ([0-9]|[1-5][0-9])\}$',
    re.MULTILINE,
)
"""What torch writes, as its ``json.dumps`` spells it: each match is a whole line, and needs no more checks."""


class TimerLines:
    """Bytes in as they come, requests out. ``refused`` counts lines that are none; nothing here raises."""

    def __init__(self) -> None:
        self.taken = 0
        self.refused = 0
        self._half = b""
        self._skipping = False  # a line too long has been counted, and its end has not come yet

    def feed(self, block: bytes, to_monotonic: float) -> list[TimerRequest]:
        """The requests that are complete with this block. ``to_monotonic`` is added to their wall-clock times."""
        whole, newline, half = (self._half + block).rpartition(b"\n")
        requests = [] if self._skipping or not newline else _as_written(whole, to_monotonic)
        for line in whole.split(b"\n") if newline and not requests else ():
            if self._skipping:
                self._skipping = False
                continue
            request = parse(line, to_monotonic)
            if request is None:
                self.refused += 1
            else:
                requests.append(request)
        if len(half) > LINE:
            self.refused += not self._skipping
            self._skipping = True
        self._half = b"" if self._skipping else half
        self.taken += len(requests)
        return requests


def _as_written(lines: bytes, to_monotonic: float) -> list[TimerRequest]:
    """The requests of all the lines; none if any of them is not just as torch writes it.

    One search of a block costs a fifth of reading line by line, and is what a wake-up under load has to do.
    """
    if not lines.isascii():
        return []
    found = _AS_WRITTEN.findall(lines.decode("ascii"))
    if len(found) != lines.count(b"\n") + 1:
        return []
    return [
        TimerRequest(int(pid), scope, None, 0)
        if expires.startswith("-")
        else TimerRequest(int(pid), scope, float(expires) + to_monotonic, int(signal))
        for pid, scope, expires, signal in found
    ]


def parse(line: bytes, to_monotonic: float) -> TimerRequest | None:
    """The request of one line; None if it is none.

    Lines are written whole, so half a line in front of one is somebody else's, and costs nobody a timer.
    """
    if len(line) > LINE:
        return None
    request = _request(line, to_monotonic)
    if request is None and (begins := line.rfind(_BEGINNING)) > 0:
        return _request(line[begins:], to_monotonic)
    return request


def _request(line: bytes, to_monotonic: float) -> TimerRequest | None:
    try:
        found = json.loads(line.decode())  # of bytes it would guess the encoding, which takes as long again
        if type(found) is not dict or found["version"] != 1:
            return None
        return _checked(found["pid"], found["scope_id"], found["expiration_time"], found["signal"], to_monotonic)
    except (ValueError, KeyError, OverflowError, RecursionError):  # the last: nested a thousand deep
        return None


def _checked(pid: Any, scope: Any, expires: Any, signal: Any, to_monotonic: float) -> TimerRequest | None:
    """``expires`` is in seconds since the epoch, negative for a release. JSON's true is an int in Python."""
    if type(pid) is not int or not 0 < pid <= _PIDS or type(scope) is not str:
        return None
    if type(signal) is not int or signal > _SIGNALS or type(expires) not in (int, float):
        return None
    if not scope.isascii():
        scope = scope.encode(errors="replace").decode()  # half a surrogate pair is in no record's alphabet
    if expires < 0:
        return TimerRequest(pid, scope, None, 0)
    at = expires + to_monotonic
    return TimerRequest(pid, scope, at, max(0, signal)) if math.isfinite(at) else None


class TimerPipe:
    """One group's pipe, from before its first worker to after its last. ``lines`` has the counts."""

    def __init__(
        self, path: str, deliver: Callable[[list[TimerRequest]], None], *, user: tuple[int, int] | None = None
    ) -> None:
        """``deliver`` is given what one wake-up has brought, never nothing. ``user``: the uid and gid of workers who
        are not ours. What is at ``path`` is replaced. Raises ``OSError`` and leaves nothing open then."""
        self.path = path
        self.lines = TimerLines()
        self._deliver = deliver
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.mkfifo(path, 0o600)
        # For writing too: with a writer there is no end of file to be woken for when the last client has closed.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            if user is not None:
                os.fchown(self._fd, *user)
        except OSError:
            self.close()
            raise
        with suppress(OSError):  # it is a pipe with less room, then
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, ROOM)

    def listen(self) -> None:
        """Read in the running loop whenever something is there, and never otherwise."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self.drain)

    def drain(self) -> None:
        """Read and deliver what is there now, and no more than a full pipe twice over: others must have their turn."""
        if self._fd < 0:
            return
        requests: list[TimerRequest] = []
        to_monotonic = clock.now() - time.time()  # once, at the door: no later step of the wall clock moves a deadline
        for block in self._blocks():
            requests += self.lines.feed(block, to_monotonic)
        if requests:
            self._deliver(requests)

    def close(self) -> None:
        """Read no more, and remove the pipe. Idempotent."""
        if self._fd < 0:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        with suppress(OSError):
            os.unlink(self.path)

    def _blocks(self) -> Iterator[bytes]:
        """All that is there. A short block was the last one: that is one system call instead of two."""
        for _ in range(_BLOCKS):
            try:
                block = os.read(self._fd, _BLOCK)
            except OSError as error:  # nothing is there, or no memory for it now: we are woken again
                if error.errno not in NOT_NOW:
                    raise
                return
            yield block
            if len(block) < _BLOCK:
                return
