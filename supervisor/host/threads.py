"""The threads of a process as /proc shows them: what state each is in, and where in the kernel it waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from supervisor.host.proc import Process, read_process, wait_channel

FAMILY = 256
"""Processes of a worker that are looked at."""

THREADS = 1024
"""Threads of a process that are looked at."""

_FRAMES = 16
_LARGEST = 1 << 14


class Thread(NamedTuple):
    """One thread. ``pid`` is its process, ``seen`` what proc_pid_stat(5) says of it."""

    pid: int
    seen: Process

    @property
    def tid(self) -> int:
        return self.seen.pid

    @property
    def state(self) -> str:
        return self.seen.state


def family(pid: int) -> Iterator[Thread]:
    """The threads of the process, its main one first, then those of its descendants, as far as these have not lost a
    parent between. Not proved to be anybody's. Nothing is read ahead: whoever asks may take his time.
    """
    found = [pid]
    for one in found:
        for tid in _tids(one):
            if len(found) < FAMILY:
                found += map(int, read(f"/proc/{one}/task/{tid}/children").split())
                del found[FAMILY:]
            seen = None
            with suppress(OSError):  # short of descriptors: it is as if it were not there
                seen = read_process(tid)
            if seen is not None:
                yield Thread(one, seen)


def switches(thread: Thread) -> str:
    """How often it has run so far: who sleeps on has always the same count. Empty when that is not for us to see."""
    lines = read(f"/proc/{thread.pid}/task/{thread.tid}/status").splitlines()
    return " ".join(line for line in lines if "ctxt_switches" in line)


def kernel_stack(pid: int, tid: int) -> str:
    """The innermost frames, ``a < b < c``. Only root may read them (proc_pid_stack(5)): empty for others."""
    lines = read(f"/proc/{pid}/task/{tid}/stack").splitlines()
    return " < ".join(line.partition(" ")[2].partition("+")[0] for line in lines[:_FRAMES])


def where(thread: Thread) -> str:
    """In words: ``4712 python3 (thread of 4711), D in nfs_wait_bit: a < b < c``."""
    of = f" (thread of {thread.pid})" if thread.tid != thread.pid else ""
    channel, stack = wait_channel(thread.tid), kernel_stack(thread.pid, thread.tid)
    return f"{thread.seen}{of}, {thread.state}{f' in {channel}' if channel else ''}{f': {stack}' if stack else ''}"


def read(path: str) -> str:
    """The beginning of a file of /proc; empty if there is none, or none for us."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _LARGEST).decode(errors="replace")
        finally:
            os.close(file)
    return ""


def _tids(pid: int) -> list[int]:
    with suppress(OSError):
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))[:THREADS]
    return []
