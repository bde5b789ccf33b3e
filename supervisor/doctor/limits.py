"""What the kernel lets rankd and its workers have: descriptors, processes, memory's last resort, core dumps."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from supervisor.doctor import Finding, read
from supervisor.doctor.units import Unit
from supervisor.plan import DaemonPlan

FILES_A_WORKER = 5
FILES_OF_OURS = 64
WORDS = 10
"""What Linux lets wait by itself (AF_UNIX, net.unix.max_dgram_qlen)."""

THREADS_A_WORKER = 64
"""What a training process has, more or less: its own, its library's, its data loader's."""


def open_files(plan: DaemonPlan | None, unit: Unit | None) -> Finding:
    hard = unit.number("LimitNOFILE") if unit else None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if hard is None else hard
    workers, whose = _workers(plan), f" of {unit.name}" if unit else ""
    needs = FILES_OF_OURS + FILES_A_WORKER * workers
    found = f"hard limit{whose} {_shown(hard)}"
    if plan is not None:
        found += f"; {workers} workers take up to {needs}"
    else:
        found += f"; enough for {max(0, hard - FILES_OF_OURS) // FILES_A_WORKER} workers" if hard >= 0 else ""
    if -1 < hard < needs:
        return Finding(
            "open files", "failed", found, f"LimitNOFILE=1024:{max(65536, needs)} in the unit, or ulimit -Hn"
        )
    return Finding("open files", "ok", found)


def datagrams(root: str = "/") -> Finding:
    """How many words of workers the kernel keeps for us while we are busy; beyond them a worker's waits, or is lost."""
    waiting = read(root, "proc/sys/net/unix/max_dgram_qlen")
    found = f"{waiting} may wait in a group's notify socket (net.unix.max_dgram_qlen)"
    if not waiting.isdecimal():
        return Finding("heartbeats", "ok", "net.unix.max_dgram_qlen is not for us to see")
    if int(waiting) < WORDS:
        return Finding("heartbeats", "warning", found, f"sysctl net.unix.max_dgram_qlen={WORDS}, for many workers")
    return Finding("heartbeats", "ok", found)


def processes(plan: DaemonPlan | None, unit: Unit | None, root: str = "/") -> Finding:
    limits = sorted(_limits_of_processes(unit, root))
    workers = _workers(plan)
    if not limits:
        return Finding("processes", "ok", "no limit")
    least, name = limits[0]
    found = f"at most {least} processes and threads ({name})"
    advice = f"raise {name}" + (" (TasksMax=infinity in the unit)" if "pids.max" in name or "Tasks" in name else "")
    if least < workers + 32:
        return Finding("processes", "failed", f"{found}, and {workers} workers are to run", advice)
    if least < (wanted := workers * THREADS_A_WORKER):
        words = f"{found}; {workers} workers with {THREADS_A_WORKER} threads each have {wanted}"
        return Finding("processes", "warning", words, advice)
    return Finding("processes", "ok", found)


def memory(plan: DaemonPlan | None, unit: Unit | None) -> Finding:
    own = unit.number("OOMScoreAdjust") if unit else None
    own = int(read("/proc/self/oom_score_adj") or 0) if own is None else own
    found = f"oom_score_adj {own}"
    if own > 0:
        advice = "OOMScoreAdjust=0 or less in the unit: the supervisor should not go before what it supervises"
        return Finding("out of memory", "warning", f"{found}: the kernel picks rankd early", advice)
    inherit = [group.name for group in plan.groups.values() if group.resources.oom_score_adj is None] if plan else []
    if own < 0 and inherit:
        advice = "give them resources.oom_score_adj = 0 or more, so that the kernel kills the one that grew"
        return Finding("out of memory", "warning", f"{found}, inherited by the workers of {', '.join(inherit)}", advice)
    return Finding("out of memory", "ok", found)


def core_dumps(root: str = "/") -> Finding:
    pattern, (soft, _) = read(root, "proc/sys/kernel/core_pattern"), resource.getrlimit(resource.RLIMIT_CORE)
    to = f"piped to {pattern[1:].split(' ')[0]}" if pattern.startswith("|") else f"written to {pattern or 'nothing'}"
    if pattern.startswith("|"):  # the limit does not hold for a pipe, but for 1 (core(5))
        return Finding("core dumps", "ok", to)
    if soft == 0:
        return Finding("core dumps", "ok", f"{to}, but the limit is 0: none (resources.rlimits.core raises it)")
    if not pattern.startswith("/"):
        advice = "give kernel.core_pattern a folder of its own, or resources.rlimits.core = 0"
        words = f"{to} in each worker's working directory, up to {_shown(soft)} bytes"
        return Finding("core dumps", "warning", words, advice)
    return Finding("core dumps", "ok", f"{to}, up to {_shown(soft)} bytes")


def _limits_of_processes(unit: Unit | None, root: str) -> Iterator[tuple[int, str]]:
    """Each limit that there is, with its name. RLIMIT_NPROC does not hold for root."""
    for name in ("pid_max", "threads-max"):
        if (text := read(root, "proc/sys/kernel", name)).isdecimal():
            yield int(text), f"kernel.{name}"
    if unit is not None:
        for name in ("TasksMax", "LimitNPROC"):
            number = unit.number(name)
            if number is not None and number >= 0 and not (name == "LimitNPROC" and unit.user in ("", "root")):
                yield number, f"{name}= of {unit.name}"
        return
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        yield soft, "RLIMIT_NPROC (ulimit -u)"
    for line in read(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        below = "sys/fs/cgroup/pids" if controllers == "pids" else "sys/fs/cgroup"
        while controllers in ("", "pids"):
            if (text := read(root, below, path.lstrip("/"), "pids.max")).isdecimal():
                yield int(text), f"pids.max of control group {path}"
            if path == "/":
                break
            path = os.path.dirname(path)


def _workers(plan: DaemonPlan | None) -> int:
    return sum(group.workers for group in plan.groups.values()) if plan else 0


def _shown(limit: int) -> str:
    return str(limit) if limit >= 0 else "unlimited"
