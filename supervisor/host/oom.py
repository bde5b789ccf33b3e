"""What the kernel says about a worker that somebody killed: its log, its counter of kills for want of memory, and where
cores go. Asked only after a SIGKILL that was not ours, or a dumped core.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import NamedTuple

KERNEL_LOG = "/dev/kmsg"
_COUNTERS = "/proc/vmstat"
_CORE_PATTERN = "/proc/sys/kernel/core_pattern"
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, the one whose numbers the kernel logs
_RECORD = re.compile(rb"(\d+),\d+,(\d+),[^;]*;.*\bKilled process (\d+) ")
_MOST_RECORDS = 20_000
_REMEMBERED = 1024
_CLOCKS_DIFFER = 1.0  # seconds between the log's clock and ours


class Since(NamedTuple):
    """An instant, and the host's counter of out-of-memory kills as it was then; -1 if it need not be known."""

    at: float
    kills: int


class Witness:
    """Reads the kernel's log from now on, if it may, and else the host's counter. Has to be closed."""

    def __init__(self, log: str = KERNEL_LOG, counters: str = _COUNTERS) -> None:
        self._counters = counters
        self._log = -1
        self._killed: dict[int, float] = {}
        with suppress(OSError):  # dmesg_restrict, a container: the counter, then
            if os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE:
                self._log = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._log, 0, os.SEEK_END)

    def now(self) -> Since:
        """What ``heard_of`` needs of a worker that is about to be started."""
        return Since(time.monotonic(), -1 if self._log >= 0 else self._kills())

    def heard_of(self, pid: int, since: Since) -> tuple[bool, str]:
        """Whether it is proved that the kernel has killed this process for memory, and more words or none."""
        if self._log >= 0:
            self._read_log()
            killed_at = self._killed.pop(pid, None)
            if killed_at is not None and killed_at >= since.at - _CLOCKS_DIFFER:
                return True, "says the kernel log"
        elif self._kills() > since.kills:
            return False, "from outside; the host's count of out-of-memory kills moved meanwhile"
        return False, ""

    def close(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def _read_log(self) -> None:
        """One record a read(2); it begins with the facility, which is 0 for the kernel's own (Linux: ABI/dev-kmsg)."""
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(self._log, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # records that we have not read were overwritten: on with the oldest there is
                continue
            if not record:
                break
            found = _RECORD.match(record)
            if found and int(found[1]) < 8:
                self._killed[int(found[3])] = int(found[2]) / 1e6
        while len(self._killed) > _REMEMBERED:
            del self._killed[next(iter(self._killed))]

    def _kills(self) -> int:
        with suppress(OSError), open(self._counters, "rb", buffering=0) as file:
            found = re.search(rb"^oom_kill (\d+)$", file.readall(), re.MULTILINE)
            return int(found[1]) if found else 0
        return 0


def core_pattern() -> str:
    """Where this host's cores go, in words (core(5)); empty if that cannot be read."""
    with suppress(OSError), open(_CORE_PATTERN, encoding="utf-8", errors="replace") as file:
        pattern = file.read().strip()
        if pattern.startswith("|"):
            return f"given to {pattern[1:].split()[0]}"
        return pattern if pattern.startswith("/") else f"as '{pattern}' in its working directory"
    return ""
