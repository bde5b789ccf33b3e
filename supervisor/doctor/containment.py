"""Which containment workers will have: a cgroup each, or their session and a subreaper."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

from supervisor.doctor import Finding, read
from supervisor.doctor.units import Unit

DELEGATED = ("trusted.delegate", "user.delegate")
"""Extended attributes by which systemd says that a control group is not its own any more (CGROUP_DELEGATION.md)."""


class Containment(NamedTuple):
    """``own``: the control group that we may divide, as a path below the mount; empty: none, and ``why`` not."""

    own: str
    why: str
    controllers: tuple[str, ...] = ()
    kills: bool = False


def finding(unit: Unit | None) -> Finding:
    """Of the unit if there is one, running or not; else of this process, and so of a rankd that is started here."""
    if unit is not None and not unit["ControlGroup"]:
        if unit["Delegate"] == "yes":
            return Finding(
                "containment", "ok", f"{unit.name} is delegated: once started, it has a control group to divide"
            )
        found = Containment("", f"{unit.name} is not delegated")
    else:
        found = containment_found(own=unit["ControlGroup"] if unit else "")
    if not found.own:
        advice = "as a service: Delegate=yes in the unit; by hand: systemd-run --scope -p Delegate=yes rankd run ..."
        words = f"session and subreaper: {found.why}; memory and CPU of workers cannot be limited, a fork bomb may run"
        return Finding("containment", "warning", words, advice)
    kill = "cgroup.kill ends it at once" if found.kills else "no cgroup.kill (Linux 5.14): ended process by process"
    lacking = sorted({"cpu", "memory", "pids"} - set(found.controllers))
    words = f"{found.own} is ours to divide; {kill}; controllers: {' '.join(found.controllers) or 'none'}"
    if lacking:
        advice = (
            f"{', '.join(lacking)} cannot limit workers here: a parent's cgroup.subtree_control does not pass it on"
        )
        return Finding("containment", "warning", words, advice)
    return Finding("containment", "ok", words)


def containment_found(root: str = "/", own: str = "") -> Containment:
    """What the control group ``own`` (empty: this process's) allows. Nothing is made to find out (cgroups(7))."""
    mounts = [line.split() for line in read(root, "proc/self/mounts").splitlines()]
    mounted = [fields[1] for fields in mounts if len(fields) > 2 and fields[2] == "cgroup2"]
    ours = [line[3:] for line in read(root, "proc/self/cgroup").splitlines() if line.startswith("0::")]
    if not mounted or not ours:
        return Containment("", "no cgroup v2 is mounted")
    path = own or ours[0]
    folder = os.path.join(root, mounted[0].lstrip("/"), path.lstrip("/"))
    if not os.path.isdir(folder):
        return Containment("", f"control group {path} is not to be seen here (a namespace of another process?)")
    needed = [folder, *(os.path.join(folder, name) for name in ("cgroup.procs", "cgroup.subtree_control"))]
    if not all(os.access(one, os.W_OK) for one in needed):
        return Containment("", f"control group {path} is not delegated: it is not ours to write")
    if path != "/" and os.geteuid() == 0 and not _is_delegated(folder):
        return Containment("", f"control group {path} is not delegated: root may write it, but it is systemd's")
    controllers = tuple(read(folder, "cgroup.controllers").split())
    if not controllers:
        return Containment("", f"control group {path} has no controllers (they are with cgroup v1)")
    return Containment(path, "", controllers, path == "/" or os.path.exists(os.path.join(folder, "cgroup.kill")))


def _is_delegated(folder: str) -> bool:
    for name in DELEGATED:
        with suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False
