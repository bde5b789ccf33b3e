"""Which containment the workers of a daemon started here would have: a cgroup each, or a session and a subreaper."""

from __future__ import annotations

import os

from supervisor.doctor import Finding
from supervisor.doctor.units import Unit
from supervisor.host import cgroup
from supervisor.host.cgroup import Delegated, NotDelegated


def finding(unit: Unit | None) -> Finding:
    """Of the unit if there is one, running or not; else of this process, and so of a rankd that is started here."""
    if unit is None:
        return judged(cgroup.available())
    if unit["Delegate"] != "yes":
        return judged(NotDelegated(f"{unit.name} is not delegated"))
    if not unit["ControlGroup"]:
        words = f"{unit.name} is delegated: once started, it has a control group to divide"
        return Finding("containment", "ok", words)
    try:
        path = cgroup.folder(unit["ControlGroup"])
        if path is None:
            return judged(NotDelegated("no control group of version 2 is mounted"))
        return judged(Delegated(path, cgroup.controllers(path)))
    except OSError as error:
        return judged(NotDelegated(f"{error.filename}: {error.strerror}"))


def judged(found: Delegated | NotDelegated) -> Finding:
    if isinstance(found, NotDelegated):
        advice = "as a service: Delegate=yes in the unit; by hand: systemd-run --scope -p Delegate=yes rankd run ..."
        words = f"session and subreaper: {found.reason}; memory and CPU of workers cannot be limited"
        return Finding("containment", "warning", words, advice)
    kills = os.path.exists(f"{found.path}/cgroup.kill")
    kill = "cgroup.kill ends it at once" if kills else "no cgroup.kill (Linux 5.14): frozen, and ended one by one"
    words = f"{found.path} is ours to divide; {kill}; controllers: {' '.join(sorted(found.controllers)) or 'none'}"
    if lacking := sorted(set(cgroup.CONTROLLERS.values()) - found.controllers):
        advice = (
            f"{', '.join(lacking)} cannot limit workers here: a parent's cgroup.subtree_control does not pass it on"
        )
        return Finding("containment", "warning", words, advice)
    return Finding("containment", "ok", words)
