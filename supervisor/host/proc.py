"""Processes as /proc shows them, and how to signal exactly the one that was seen.

Numbers are reused: a process is its number and its start time together, and what is sent goes through a pidfd that was
compared with both.
"""

from __future__ import annotations

import os
import signal as signals
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

NOT_CONTINUED = frozenset(
    {signals.SIGKILL, signals.SIGCONT, signals.SIGSTOP, signals.SIGTSTP, signals.SIGTTIN, signals.SIGTTOU}
)
"""Signals that need no SIGCONT behind them to be acted on by a stopped process, or would be undone by it."""

OUT_OF_REACH: tuple[type[OSError], ...] = (ProcessLookupError, PermissionError)
"""It has ended, or has become another user's: a stop that does not come true is noticed, and said, by its deadline."""


_EXEC = 0.05  # seconds at most that exec(2) is waited for
_FLAGS, _START_CODE, _ENV_START, _ENV_END = 9 - 3, 26 - 3, 50 - 3, 51 - 3  # proc_pid_stat(5), from behind the name
_KERNEL_THREAD = 0x0020_0000  # PF_KTHREAD of include/linux/sched.h
_NOT_FOR_US = b"1"  # as the start of the code, where we may not see it


class Process(NamedTuple):
    """A process as proc_pid_stat(5) shows it. ``started`` is in clock ticks since boot; with ``pid`` it is unique."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    session: int
    started: int
    threads: int = 1

    @property
    def identity(self) -> tuple[int, int]:
        """No other process has or will have this, until the next boot."""
        return self.pid, self.started

    @property
    def dead(self) -> bool:
        """Of a process whose main thread has ended, and others have not, the kernel says Z as well."""
        return self.state in "ZX" and self.threads <= 1

    def __str__(self) -> str:
        return f"{self.pid} {self.name}"


class Ended(NamedTuple):
    """What was found and sent SIGKILL, and what of it was still there when we gave up."""

    killed: tuple[Process, ...] = ()
    left: tuple[Process, ...] = ()


def read_process(pid: int) -> Process | None:
    """The process of that number, also a dead one that nobody has waited for; None if there is none that we may see."""
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(file, 4096)
        finally:
            os.close(file)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last: another user's, under hidepid=1
        return None
    head, _, tail = data.rpartition(b") ")  # a name may contain anything, brackets and spaces too
    fields = tail.split(None, 20)
    name = head.partition(b"(")[2].decode("utf-8", "backslashreplace")
    parent, group, session, count, started = (int(fields[index]) for index in (1, 2, 3, 17, 19))
    return Process(pid, name, fields[0].decode(), parent, group, session, started, count)


def open_proved(process: Process) -> int | None:
    """A pidfd of exactly this process; None if it has ended, whoever has its number now. The caller closes it.

    The number is opened first and compared then: what a pidfd refers to does not change any more.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    try:
        now = read_process(process.pid)
    except BaseException:
        os.close(pidfd)
        raise
    if now is not None and now.started == process.started and not now.dead:
        return pidfd
    os.close(pidfd)
    return None


def processes(besides: Collection[int]) -> Iterator[Process]:
    """Every process of this host, read one by one, but those with the numbers ``besides``."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (pid := int(entry)) not in besides:
            process = read_process(pid)
            if process is not None:
                yield process


def send(process: Process, signal: int) -> None:
    """Signal exactly this process, and nobody who has its number now. Raises ``OSError`` when short of descriptors."""
    pidfd = open_proved(process)
    if pidfd is None:
        return
    try:
        with suppress(*OUT_OF_REACH):
            signals.pidfd_send_signal(pidfd, signal)
            if signal not in NOT_CONTINUED:
                signals.pidfd_send_signal(pidfd, signals.SIGCONT)
    finally:
        os.close(pidfd)


def wait_channel(pid: int) -> str:
    """Where in the kernel the process sleeps; empty when it does not, or when that is not for us to see."""
    with suppress(OSError), open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        return file.read().strip("0")
    return ""


def inherited(pid: int, name: str) -> str:
    """The variable as it was at exec(2); empty if there was none, if it is written over, or if we may not read it."""
    environment = b""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        give_up_at = 0.0
        while True:
            with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
                environment = file.readall()
            if environment or _has_none(_stat(pid)):
                break
            now = time.monotonic()
            give_up_at = give_up_at or now + _EXEC
            if now >= give_up_at:
                break
            time.sleep(_EXEC / 64)
    _, _, rest = (b"\0" + environment).partition(f"\0{name}=".encode())
    return rest.partition(b"\0")[0].decode("ascii", "replace")


def _stat(pid: int) -> bytes:
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return file.read(4096)


def _has_none(stat: bytes) -> bool:
    """Whether the process has no environment, for good or for us: not just for now, in the midst of exec(2)."""
    fields = stat.rpartition(b")")[2].split()
    if fields[0] in b"ZX" or int(fields[_FLAGS]) & _KERNEL_THREAD or fields[_START_CODE] == _NOT_FOR_US:
        return True
    # While exec(2) copies it in, the end is still at the start; where the code starts is known after that.
    return fields[_START_CODE] != b"0" and fields[_ENV_START] == fields[_ENV_END]
