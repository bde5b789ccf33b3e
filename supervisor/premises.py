"""The directories that a daemon works in: there, its own, and rid of what an earlier daemon has left."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from supervisor import clock
from supervisor.core import events
from supervisor.core.events import Event
from supervisor.errors import CONFIG, UNAVAILABLE, RankdError
from supervisor.host import leftovers
from supervisor.host.logfile import open_log
from supervisor.host.proc import Ended
from supervisor.host.state import Held, hold
from supervisor.plan import DaemonPlan, attempts_dir


class Unusable(RankdError):
    """A directory that the daemon needs cannot be had."""

    exit_code = CONFIG


class InUse(RankdError):
    """Another daemon works in our state directory."""

    exit_code = UNAVAILABLE


def make_directories(plan: DaemonPlan) -> None:
    """The state and the runtime directory are there, and nobody else may write to the second. Raises ``Unusable``."""
    for path, mode in ((plan.state_dir, 0o755), (plan.runtime_dir, 0o700)):
        try:
            Path(path).mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise Unusable(f"{path}: cannot make this directory: {error.strerror}") from error
    found = os.stat(plan.runtime_dir)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        # what is put there by others is what our clients and workers would talk to
        raise Unusable(
            f"{plan.runtime_dir}: this runtime directory must be ours and nobody else may write to it "
            f"(uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}; expected uid {os.geteuid()}, mode 0700)"
        )


def succeed(plan: DaemonPlan, stack: ExitStack) -> tuple[list[Event], bool]:
    """Be the one daemon of our state directory while ``stack`` is open, and end what the last one has left, if it
    could not.

    Returns what there is to tell, and whether ``state.json`` is ours to write. It is not in a directory that nobody
    has named while another daemon is there: a user's second one has its logs there as well, and a guardian, but
    no state. Raises ``InUse`` where one was named.
    """
    directory = plan.state_dir
    try:
        lock = hold(directory)
    except OSError as error:  # a full or read-only disk: no reason not to supervise
        why = f"{directory} cannot be locked: {error.strerror}"
        return [events.daemon_state_unwritten(clock.now(), why, over=False)], True
    if isinstance(lock, Held):
        if plan.state_dir_is_common:
            why = f"{directory} is in use by another rankd ({lock.by}), and the configuration names no state_dir"
            return [events.daemon_state_unwritten(clock.now(), why, over=False)], False
        raise InUse(
            f"state directory {directory}: in use by another rankd ({lock.by}); give each its own [daemon] state_dir"
        )
    stack.callback(os.close, lock)
    earlier = leftovers.end_earlier(directory)
    told = []
    if earlier.refused:
        told.append(events.daemon_state_refused(clock.now(), earlier.refused, earlier.aside))
    return told + told_of(earlier.pid, earlier.ended), True


def told_of(pid: int, ended: Ended) -> list[Event]:
    """What there is to tell of the processes of an earlier daemon; ``pid`` is its own, or 0 if nobody knows."""
    if not ended.killed:
        return []
    left = ", ".join(map(str, ended.left))
    return [events.leftovers_killed(clock.now(), pid, tuple(map(str, ended.killed)), left)]


def last_attempt(plan: DaemonPlan, group: str) -> int:
    """The highest attempt of that group that has logs already (a run id used again); -1 for none."""
    directory = attempts_dir(plan, plan.groups[group])
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise Unusable(f"{directory}: cannot see which attempts have logs: {error.strerror}") from error
    numbers = [int(name[8:]) for name in names if name.startswith("attempt_") and name[8:].isdigit()]
    return max(numbers, default=-1)


def appended(path: str, lost: Callable[[bytes], None]) -> Callable[[bytes], object]:
    """What takes lines to the end of that file. ``lost`` is told of those that a disk does not take.

    Raises ``Unusable``.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        file = open_log(path)
    except OSError as error:
        raise Unusable(f"{path}: cannot be written: {error.strerror}") from error

    def append(lines: bytes) -> None:
        try:
            os.write(file, lines)
        except OSError:
            lost(lines)

    return append
