"""The fork server's own side (see ``forkserver``). It imports little: every fork pays for what is in memory."""

from __future__ import annotations

import errno
import gc
import marshal
import os
import resource
import signal
import socket
from array import array

TYPE_CHECKING = False  # typing itself takes 1 MiB
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from supervisor.host.forkserver import Birth

SOCKET = 3
"""The descriptor that requests come by: each its length in ``LENGTH`` bytes and a ``Birth``, with four descriptors."""

LENGTH = 8

_CLONE_PARENT = 0x8000
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}
_SYS_CLONE3 = 435
_CLONE_INTO_CGROUP = 0x200000000
_NO_CLONE3 = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)


def serve() -> None:
    """The life of the server: until the other end of its socket is closed."""
    requests = socket.socket(fileno=SOCKET)
    requests.set_inheritable(False)
    _close_beyond(SOCKET)
    # What a worker would inherit: Python ignores these two from its start, and caught signals are reset by exec(2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    with open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write("forkserver")
    fork_sibling = forker(os.uname().machine)
    fork_into = into_forker(fork_sibling)
    gc.disable()
    gc.freeze()
    while (request := _receive(requests)) is not None:
        birth, fds = request
        try:
            leaf = birth[-1]
            pid, is_inside = fork_into(leaf) if leaf else (fork_sibling(), True)
            if pid == 0:
                _become(birth, is_inside, *fds)
        except OSError as error:
            os.write(fds[3], f"0\nfork\n{error.errno}\n".encode())
        for fd in fds:
            os.close(fd)


def _close_beyond(last: int) -> None:
    """What a thread of the daemon had open without close-on-exec when we were started is for no worker."""
    os.closerange(last + 1, 1 + max(map(int, os.listdir("/proc/self/fd"))))


def forker(machine: str) -> Callable[[], int]:
    """A function like ``os.fork``, but the child is our parent's.

    By clone(2) where its number and the order of its arguments are known: containers often forbid clone3.
    """
    import ctypes  # noqa: PLC0415 - the daemon imports this module, too, and never comes here

    libc = ctypes.PyDLL(None, use_errno=True)  # one that keeps the GIL: in a fork, nobody would give it back
    arguments: tuple[object, ...]
    if machine in _SYS_CLONE and ctypes.sizeof(ctypes.c_long) == 8:
        arguments = _SYS_CLONE[machine], _CLONE_PARENT, 0, 0, 0, 0
    else:
        struct = (ctypes.c_uint64 * 8)(_CLONE_PARENT)  # clone_args as of Linux 5.3, flags first
        arguments = _SYS_CLONE3, struct, ctypes.sizeof(struct)

    def fork() -> int:
        pid = int(libc.syscall(*arguments))
        if pid < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return pid

    return fork


def into_forker(fork_sibling: Callable[[], int]) -> Callable[[bytes], tuple[int, bool]]:
    """A function like ``fork_sibling`` whose child begins its life in a control group, and whether that is so.

    By clone3(2) with CLONE_INTO_CGROUP (Linux 5.7): moving a process costs as much again as making it. Where it is
    not to be had, the child is to move itself.
    """
    import ctypes  # noqa: PLC0415 - see ``forker``

    libc = ctypes.PyDLL(None, use_errno=True)
    refused = False

    def fork(leaf: bytes) -> tuple[int, bool]:
        nonlocal refused
        if refused:
            return fork_sibling(), False
        group = os.open(leaf, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # clone_args as of Linux 5.7: flags first, the group last
            struct = (ctypes.c_uint64 * 11)(_CLONE_PARENT | _CLONE_INTO_CGROUP, *[0] * 9, group)
            pid = int(libc.syscall(_SYS_CLONE3, struct, ctypes.sizeof(struct)))
            number = ctypes.get_errno()
        finally:
            os.close(group)
        if pid >= 0:
            return pid, True
        if number not in _NO_CLONE3:
            raise OSError(number, os.strerror(number))
        refused = True
        return fork_sibling(), False

    return fork


def _receive(requests: socket.socket) -> tuple[Birth, list[int]] | None:
    # Not by ``socket.recv_fds``, which forgets the flag on its way
    data, found, _, _ = requests.recvmsg(1 << 16, socket.CMSG_SPACE(16), socket.MSG_CMSG_CLOEXEC)
    fds = array("i", b"".join(fds for _, _, fds in found)).tolist()
    while data:
        length = int.from_bytes(data[:LENGTH], "little")
        if len(data) >= LENGTH and len(data) == LENGTH + length:
            return marshal.loads(data[LENGTH:]), fds  # noqa: S302 - from the daemon, by a socket that is ours alone
        more = requests.recv(1 << 20)
        data = data + more if more else b""
    return None


def _become(birth: Birth, is_inside: bool, stdin: int, stdout: int, stderr: int, pipe: int) -> NoReturn:
    """Make of this process what was asked for, limits late (they hold for us as well) and the user after them.

    The pipe is told our pid, and then, if anything fails, the step, the error's number and more words or none.
    """
    program, argv, env, cwd, umask, uid, gid, groups, oom_score_adj, nice, cpus, limits, leaf = birth
    step, number, words = "fork", errno.EIO, ""
    try:
        os.write(pipe, b"%d\n" % os.getpid())
        os.setsid()
        if not is_inside:
            step = "cgroup"
            with open(leaf + b"/cgroup.procs", "wb", buffering=0) as file:
                file.write(b"0")
            step = "fork"
        for end, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, end)
        if umask >= 0:
            os.umask(umask)
        if oom_score_adj is not None:
            step = "oom_score_adj"
            with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
                file.write(b"%d" % oom_score_adj)
        if nice is not None:
            step = "nice"
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        if cpus:
            step = "cpu_affinity"
            _bind(cpus)
        for name, limit, soft, hard in limits:
            step = name
            _limit(limit, soft, hard)
        step = "user"
        if groups:
            os.setgroups(groups)
        if gid is not None:
            os.setresgid(gid, gid, gid)
        if uid is not None:
            os.setresuid(uid, uid, uid)
        if cwd:
            step = "cwd"
            os.chdir(cwd)
        step = "exec"
        os.execve(program, argv, env)  # noqa: S606
    except OSError as error:
        number = error.errno or errno.EIO
    except MemoryError:
        number = errno.ENOMEM
    except ValueError as error:  # a zero byte, or the name of a variable with "=" in it
        number, words = 0, str(error)
    finally:
        os.write(pipe, f"{step}\n{number}\n{words}\n".encode())
        os._exit(255)


def _bind(cpus: tuple[int, ...]) -> None:
    """Exactly these CPUs: the kernel would be content with any one of them (sched_setaffinity(2))."""
    os.sched_setaffinity(0, cpus)
    if os.sched_getaffinity(0) != set(cpus):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _limit(number: int, soft: int | None, hard: int | None) -> None:
    """None: as it is, but a soft limit is never above the hard one."""
    own_soft, own_hard = resource.getrlimit(number)
    hard = own_hard if hard is None else hard
    if soft is None:
        soft = hard if own_soft == -1 or -1 < hard < own_soft else own_soft
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError:  # which is what Python makes of EPERM
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None
