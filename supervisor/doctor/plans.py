"""What a configuration asks of this host: its directories, its addresses, its workers' programs and users."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress

from supervisor.doctor import Finding
from supervisor.doctor import read as text_of
from supervisor.errors import AddressUnavailable, ConfigError
from supervisor.host.spawn import Identity, NotStarted, find_program
from supervisor.plan import (
    DaemonPlan,
    GroupPlan,
    group_environment,
    single_host_world,
    worker_plan,
    world_environment,
)
from supervisor.report import listen

LITTLE = 1 << 30
"""Bytes free below which logs are soon a matter of hours."""

NOTHING = 1 << 24
_COMMAND = "command wants a program by its whole path, or one in the PATH of the group's env"
_LISTEN = "0A"  # as the kernel writes a listening socket's state in /proc/net/tcp


def read(path: str, environ: Mapping[str, str]) -> tuple[Finding, DaemonPlan | None]:
    """The plan of a file, or its first mistake."""
    from supervisor.config import load  # noqa: PLC0415 - pydantic takes its time

    try:
        plan = load(path, environ)
    except ConfigError as error:
        first = str(error).splitlines()[0]
        more = f" (and {len(error.mistakes) - 1} more)" if len(error.mistakes) > 1 else ""
        return Finding("configuration", "failed", f"{first}{more}", f"rankd check {path} says all of it"), None
    return Finding("configuration", "ok", f"{path}: {', '.join(map(_in_words, plan.groups.values()))}"), plan


def findings(plan: DaemonPlan, environ: Mapping[str, str], uid: int) -> Iterator[Finding]:
    """``uid``: who the daemon would be."""
    holder = holder_of(plan.state_dir)
    yield state_dir(plan.state_dir, uid, holder)
    yield runtime_dir(plan.runtime_dir, uid)
    for address in (*plan.listen, *filter(None, [plan.agent_check])):
        yield listener(address, holder)
    if plan.control:
        yield control(plan.control)
    for group in plan.groups.values():
        yield workers(plan, group, environ, uid)


def state_dir(path: str, uid: int, holder: int) -> Finding:
    there = _nearest(path)
    if not os.path.isdir(there):
        return Finding("state_dir", "failed", f"{path}: {there} is not a directory")
    if not _may_write(there, uid):
        who = f"uid {uid} may not write {there}"
        return Finding("state_dir", "failed", f"{path}: {who}", f"chown {uid} {there}, or StateDirectory= in the unit")
    room = os.statvfs(there)
    free = room.f_bavail * room.f_frsize
    words = f"{path}: {free / (1 << 30):.1f} GiB free" + ("" if there == path else ", made at start")
    words += f"; held by the rankd that runs (pid {holder})" if holder else ""
    if free < NOTHING or (room.f_files and not room.f_favail):
        return Finding("state_dir", "failed", f"{words}, {room.f_favail} inodes", "make room: logs and state are lost")
    if free < LITTLE:
        return Finding("state_dir", "warning", words, "make room, or let [groups.X.logs] dir be elsewhere")
    return Finding("state_dir", "ok", words)


def control(path: str) -> Finding:
    if (size := len(os.fsencode(path))) > listen.LONGEST_PATH:
        words = (
            f"{path}: {size} bytes, and a unix socket's path has at most {listen.LONGEST_PATH}: rankd would run without"
        )
        return Finding("control", "warning", words, "[daemon] runtime_dir, or [control] socket, with a shorter path")
    return Finding("control", "ok", path)


def runtime_dir(path: str, uid: int) -> Finding:
    there = _nearest(path)
    if there != path:
        if not _may_write(there, uid):
            advice = "RuntimeDirectory= in the unit, or [daemon] runtime_dir elsewhere"
            return Finding("runtime_dir", "failed", f"{path}: uid {uid} may not make it in {there}", advice)
        return Finding("runtime_dir", "ok", f"{path}: made at start")
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
        whose = f"belongs to uid {status.st_uid}, not to {uid}" if stat.S_ISDIR(status.st_mode) else "is no directory"
        return Finding("runtime_dir", "failed", f"{path}: {whose}", "remove it; rankd makes it for itself")
    if mode & 0o077:
        words = f"{path}: mode {mode:04o}: others may reach the sockets and pipes in it"
        return Finding("runtime_dir", "warning", words, f"chmod 0700 {path}")
    return Finding("runtime_dir", "ok", f"{path}: mode {mode:04o}")


def listener(address: str, holder: int) -> Finding:
    """Bound for a moment, as the daemon will: free, or taken by the rankd that runs, or by somebody else."""
    place = listen.parse_address(address)
    if place.path and not os.path.isdir(os.path.dirname(place.path)):
        return Finding("health", "ok", f"{address}: its directory is not there yet")
    try:
        for bound in listen.bind([address]):
            bound.close()
    except AddressUnavailable as error:
        if holder and place.port:
            ports = listening_ports(holder)
            if ports is None:
                words = f"{address}: in use; only root can see whether by the rankd that runs (pid {holder})"
                return Finding("health", "warning", words, "sudo rankd doctor ...")
            if place.port in ports:
                return Finding("health", "ok", f"{address}: the rankd that runs listens there (pid {holder})")
        look = f"ss -ltnp 'sport = {place.port}' says who has it" if place.port else f"ss -lxp src {place.path}"
        return Finding("health", "failed", str(error).removeprefix("health listener: "), look)
    return Finding("health", "ok", f"{address}: free")


def workers(plan: DaemonPlan, group: GroupPlan, environ: Mapping[str, str], uid: int) -> Finding:
    """Of the first worker, whose command is the others' but for their numbers."""
    name = f"group {group.name}"
    try:
        world = single_host_world(group, 0, "127.0.0.1", group.master_port or 29500)
        shared = group_environment(plan, group, environ) | world_environment(world)
        first = worker_plan(plan, group, world, shared, 0, attempt=0, restarts=0)
        if first.cwd and not os.path.isdir(first.cwd):
            return Finding(name, "failed", f"the working directory {first.cwd} does not exist", f"mkdir -p {first.cwd}")
        program = find_program(first)
        if not os.access(program, os.X_OK):
            return Finding(name, "failed", f"{program} is not there or not executable", _COMMAND)
        who = Identity.of(first)
    except (NotStarted, ValueError) as error:
        return Finding(name, "failed", str(error), _COMMAND)
    if who.uid not in (None, uid) and 0 != uid != os.geteuid():
        caps = "CAP_CHOWN CAP_SETGID CAP_SETUID"
        advice = f"in the unit, CapabilityBoundingSet={caps}, and User=root or AmbientCapabilities={caps}"
        return Finding(name, "warning", f"runs as {group.user}, which the service's user may not become", advice)
    as_user = ""
    if who.uid is not None:
        as_user = f", as {group.user} (uid {who.uid}; groups {' '.join(map(str, who.groups))})"
    return Finding(name, "ok", f"{_count(group)} of {program}{as_user}")


def holder_of(state_dir: str) -> int:
    """The pid of the daemon that holds this directory (see ``host.state.hold``), without touching its lock; 0: none."""
    path = os.path.join(state_dir, "lock")
    try:
        inode = str(os.stat(path).st_ino)
    except OSError:
        return 0
    locks = [line.split() for line in text_of("/proc/locks").splitlines()]
    held = any(fields[1] == "FLOCK" and fields[3] == "WRITE" and fields[5].endswith(f":{inode}") for fields in locks)
    words = text_of(path).split()
    return int(words[1]) if held and len(words) > 1 and words[1].isdecimal() else 0


def listening_ports(pid: int) -> set[int] | None:
    """The TCP ports on which that process listens; None if we may not look."""
    sockets = set()
    try:
        fds = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    for fd in fds:
        with suppress(OSError):  # closed meanwhile
            sockets.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in text_of(f"/proc/{pid}/net/{table}").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == _LISTEN and f"socket:[{inode}]" in sockets:
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


def _nearest(path: str) -> str:
    """``path``, or the nearest place above it that exists."""
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def _may_write(path: str, uid: int) -> bool:
    """For another user than us only the owner's right is looked at: his groups are not ours to guess."""
    if uid == os.geteuid():
        return os.access(path, os.W_OK | os.X_OK)
    status = os.stat(path)
    return uid == 0 or bool(status.st_mode & (0o200 if status.st_uid == uid else 0o002))


def _in_words(group: GroupPlan) -> str:
    return f"{group.name} with {_count(group)}"


def _count(group: GroupPlan) -> str:
    return f"{group.workers} worker{'s' * (group.workers > 1)}"
