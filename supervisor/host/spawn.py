"""From a ``WorkerPlan`` to a running program in a session of its own, or to one clear sentence why not."""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from supervisor.core.messages import Fault
from supervisor.plan import WorkerPlan

_NOT_NOW = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EIO,
     errno.ESTALE, errno.ETXTBSY, errno.EBUSY, errno.EINTR}
)  # fmt: skip
"""What another try may not meet: the machine is short of something, or a file is just being replaced."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored in us since the interpreter started; ignored signals outlive exec, and a worker expects the defaults."""

COMMAND_NOT_FOUND = 127
CANNOT_EXECUTE = 126


class NotStarted(Exception):
    """Why a worker never ran: what ``WorkerNotStarted`` will say."""

    def __init__(self, fault: Fault, reason: str, exit_code: int = CANNOT_EXECUTE) -> None:
        super().__init__(reason)
        self.fault: Fault = fault
        self.reason = reason
        self.exit_code = exit_code


def not_started(what: str, error: OSError) -> NotStarted:
    """``what`` could not be done; whether it may be another time is in the error's number."""
    fault: Fault = "transient" if error.errno in _NOT_NOW else "permanent"
    return NotStarted(fault, f"{what}: {error.strerror or error}")


class Identity(NamedTuple):
    """Who a worker runs as; None and empty: as we do."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()

    @classmethod
    def of(cls, plan: WorkerPlan) -> Identity:
        """Raises ``NotStarted`` for names that the host does not know."""
        return _identity(plan.user, plan.group) if plan.user or plan.group else cls()


# Name services may be slow, and a thousand workers ask the same. Failures are not kept.
@functools.lru_cache(maxsize=64)
def _identity(user: str, group: str) -> Identity:
    uid = gid = None
    groups: tuple[int, ...] = ()
    if group:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            if not group.isdecimal():
                raise NotStarted("permanent", f"there is no group '{group}' on this host") from None
            gid = int(group)
    if user:
        try:
            account = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        except KeyError:
            if not user.isdecimal() or gid is None:
                raise NotStarted("permanent", f"there is no user '{user}' on this host") from None
            uid, groups = int(user), (gid,)
        else:
            uid = account.pw_uid
            gid = account.pw_gid if gid is None else gid
            groups = tuple(os.getgrouplist(account.pw_name, gid))
        if uid == os.geteuid() != 0 and gid == os.getegid():
            return Identity()  # already so, and setgroups(2) is for root
    return Identity(uid, gid, groups)


def make_directory(path: str, identity: Identity) -> None:
    """The worker's own directory exists and belongs to whom it runs as (it writes its error file there)."""
    try:
        try:
            os.mkdir(path)
        except FileNotFoundError:
            os.makedirs(path, exist_ok=True)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        if identity.uid is not None or identity.gid is not None:
            os.chown(path, -1 if identity.uid is None else identity.uid, -1 if identity.gid is None else identity.gid)
    except OSError as error:
        raise not_started(f"cannot make the worker's directory '{path}'", error) from error


def find_program(plan: WorkerPlan) -> str:
    """The file that ``argv[0]`` means to the worker: by its own PATH, seen from its own directory.

    Raises ``NotStarted`` with what a shell would exit with.
    """
    command = plan.argv[0]
    base = os.path.abspath(plan.cwd) if plan.cwd else ""
    if "/" in command:
        return os.path.join(base, command)
    directories = plan.env.get("PATH", os.defpath).split(os.pathsep)
    candidates = [os.path.join(base, directory, command) for directory in directories]
    for candidate in candidates:
        if os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    for candidate in candidates:
        if os.path.isfile(candidate):
            raise NotStarted("permanent", f"'{candidate}' is not executable")
    raise NotStarted("permanent", f"command not found: '{command}' is not in the worker's PATH", COMMAND_NOT_FOUND)


def spawn(plan: WorkerPlan, env: Mapping[str, str], identity: Identity, stdin: int, stdout: int, stderr: int) -> int:
    """Run the program as the leader of a new session; returns its pid once exec(2) has succeeded.

    vfork(2) on both ways, so what it costs does not grow with us. posix_spawn(3) takes a sixth less time than ``Popen``
    (it encodes the environment in C and needs no pipe), but can neither change directory nor user, and would lose
    a source that an earlier stream has replaced. All our other descriptors are close-on-exec.
    """
    program = find_program(plan)
    plain = identity == Identity() and plan.umask < 0 and not plan.cwd
    try:
        if plain and stdout != 0 and stderr != 0 and (stderr != 1 or stdout == 1):
            return os.posix_spawn(
                program, plan.argv, env, setsid=True, setsigdef=_IGNORED_BY_PYTHON,
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2),
                ),
            )  # fmt: skip
        process = subprocess.Popen(
            plan.argv, executable=program, env=env, stdin=stdin, stdout=stdout, stderr=stderr, cwd=plan.cwd or None,
            close_fds=False, start_new_session=True, user=identity.uid, group=identity.gid,
            extra_groups=identity.groups or None, umask=plan.umask,
        )  # fmt: skip
    except OSError as error:
        raise _why(error, plan, program) from error
    except ValueError as error:  # a zero byte, or a name with "=" in it
        raise NotStarted("permanent", f"'{program}' cannot be given its arguments or environment: {error}") from error
    process.returncode = 0  # we wait for it: left at None, the next Popen would take its status (subprocess._cleanup)
    return process.pid


def _why(error: OSError, plan: WorkerPlan, program: str) -> NotStarted:
    if error.errno in _NOT_NOW:
        return not_started(f"'{program}' cannot be started now", error)
    # Popen's child reports an error before exec with the directory's name, or with none (3.12: only chdir's has it)
    if error.filename != program:
        return _why_not_entered(error, plan)
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR if not os.path.exists(program):
            return NotStarted("permanent", f"command not found: '{program}' does not exist", COMMAND_NOT_FOUND)
        case errno.ENOENT | errno.ENOTDIR:
            reason = f"'{program}' cannot be executed: the interpreter that it names does not exist"
        case errno.ENOEXEC:
            reason = f"'{program}' is neither a program for this machine nor a script that begins with #!"
        case errno.EACCES if os.path.isdir(program):
            reason = f"'{program}' is a directory, not a program"
        case errno.EACCES:
            reason = f"'{program}' is not executable{_for(plan)}"
        case _:
            return not_started(f"'{program}' cannot be executed", error)
    return NotStarted("permanent", reason)


def _why_not_entered(error: OSError, plan: WorkerPlan) -> NotStarted:
    match error.errno:
        case errno.EPERM if plan.user or plan.group:
            reason = f"the daemon is not permitted to run a worker{_for(plan)}"
        case errno.ENOENT:
            reason = f"the working directory '{plan.cwd}' does not exist"
        case errno.ENOTDIR:
            reason = f"the working directory '{plan.cwd}' is not a directory"
        case errno.EACCES:
            reason = f"the working directory '{plan.cwd}' may not be entered"
        case _:
            return not_started(f"a process for '{plan.argv[0]}' cannot be set up", error)
    return NotStarted("permanent", reason)


def _for(plan: WorkerPlan) -> str:
    names = [f"{word} '{name}'" for word, name in (("user", plan.user), ("group", plan.group)) if name]
    return f" as {' and '.join(names)}" if names else ""
