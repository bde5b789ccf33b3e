"""What a worker tells its supervisor while it works: sd_notify(3) with a few fields of ours, and torch's timers.

Standard library only, no thread, and a forked child may go on using it. Without a supervisor (no ``NOTIFY_SOCKET``, no
``TORCHELASTIC_TIMER_FILE``) everything here does nothing. Nothing here raises for want of a supervisor, and what
returns a bool says by it whether the word has been taken.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal as signals
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

PATIENCE = 0.1
"""Seconds that a word waits for a supervisor that is behind, once; until it takes words again the next do not wait."""

OWED = 64
"""Words at most that are owed; beyond that the oldest are forgotten."""

_TIMEVAL = struct.Struct("@ll")
_uses = count(1)


class _Door:
    """The supervisor's socket, opened at the first word. A child shares it after a fork, and speaks in its own name.

    A word that the supervisor must not miss is owed while it is behind, and goes ahead of the next one.
    """

    def __init__(self) -> None:
        self._address = ""
        self._socket: socket.socket | None = None
        self._flags = 0
        self._owed: deque[bytes] = deque(maxlen=OWED)

    def say(self, words: bytes, *, owe: bool = False) -> bool:
        address = os.environ.get("NOTIFY_SOCKET", "")
        if not address:
            return False
        taken = self._pay(address) and self._send(words, address)
        if owe and not taken:
            self._owed.append(words)
        return taken

    def forget(self) -> None:
        """In a child that was forked: what is owed is its parent's to say."""
        self._owed.clear()

    def _pay(self, address: str) -> bool:
        while self._owed:
            words = self._owed.popleft()
            if not self._send(words, address):
                self._owed.appendleft(words)
                return False
        return True

    def _send(self, words: bytes, address: str) -> bool:
        if self._socket is None or address != self._address:
            self._open(address)
        assert self._socket is not None
        try:
            self._socket.sendto(words, self._flags, "\0" + address[1:] if address[0] == "@" else address)
        except BlockingIOError:
            self._flags = socket.MSG_DONTWAIT
            return False
        except OSError as error:  # the supervisor is gone, or was never there
            if error.errno in {errno.EBADF, errno.ENOTSOCK}:  # somebody has closed all descriptors: it is not ours now
                self._socket.detach()
                self._socket = None
            return False
        self._flags = 0
        return True

    def _open(self, address: str) -> None:
        if self._socket is not None:
            self._socket.close()
        self._address = address
        self._flags = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, int(PATIENCE * 1_000_000)))


_door = _Door()
_say = _door.say
os.register_at_fork(after_in_child=_door.forget)


def ready(status: str = "") -> bool:
    """This worker can do its work."""
    return _say(b"READY=1\nSTATUS=" + _one_line(status) if status else b"READY=1", owe=True)


def heartbeat() -> bool:
    """This worker is alive. To be called at least twice within ``WATCHDOG_USEC``, where its own progress is made."""
    return _say(b"WATCHDOG=1")


def status(text: str) -> bool:
    """One line on what this worker is doing."""
    return _say(b"STATUS=" + _one_line(text))


def stopping() -> bool:
    """This worker is on its way down, and gives no heartbeat any more."""
    return _say(b"STOPPING=1", owe=True)


def progress(step: int) -> bool:
    """So far this worker has come: a number from 0 on, such as the step of a training."""
    return _say(b"X_PROGRESS=%d" % step)


@contextmanager
def section(name: str) -> Iterator[None]:
    """The block is the section ``name``, for which the configuration may have a limit. Sections may be nested."""
    label, pid = _one_line(name, 200), os.getpid()
    _say(b"X_SECTION_BEGIN=" + label, owe=True)
    try:
        yield
    finally:
        if os.getpid() == pid:  # a child that was forked in it leaves its parent's section open
            _say(b"X_SECTION_END=" + label, owe=True)


@contextmanager
def expires(after: float, scope: str = "", *, signal: int = signals.SIGKILL) -> Iterator[None]:
    """The block is over ``after`` seconds from now, or this process is sent ``signal`` and its group restarts.

    The same as torch.distributed.elastic.timer.expires(), without torch and without ``configure()``. Without a
    ``scope`` it is named for its place in the code and by a number: nested, recursive and concurrent uses do not end
    each other.
    """
    if not scope:
        caller = sys._getframe(2)  # noqa: SLF001 - over contextlib's ``__enter__``, which torch takes for the caller
        scope = f"{caller.f_code.co_filename}#{caller.f_lineno}.{next(_uses)}"
    pid = os.getpid()
    _request(pid, scope, time.time() + after, signal)
    try:
        yield
    finally:
        if pid == os.getpid():  # a child forked within the block has set no timer
            _request(pid, scope, -1, 0)


def _request(pid: int, scope: str, expiration_time: float, signal: int) -> bool:
    path = os.environ.get("TORCHELASTIC_TIMER_FILE", "")
    if not path:
        return False
    request = {
        "version": 1, "pid": pid, "scope_id": scope, "expiration_time": expiration_time, "signal": int(signal)
    }  # fmt: skip
    line = json.dumps(request).encode() + b"\n"
    if len(line) > select.PIPE_BUF:
        return False
    with suppress(OSError):
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.write(pipe, line) == len(line)
        finally:
            os.close(pipe)
    return False


def _one_line(text: str, most: int = 1000) -> bytes:
    return "".join([one if one.isprintable() else " " for one in text[:most]]).encode()
