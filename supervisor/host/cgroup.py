"""Control groups, version 2: whether we were given one to divide, and what can be done with one.

A group is delegated when whoever made it lets its inhabitants make groups below it (cgroups(7), "Delegation";
systemd's CGROUP_DELEGATION: ``Delegate=yes``). A group that others live in as well is nobody's to divide: the
controllers of groups below can be had only where no process lives above them.
"""

from __future__ import annotations

import errno
import os
import re
import signal as signals
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from supervisor.host.proc import NOT_CONTINUED, OUT_OF_REACH, Process, read_process
from supervisor.plan import Resources

CONTROLLERS = {"memory_max": "memory", "memory_high": "memory", "cpu_max": "cpu", "pids_max": "pids"}
"""Keys of the table ``resources`` and the controller that each needs."""

_ROUNDS = 64
_HELD = 256  # pidfds at a time
_GONE = (errno.ENOENT, errno.ENODEV)  # the group has been removed, before or after its file was opened
_FORBIDDEN = (errno.EACCES, errno.EPERM)  # so has a worker of our own user made its group: others have to tell of it
_UNTOLD = (*_GONE, *_FORBIDDEN)


class Delegated(NamedTuple):
    """The group that we are in, which is ours to divide, and the controllers that groups below it may have."""

    path: str
    controllers: frozenset[str]


class NotDelegated(NamedTuple):
    """Why there is no group of ours to divide, in words that go on after "because"."""

    reason: str


def available(
    membership: str = "/proc/self/cgroup", mounts: str = "/proc/self/mountinfo", systemd: str = "/run/systemd/system"
) -> Delegated | NotDelegated:
    """Whether this process has a control group of version 2 to divide. Tries it by making a group; leaves nothing.

    To be asked before we have divided it: by then we are no longer in it.
    """
    try:
        path = _own_group(membership, mounts)
        if path is None:
            return NotDelegated("no control group of version 2 is mounted for us")
        return _examine(path, systemd)
    except OSError as error:
        return NotDelegated(f"{error.filename or 'a control group'}: {error.strerror}")


def describe(found: Delegated | NotDelegated) -> str:
    """One line for people: what workers are contained in, or why not in control groups."""
    if isinstance(found, NotDelegated):
        return f"session and subreaper (no control groups: {found.reason})"
    return f"cgroup v2 below {found.path} (controllers: {' '.join(sorted(found.controllers)) or 'none'})"


def _own_group(membership: str, mounts: str) -> str | None:
    own = place_of(membership)
    return None if own is None else folder(own, mounts)


def folder(place: str, mounts: str = "/proc/self/mountinfo") -> str | None:
    """Where the group at that place in the hierarchy is mounted (proc_pid_mountinfo(5)); None if it is not."""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            root, mounted_at = map(_unescaped, before.split()[3:5])
            if after.startswith("cgroup2 ") and (place + "/").startswith(root.rstrip("/") + "/"):
                return os.path.normpath(f"{mounted_at}/{place[len(root.rstrip('/')) :]}")
    return None


def _unescaped(field: str) -> str:
    """Blanks and backslashes are told as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def place_of(membership: str) -> str | None:
    """Where in the hierarchy, as seen from our cgroup namespace; None without version 2 (cgroups(7), /proc/PID/cgroup).

    A group that is being removed has " (deleted)" behind it.
    """
    with open(membership, encoding="utf-8", errors="surrogateescape") as file:
        return next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)


def _examine(path: str, systemd: str) -> Delegated | NotDelegated:
    if not os.path.exists(f"{path}/cgroup.events"):
        return NotDelegated(f"{path} is the root group, which is everybody's")
    for name in (".", "cgroup.procs", "cgroup.subtree_control"):
        if not os.access(f"{path}/{name}", os.W_OK):
            return NotDelegated(f"{path} is not delegated to us (systemd: Delegate=yes)")
    # Root may write everywhere: what systemd has not given away it may rearrange at any time.
    if os.geteuid() == 0 and os.path.isdir(systemd) and not _is_marked(path):
        return NotDelegated(f"{path} is systemd's own (Delegate=yes would make it ours)")
    if set(_numbers(f"{path}/cgroup.procs")) - {os.getpid()}:
        return NotDelegated(f"others live in {path}, too (systemd: a unit of its own, with Delegate=yes)")
    probe = f"{path}/rankd.probe.{os.getpid()}"
    os.mkdir(probe)
    os.rmdir(probe)
    return Delegated(path, controllers(path))


def _is_marked(path: str) -> bool:
    """Whether systemd has noted on the group that it is delegated."""
    for name in ("trusted.delegate", "user.delegate"):
        with suppress(OSError):
            return os.getxattr(path, name) == b"1"
    return False


# ---- what can be done with a group


def controllers(group: str) -> frozenset[str]:
    """What groups below it may have."""
    return frozenset(_read(f"{group}/cgroup.controllers").split())


def is_populated(group: str) -> bool:
    """Whether a living process is known to be in the group or below it; a removed group has none."""
    try:
        return "populated 1" in _read(f"{group}/cgroup.events")
    except OSError as error:
        if error.errno in _UNTOLD:
            return False
        raise


def watch(group: str) -> int | None:
    """A descriptor that has EPOLLPRI when ``is_populated`` may have changed; None if nobody is in there now."""
    try:
        events = os.open(f"{group}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        if b"populated 1" in os.read(events, 4096):  # what is told of from now on is what changes after this read
            return events
    except OSError as error:
        if error.errno not in _UNTOLD:
            os.close(events)
            raise
    os.close(events)
    return None


def processes(group: str) -> Iterator[Process]:
    """Everything alive in the group and below it that we can see."""
    for pid in _members(group):
        process = read_process(pid) if pid else None  # 0: of a pid namespace that we do not see into
        if process is not None and not process.dead:
            yield process


def freeze(group: str, *, frozen: bool) -> None:
    """Nothing in the group runs, or forks, until it is thawed; SIGKILL is heard all the same."""
    with suppress(FileNotFoundError):  # it is gone, or the kernel is older than 5.2
        write(f"{group}/cgroup.freeze", "1" if frozen else "0")


def kill(group: str) -> None:
    """SIGKILL to all in the group and below it at once: however fast it forks, nothing gets away.

    Before Linux 5.14 one by one, while it is frozen.
    """
    try:
        write(f"{group}/cgroup.kill", "1")
    except FileNotFoundError:
        if os.path.isdir(group):
            for _ in pursue(group, signals.SIGKILL):
                pass


def pursue(group: str, signal: int, spared: int = 0) -> Generator[None, None, None]:
    """Signal all in the group and below it but members of the process group ``spared``, frozen if there is anybody.

    Yields now and then to let others run. Raises ``OSError`` when short of descriptors. A number is opened first and
    looked up then: what a pidfd refers to does not change any more, and whoever is listed has had it all the while.
    """
    sent: set[int] = set()
    if not _others(group, spared, sent):
        return
    freeze(group, frozen=True)
    try:
        for _ in range(_ROUNDS):  # it takes effect in a moment, until when they may still fork
            new = _others(group, spared, sent)[:_HELD]
            if not new:
                return
            _signal(group, new, signal)
            sent.update(new)
            yield
    finally:
        freeze(group, frozen=False)


def _others(group: str, spared: int, sent: Collection[int]) -> list[int]:
    listed = [pid for pid in _members(group) if pid and pid not in sent]
    if not spared:
        return listed
    return [pid for pid in listed if (process := read_process(pid)) is not None and process.group != spared]


def _signal(group: str, pids: Sequence[int], signal: int) -> None:
    opened: dict[int, int] = {}
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                opened[pid] = os.pidfd_open(pid)
        for pid in opened.keys() & set(_members(group)):
            with suppress(*OUT_OF_REACH):
                signals.pidfd_send_signal(opened[pid], signal)
                if signal not in NOT_CONTINUED:
                    signals.pidfd_send_signal(opened[pid], signals.SIGCONT)
    finally:
        for pidfd in opened.values():
            os.close(pidfd)


def remove(group: str) -> bool:
    """Whether the group is gone, with all groups below it. It is not while somebody lives in there."""
    try:
        for folder in reversed(list(_folders(group))):
            os.rmdir(folder)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY and error.errno not in _FORBIDDEN:
            raise
        return False
    return True


def limit(group: str, wanted: Resources, local_rank: int, controllers: frozenset[str]) -> Iterator[tuple[str, OSError]]:
    """Set what the controllers can; gives each key that was refused, and why. What has no controller is left out.

    When the kernel kills one of a worker's processes for memory, it is to kill them all (memory.oom.group): what is
    left of a worker is of no use to its peers.
    """
    values = {
        "memory_high": ("memory.high", str(wanted.memory_high or "")),
        "memory_max": ("memory.max", str(wanted.memory_max or "")),
        "cpu_max": ("cpu.max", wanted.cpu_max),
        "pids_max": ("pids.max", str(wanted.pids_max or "")),
    }
    for key, (file, value) in values.items():
        if value and CONTROLLERS[key] in controllers:
            try:
                write(f"{group}/{file}", value)
            except OSError as error:
                yield key, error
    if "memory" in controllers:
        with suppress(FileNotFoundError):  # before Linux 4.19
            write(f"{group}/memory.oom.group", "1")
    cpus = wanted.cpus_of(local_rank)
    if cpus and "cpuset" in controllers:
        try:
            write(f"{group}/cpuset.cpus", ",".join(map(str, sorted(cpus))))
        except OSError as error:
            yield "cpu_affinity", error


def limits_without(wanted: Resources, controllers: frozenset[str]) -> tuple[str, ...]:
    """The keys that are set and have no controller to see to them."""
    return tuple(key for key, needed in CONTROLLERS.items() if getattr(wanted, key) and needed not in controllers)


def oom_kills(group: str) -> int:
    """How many processes of the group the kernel has killed for memory; 0 where it is not counted."""
    try:
        events = _read(f"{group}/memory.events")
    except OSError as error:
        if error.errno in _UNTOLD:
            return 0
        raise
    return next((int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill ")), 0)


def _folders(group: str) -> Iterator[str]:
    """The group and all below it, from the top; one system call for a group that has none below it."""
    try:
        has_more = os.stat(group).st_nlink > 2
    except (FileNotFoundError, PermissionError):
        return
    yield group
    if has_more:
        with suppress(FileNotFoundError, PermissionError):
            for entry in list(os.scandir(group)):
                if entry.is_dir(follow_symlinks=False):
                    yield from _folders(entry.path)


def _members(group: str) -> list[int]:
    return [pid for folder in _folders(group) for pid in _numbers(f"{folder}/cgroup.procs")]


def _numbers(file: str) -> list[int]:
    try:
        return list(map(int, _read(file).split()))
    except OSError as error:
        if error.errno in (
            *_UNTOLD,
            errno.EOPNOTSUPP,
        ):  # the last: threaded, and listed above it
            return []
        raise


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.readall().decode()


def write(path: str, value: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)
