"""What workers may be granted here: the kernel is asked, by trying it on ourselves and putting it back at once.

Whoever was permitted to take more than his own may go back to it, so a try leaves nothing behind. No table of
capabilities would know as surely: user namespaces and security modules have a say, too.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from supervisor.plan import UNLIMITED, Limit, Resources

T = TypeVar("T")

OOM_SCORE_ADJ = "/proc/self/oom_score_adj"
_ROOM = 64
_MOST_OPEN_FILES = "/proc/sys/fs/nr_open"

_OVER_ACCOUNTS = {"CAP_CHOWN": 0, "CAP_SETGID": 6, "CAP_SETUID": 7}

Refusal = tuple[tuple[str, ...], str]
"""A key of the table ``resources``, and why what it asks for cannot be granted."""


class OpenFiles:
    """Our limit of open files: as high as may be for ourselves, and as it was for those whom we start.

    A program that waits by select(2) breaks on descriptors above 1023, which is why 1024 is everybody's soft limit.
    """

    def __init__(self) -> None:
        self.before: tuple[int, int] | None = None
        """What the limit was, soft and hard; None unless it is raised now."""
        self._own = (0, 0)
        self._low: list[int] = []

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within, the soft limit is the hard one."""
        soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == hard:
            yield
            return
        self._low = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) for _ in range(4)]
        self.before, self._own = before, (hard, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            self.before = None
            for fd in self._low:
                os.close(fd)

    @contextmanager
    def as_before(self, *fds: int) -> Iterator[Sequence[int]]:
        """Within, the limit, raised now, is what it was: what is open stays open, but nobody here can open more.

        Gives three ``fds`` under numbers that the limit allows: beyond it, posix_spawn(3) takes none for a file's.
        """
        assert self.before is not None
        beyond = max(fds) >= self.before[0]
        if beyond:
            nothing, *low = self._low
            fds = tuple(os.dup2(fd, to, inheritable=False) for fd, to in zip(fds, low, strict=True))
        resource.setrlimit(resource.RLIMIT_NOFILE, self.before)
        try:
            yield fds
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._own)
            if beyond:
                for fd in fds:
                    os.dup2(nothing, fd, inheritable=False)

    def leaves_room(self) -> bool:
        """Whether others could still open ``_ROOM`` files while the limit is as it was."""
        if self.before is None:
            return True
        try:
            free = os.dup(self._low[0])  # which takes the lowest number that is free
        except OSError:
            return False
        os.close(free)
        return free + _ROOM <= self.before[0]


def refusals(wanted: Resources) -> Iterator[Refusal]:
    """What we may not grant. None: a worker that is started now gets all of it.

    For a process that does nothing else meanwhile: limits of all its threads are raised for some microseconds.
    """
    yield from _nice_refusals(wanted.nice)
    yield from _oom_score_adj_refusals(wanted.oom_score_adj)
    for name, limit in wanted.rlimits.items():
        if reason := _limit_refusal(name, limit):
            yield ("rlimits", name), reason
    ours = os.sched_getaffinity(0)
    if beyond := frozenset[int]().union(*wanted.cpus) - ours:
        yield ("cpu_affinity",), f"rankd may not run on CPU {ranges(beyond)} (allowed: {ranges(ours)})"


def missing_powers() -> list[str]:
    """The capabilities that we lack to run workers as other users (capabilities(7)); none, as a rule, for root.

    Here a table must do: to try it would be to become somebody else.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return [name for name, bit in _OVER_ACCOUNTS.items() if not effective >> bit & 1]


def limit_number(name: str) -> int:
    """The kernel's number of a limit: RLIMIT_NOFILE for ``nofile``."""
    number: int = getattr(resource, f"RLIMIT_{name.upper()}")
    return number


def _nice_refusals(wanted: int | None) -> Iterator[Refusal]:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    if wanted is not None and wanted < own and not _may(partial(os.setpriority, os.PRIO_PROCESS, 0), wanted, own):
        yield ("nice",), f"{wanted} is below rankd's own ({own}), which takes {_power('NICE', 'LimitNICE')}"


def _oom_score_adj_refusals(wanted: int | None) -> Iterator[Refusal]:
    with open(OOM_SCORE_ADJ, encoding="ascii") as file:
        own = int(file.read())
    if wanted is not None and wanted < own and not _may(_set_oom_score_adj, wanted, own):
        power = _power("RESOURCE", "OOMScoreAdjust")
        yield ("oom_score_adj",), f"{wanted} is below rankd's own ({own}), which takes {power}"


def _limit_refusal(name: str, wanted: Limit) -> str:
    number = limit_number(name)
    soft, hard = resource.getrlimit(number)
    if wanted.hard is None:
        if wanted.soft is not None and _is_above(wanted.soft, hard):
            return f"soft ({_shown(wanted.soft)}) is above rankd's own hard limit ({hard}): give hard as well"
        return ""
    if not _is_above(wanted.hard, hard) or _may(partial(resource.setrlimit, number), (soft, wanted.hard), (soft, hard)):
        return ""
    if name == "nofile" and _is_above(wanted.hard, most := _most_open_files()):
        return f"{_shown(wanted.hard)} is above {most}, the most that this host allows (sysctl fs.nr_open)"
    power = _power("RESOURCE", f"Limit{name.upper()}")
    return f"{_shown(wanted.hard)} is above rankd's own hard limit ({hard}), which takes {power}"


def _may(set_to: Callable[[T], object], wanted: T, own: T) -> bool:
    """Whether we may have what we want; we have our own again afterwards."""
    try:
        set_to(wanted)
    except (OSError, ValueError):  # setrlimit's EPERM is a ValueError in Python
        return False
    set_to(own)
    return True


def _set_oom_score_adj(value: int) -> None:
    with open(OOM_SCORE_ADJ, "w", encoding="ascii") as file:
        file.write(str(value))


def _most_open_files() -> int:
    with open(_MOST_OPEN_FILES, encoding="ascii") as file:
        return int(file.read())


def _power(capability: str, setting: str) -> str:
    return f"root's CAP_SYS_{capability}, or {setting}= in rankd's systemd unit"


def _is_above(one: int, other: int) -> bool:
    return other != UNLIMITED and (one == UNLIMITED or one > other)


def _shown(limit: int) -> str:
    return "unlimited" if limit == UNLIMITED else str(limit)


def ranges(cpus: Iterable[int]) -> str:
    """As people write them: ``0-3,8``."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and ranges[-1][-1] == cpu - 1:
            ranges[-1][1:] = [cpu]
        else:
            ranges.append([cpu])
    return ",".join("-".join(map(str, one)) for one in ranges)
