"""Workers for whom something is to be set before their first instruction: limits, priority, CPUs, user.

Between fork and exec there is no safe place for Python in a process like the daemon, and with vfork none at all (hence
no ``preexec_fn``). From outside it comes too late: the worker runs already. A shell in between loses the variables that
are no names to it, and a program for each setting is not on every host. So a small process of one thread forks: that
costs the same however large the daemon is. With CLONE_PARENT, what it forks is the daemon's own child.

It is started when the first such worker is, started again when it has died, and ends with the daemon. What it does is
in ``forked``.
"""

from __future__ import annotations

import errno
import marshal
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from supervisor.host.forked import LENGTH, SOCKET
from supervisor.host.resources import OpenFiles

PATIENCE = 10.0
"""Seconds for one worker to get as far as exec(2). What takes longer is a file system that does not answer."""

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from supervisor.host.forked import serve; serve()"


class Birth(NamedTuple):
    """What a forked process is to become; ``forked`` takes it apart. None and empty: as it is with the daemon.

    ``limits``: the name for errors, then number, soft and hard value (see ``plan.Limit``). ``leaf``: the directory of
    a control group (cgroups v2).
    """

    program: bytes
    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]
    cwd: bytes = b""
    umask: int = -1
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    oom_score_adj: int | None = None
    nice: int | None = None
    cpus: tuple[int, ...] = ()
    limits: tuple[tuple[str, int, int | None, int | None], ...] = ()
    leaf: bytes = b""


class Stillborn(Exception):
    """A child got no further than ``step``, because of ``error``.

    "fork", "cgroup", "user", "cwd", "exec", or what of the resources could not be set: "nice", or the name of a limit.
    """

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error)
        self.step = step
        self.error = error


class ForkServer:
    """The fork server of this process. Has to be closed."""

    def __init__(self, leave_alone: Callable[[int], None], open_files: OpenFiles) -> None:
        """``leave_alone`` is told each server's pid, a child of ours that is no worker."""
        self._leave_alone = leave_alone
        self._open_files = open_files
        self._pid = 0
        self._pidfd = -1
        self._socket: socket.socket | None = None

    def spawn(self, birth: Birth, stdin: int, stdout: int, stderr: int) -> int:
        """Have a child of ours become that program, as the leader of a session; returns its pid after exec(2).

        Raises ``Stillborn``, and ``OSError`` when the server cannot be had.
        """
        message = marshal.dumps(tuple(birth))
        reading, writing = os.pipe()
        try:
            try:
                self._ask(message, [stdin, stdout, stderr, writing])
            finally:
                os.close(writing)
            return self._answer(reading)
        finally:
            os.close(reading)

    def close(self) -> None:
        """The server is gone afterwards; its workers are not. May be called again."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        _reap(self._pid)

    def _ask(self, message: bytes, fds: Sequence[int]) -> None:
        if self._socket is not None:
            try:
                self._send(self._socket, message, fds)
            except (BrokenPipeError, ConnectionResetError):
                self.close()  # it has died: another one, then
            else:
                return
        self._send(self._start(), message, fds)

    def _send(self, server: socket.socket, message: bytes, fds: Sequence[int]) -> None:
        data = len(message).to_bytes(LENGTH, "little") + message
        try:
            sent = socket.send_fds(server, [data], fds)
            server.sendall(data[sent:])
        except TimeoutError:
            self.close()
            raise OSError(errno.EAGAIN, f"the fork server has not listened for {PATIENCE:g} s") from None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            # Its own session, so that no terminal's Ctrl-C reaches it
            pid = os.posix_spawn(
                sys.executable, [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT], os.environ,
                setsid=True, setsigmask=(),
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), SOCKET),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0), (os.POSIX_SPAWN_DUP2, 0, 1),
                ),
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._leave_alone(pid)
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            ours.close()
            os.kill(pid, signal.SIGKILL)
            _reap(pid)
            raise
        if self._open_files.before is not None:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, self._open_files.before)  # and by inheritance its workers'
        ours.settimeout(PATIENCE)
        self._pid, self._socket = pid, ours
        return ours

    def _answer(self, pipe: int) -> int:
        """The child says its pid, and then nothing, since exec(2) closes its end; or it says what went wrong."""
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        said = b""
        while in_time := poll.poll(PATIENCE * 1000):
            if not (more := os.read(pipe, 4096)):
                break
            said += more
        pid, step, number, words = (*said.decode().split("\n"), "", "", "", "")[:4]
        if not in_time:
            self.close()
            if pid:
                os.kill(int(pid), signal.SIGKILL)  # and be reaped as an orphan is, when it can die
            raise Stillborn(step or "fork", OSError(errno.EAGAIN, f"nothing has come of it within {PATIENCE:g} s"))
        if not pid:
            raise Stillborn("fork", OSError(errno.EAGAIN, "the fork server has died"))
        if not step:
            return int(pid)
        if pid != "0":
            _reap(int(pid))
        raise Stillborn(step, OSError(int(number), words or os.strerror(int(number))))


def _reap(child: int) -> None:
    with suppress(ChildProcessError):  # somebody in this process waits for children that are not his own
        os.waitpid(child, 0)
