"""From a ``WorkerPlan`` to a running program in a session of its own, or to one clear sentence why not."""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple

from supervisor.core.messages import Fault
from supervisor.host.forkserver import Birth, ForkServer, Stillborn
from supervisor.host.resources import OpenFiles, limit_number
from supervisor.plan import Resources, WorkerPlan

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

    @classmethod
    def named(cls, user: str, group: str) -> Identity:
        """As ``of``, by names or decimal ids; empty for neither."""
        return _identity(user, group)


_OURSELVES = Identity()
_UNTOUCHED = Resources()
_AS_WE_ARE: AbstractContextManager[None] = nullcontext()


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
            _make_way(os.path.dirname(path))
            with suppress(FileExistsError):
                os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        if identity.uid is not None or identity.gid is not None:
            os.chown(path, -1 if identity.uid is None else identity.uid, -1 if identity.gid is None else identity.gid)
    except OSError as error:
        raise not_started(f"cannot make the worker's directory '{path}'", error) from error


def _make_way(path: str) -> None:
    """A directory, and those above it, that any worker may pass through, whatever our umask is."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_way(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path)
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | 0o111)  # noqa: S103 - to pass through, not to read


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


class Spawner:
    """Starts programs, each as the leader of a new session. Has to be closed."""

    def __init__(self, leave_alone: Callable[[int], None]) -> None:
        """``leave_alone`` is told the pid of each child of ours that is no worker."""
        self._open_files = OpenFiles()
        self._server = ForkServer(leave_alone, self._open_files)
        self._home = _way_back()
        self._others = self._loaders = 0

    def many_descriptors(self) -> AbstractContextManager[None]:
        """Within, we may open as many files as the hard limit allows. Workers get the soft limit that we had before."""
        return self._open_files.raised()

    @contextmanager
    def beside_threads(self) -> Iterator[None]:
        """Within, other threads of ours may open files and use relative paths, as an import does.

        Starting a plain program borrows our working directory and our limit of open files for a moment: not now.
        """
        self._others += 1
        try:
            yield
        finally:
            self._others -= 1

    @contextmanager
    def beside_loading(self) -> Iterator[None]:
        """Within, a thread of ours may load libraries. It is as ``beside_threads``, and more.

        They open files by fopen(3) without close-on-exec, as OpenSSL its configuration, and a program started plainly
        just then would inherit that. So all start by the fork server.
        """
        self._loaders += 1
        try:
            with self.beside_threads():
                yield
        finally:
            self._loaders -= 1

    def spawn(
        self, plan: WorkerPlan, env: Mapping[str, str], identity: Identity, stdin: int, stdout: int, stderr: int,
        *, leaf: str = "",
    ) -> int:  # fmt: skip
        """Run the worker's program; returns its pid once exec(2) has succeeded. Raises ``NotStarted``.

        By posix_spawn(3), a vfork(2): what it costs does not grow with us. Where it can not do all that is asked for,
        by the fork server, which takes a millisecond. All our other descriptors are close-on-exec. ``leaf``: the
        control group that the worker is in from its first instruction on.
        """
        program = find_program(plan)
        try:
            if not leaf and self._is_plain(plan, identity, stdout, stderr):
                with self._entered(plan.cwd) if plan.cwd else _AS_WE_ARE:
                    if self._open_files.before is None:
                        return _posix_spawn(program, plan, env, stdin, stdout, stderr)
                    with self._open_files.as_before(stdin, stdout, stderr) as ends:
                        return _posix_spawn(program, plan, env, *ends)
            return self._server.spawn(_birth(program, plan, env, identity, leaf), stdin, stdout, stderr)
        except Stillborn as why:
            raise _why(why.step, why.error, plan, program) from why
        except OSError as error:
            raise _why("exec", error, plan, program) from error
        except ValueError as error:  # a zero byte, or the name of a variable with "=" in it
            raise _why("exec", OSError(0, str(error)), plan, program) from error

    def close(self) -> None:
        """What has been started goes on. May be called again."""
        self._server.close()
        if self._home is not None:
            os.close(self._home)
            self._home = None

    def _is_plain(self, plan: WorkerPlan, identity: Identity, stdout: int, stderr: int) -> bool:
        if plan.resources != _UNTOUCHED or identity != _OURSELVES or plan.umask >= 0:
            return False
        if stdout == 0 or stderr == 0 or (stderr == 1 and stdout != 1):
            return False  # one stream would replace another before its turn comes
        if plan.cwd and self._home is None:
            return False
        if self._loaders:
            return False
        return not self._others or (not plan.cwd and self._open_files.leaves_room())

    @contextmanager
    def _entered(self, directory: str) -> Iterator[None]:
        """Within, we are in that directory: a child starts where its parent is."""
        try:
            os.chdir(directory)
        except OSError as error:
            raise Stillborn("cwd", error) from None
        try:
            yield
        finally:
            assert self._home is not None
            os.fchdir(self._home)


def _posix_spawn(program: str, plan: WorkerPlan, env: Mapping[str, str], stdin: int, stdout: int, stderr: int) -> int:
    return os.posix_spawn(
        program, plan.argv, env, setsid=True, setsigdef=_IGNORED_BY_PYTHON,
        file_actions=(
            (os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2),
        ),
    )  # fmt: skip


def _way_back() -> int | None:
    """A descriptor of the directory that we are in; None if we may not enter it, where ``sudo -u`` can put us."""
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.fchdir(here)
    except PermissionError:
        os.close(here)
        return None
    return here


def _birth(program: str, plan: WorkerPlan, env: Mapping[str, str], identity: Identity, leaf: str) -> Birth:
    encode, resources = os.fsencode, plan.resources
    return Birth(
        encode(program),
        tuple(map(encode, plan.argv)),
        {encode(name): encode(value) for name, value in env.items()},
        encode(plan.cwd),
        plan.umask,
        *identity,
        resources.oom_score_adj,
        resources.nice,
        tuple(sorted(resources.cpus_of(plan.local_rank))),
        tuple(
            (f"rlimits.{name}", limit_number(name), limit.soft, limit.hard) for name, limit in resources.rlimits.items()
        ),
        encode(leaf),
    )


def _why(step: str, error: OSError, plan: WorkerPlan, program: str) -> NotStarted:
    if error.errno in _NOT_NOW:
        return not_started(f"'{program}' cannot be started now", error)
    match step:
        case "exec":
            return _why_not_executed(error, plan, program)
        case "cwd":
            return _why_not_entered(error, plan)
        case "user" if error.errno == errno.EPERM:
            return NotStarted("permanent", f"the daemon is not permitted to run a worker{_for(plan)}")
        case "cgroup":
            return not_started(f"'{plan.argv[0]}' cannot be put in a control group of its own", error)
        case "user" | "fork":
            return not_started(f"a process for '{plan.argv[0]}' cannot be set up", error)
        case _:
            return not_started(f"resources.{step} cannot be had for '{plan.argv[0]}'", error)


def _why_not_executed(error: OSError, plan: WorkerPlan, program: str) -> NotStarted:
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
        case 0:  # not from the kernel: it was not even asked
            reason = f"'{program}' cannot be given its arguments or environment: {error.strerror}"
        case _:
            return not_started(f"'{program}' cannot be executed", error)
    return NotStarted("permanent", reason)


def _why_not_entered(error: OSError, plan: WorkerPlan) -> NotStarted:
    match error.errno:
        case errno.ENOENT:
            reason = f"the working directory '{plan.cwd}' does not exist"
        case errno.ENOTDIR:
            reason = f"the working directory '{plan.cwd}' is not a directory"
        case errno.EACCES:
            reason = f"the working directory '{plan.cwd}' may not be entered{_for(plan)}"
        case _:
            return not_started(f"the working directory '{plan.cwd}' cannot be entered", error)
    return NotStarted("permanent", reason)


def _for(plan: WorkerPlan) -> str:
    names = [f"{word} '{name}'" for word, name in (("user", plan.user), ("group", plan.group)) if name]
    return f" as {' and '.join(names)}" if names else ""
