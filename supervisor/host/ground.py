"""The control group that was delegated to us, divided: a leaf for the daemon, and one for each worker."""

from __future__ import annotations

import fcntl
import os
import select
import time
from contextlib import suppress

from supervisor.host import cgroup
from supervisor.host.cgroup import Delegated
from supervisor.host.proc import Ended, Process

DAEMON = "rankd.daemon"
WORKER = "rankd.worker."
WITHIN = 10.0
"""Seconds that what an earlier daemon left in a group has to be gone after SIGKILL."""

_UNLOCKED = 2.0  # seconds in which the lock of a daemon that has died is free
_LOOK_EVERY = 0.01


class Ground:
    """The group that was delegated to us, divided: we live in ``DAEMON``, each worker in a leaf of its own."""

    def __init__(self, found: Delegated, wanted: frozenset[str]) -> None:
        """Move into the daemon's leaf and turn on those of ``wanted`` that there are.

        Ends first what an earlier daemon has left there. Raises ``OSError``, and has changed nothing then.
        """
        self.path = found.path
        self._place = (cgroup.place_of("/proc/self/cgroup") or "").rstrip("/")
        self._daemon = f"{found.path}/{DAEMON}"
        held = _hold(self._daemon)
        try:
            self.earlier = _end_all([self._daemon, *self._leaves()])
        finally:
            os.close(held)
        self._lock = _hold(self._daemon)
        try:
            cgroup.write(f"{self._daemon}/cgroup.procs", "0")
        except OSError:
            os.close(self._lock)
            raise
        self.controllers = frozenset(name for name in wanted & found.controllers if self._turn(name, on=True))

    def leaf(self, name: str) -> str:
        """A new, empty group for a worker. Raises ``OSError``."""
        path = f"{self.path}/{WORKER}{name}"
        try:
            os.mkdir(path)
        except FileExistsError:
            if not cgroup.remove(path):
                raise
            os.mkdir(path)
        return path

    def leaf_of(self, pid: int) -> str:
        """The leaf that the process is in, or below; empty if it is in none."""
        with suppress(OSError):
            place = cgroup.place_of(f"/proc/{pid}/cgroup") or ""
            if place.startswith(f"{self._place}/{WORKER}"):
                return f"{self.path}/{place[len(self._place) + 1 :].partition('/')[0]}"
        return ""

    def close(self) -> None:
        """Everything is as it was found, but for leaves in which somebody still lives."""
        for leaf in self._leaves():
            cgroup.remove(leaf)
        for name in self.controllers:
            self._turn(name, on=False)
        with suppress(OSError):  # EBUSY: a leaf that is left still has a controller, so we stay where we are
            cgroup.write(f"{self.path}/cgroup.procs", "0")
            cgroup.remove(self._daemon)
        os.close(self._lock)

    def _leaves(self) -> list[str]:
        return leaves(self.path)

    def _turn(self, controller: str, *, on: bool) -> bool:
        try:
            cgroup.write(f"{self.path}/cgroup.subtree_control", f"{'+' if on else '-'}{controller}")
        except OSError:
            return False
        return True


def leaves(ground: str) -> list[str]:
    return [entry.path for entry in os.scandir(ground) if entry.name.startswith(WORKER)]


def end_leaves(ground: str) -> Ended:
    """Kill what a dead daemon's workers have left in its group; nothing, if another daemon lives there by now."""
    give_up_at = time.monotonic() + _UNLOCKED
    while True:
        try:
            held = _hold(f"{ground}/{DAEMON}")
            break
        except BlockingIOError:  # the next daemon, or what the dead one was just forking: it has the lock until exec(2)
            if time.monotonic() >= give_up_at:
                return Ended()
            time.sleep(_LOOK_EVERY)
        except OSError:
            return Ended()
    try:
        return _end_all(leaves(ground))
    finally:
        os.close(held)


def _hold(group: str) -> int:
    """Be the one daemon that lives there; it is made if need be. Raises ``BlockingIOError`` if another one does."""
    with suppress(FileExistsError):
        os.mkdir(group)
    lock = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _end_all(groups: list[str]) -> Ended:
    """Kill what lives in these, and remove them.

    None that we will fork in may ever have been killed: Linux 6.18 compares a child's new group with its parent's, and
    if only one of the two was, takes the child for one that has to die, too (CLONE_INTO_CGROUP, cgroup.kill).
    """
    killed: list[Process] = []
    dying: dict[int, str] = {}
    poll = select.poll()
    for group in groups:
        killed += cgroup.processes(group)
        if cgroup.is_populated(group):
            cgroup.kill(group)
        events = cgroup.watch(group)
        if events is not None:
            dying[events] = group
            poll.register(events, select.POLLPRI)
    give_up_at = time.monotonic() + WITHIN
    while dying and (left_for := give_up_at - time.monotonic()) > 0:
        for events, _ in poll.poll(left_for * 1000):
            if b"populated 1" not in os.pread(events, 4096, 0):
                poll.unregister(events)
                os.close(events)
                del dying[events]
    left = [process for group in dying.values() for process in cgroup.processes(group)]
    for events in dying:
        os.close(events)
    for group in groups:
        cgroup.remove(group)
    return Ended(tuple(killed), tuple(left))
