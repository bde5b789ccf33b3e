"""A hook's command: a process of its own session that gets a record on stdin, and is killed when its time is over."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Callable, Mapping, Sequence

import anyio

_RESTORED = (signals.SIGPIPE, signals.SIGXFSZ)  # which Python ignores, and whoever is started would
_LAST_WAIT = 2.0  # seconds that a killed command has to be gone


async def run_command(
    argv: Sequence[str], record: bytes, env: Mapping[str, str], within: float, leave_alone: Callable[[int], None],
    output: int | None = None,
) -> str:  # fmt: skip
    """Run it for at most ``within`` seconds; returns "" when it has exited with 0, else what went wrong.

    ``leave_alone`` is told its pid, a child of ours that is no worker. What its process group has left is killed when
    it ends; its output goes to the descriptor ``output``, or nowhere. Never raises but for being cancelled, and leaves
    no process then.
    """
    try:
        pid, pidfd = _start(argv, record, env, output)
    except OSError as error:
        return f"'{argv[0]}' cannot be run: {error.strerror}"
    leave_alone(pid)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    in_time = False
    try:
        with anyio.move_on_after(within):
            await ended.wait()
        in_time = ended.is_set()
    finally:
        os.killpg(pid, signals.SIGKILL)  # not reaped yet, so that the number is nobody else's
        with anyio.move_on_after(_LAST_WAIT, shield=True):
            await ended.wait()
        loop.remove_reader(pidfd)
        os.close(pidfd)
        reaped, raw = os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not block
    if not reaped:
        return f"took longer than {within:g} s and cannot be killed (pid {pid})"
    if not in_time:
        return f"took longer than {within:g} s and was killed"
    code = os.waitstatus_to_exitcode(raw)
    return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}" if code else ""


def _start(argv: Sequence[str], record: bytes, env: Mapping[str, str], output: int | None) -> tuple[int, int]:
    """Its pid and a pidfd. Raises ``OSError`` and leaves nothing then."""
    outputs = (
        [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        if output is None
        else [(os.POSIX_SPAWN_DUP2, output, fd) for fd in (1, 2)]
    )
    stdin = os.memfd_create("record", os.MFD_CLOEXEC)
    try:
        os.write(stdin, record)
        os.lseek(stdin, 0, os.SEEK_SET)
        pid = os.posix_spawnp(
            argv[0], list(argv), dict(env), setsid=True, setsigmask=(), setsigdef=_RESTORED,
            file_actions=[(os.POSIX_SPAWN_DUP2, stdin, 0), *outputs],
        )  # fmt: skip
    finally:
        os.close(stdin)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:
        os.killpg(pid, signals.SIGKILL)
        os.waitpid(pid, 0)
        raise
