"""Where the streams of this host's workers go: to files, to the console, to both, or where the daemon's own go.

A stream whose only reader is a file is that file: the worker writes it by itself, and the daemon does nothing. Only
what is copied to the console comes through a pipe.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Callable

from supervisor.host.console import Console
from supervisor.host.pipes import Pipe, Pipes
from supervisor.host.sinks import ConsoleLines, Dropped, LogFile, Losses
from supervisor.host.spawn import Identity, make_directory
from supervisor.plan import WorkerPlan, substitute

STDOUT, STDERR = 1, 2
"""The bits of ``Streams`` (torch.distributed.elastic.multiprocessing.api, ``Std``)."""


class Output:
    """The files and pipes of all workers.

    ``console_out`` and ``console_err`` get the lines of teed streams and may be one and the same; None: the files only.
    ``inherited`` are the descriptors given to workers for streams that have no file, ``stdin`` what they read (None:
    /dev/null); these stay the caller's.
    ``on_dropped`` hears of log files that take nothing. ``log_bytes`` (by group and stream) and ``log_dropped_bytes``
    (by group) count what comes through pipes.
    """

    def __init__(
        self,
        console_out: Console | None,
        console_err: Console | None,
        *,
        inherited: tuple[int, int] = (1, 2),
        stdin: int | None = None,
        on_dropped: Callable[[Dropped], None] | None = None,
    ) -> None:
        self.log_bytes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.log_dropped_bytes: defaultdict[str, int] = defaultdict(int)
        self._on_dropped = on_dropped
        self._pipes = Pipes(self.log_bytes)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._stdin = self._null if stdin is None else stdin
        self._routes = (("stdout", STDOUT, console_out, inherited[0]), ("stderr", STDERR, console_err, inherited[1]))

    def attach(self, plan: WorkerPlan) -> Attached:
        """The directory, files and pipes of a worker about to be started.

        Needs a running loop. Raises ``OSError`` (a file, a pipe) or ``NotStarted`` (the directory, an unknown user),
        and leaves nothing open then.
        """
        make_directory(plan.directory, Identity.of(plan))
        attached = Attached(plan, self._pipes, self._null)
        attached.stdin = self._stdin
        try:
            attached.stdout, attached.stderr = [self._route(attached, *route) for route in self._routes]
        except BaseException:
            attached.abort()
            raise
        return attached

    def close(self) -> None:
        """Everything that can still be read is read, written and closed. Idempotent; the consoles stay open."""
        self._pipes.close()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1

    def _route(self, attached: Attached, name: str, bit: int, console: Console | None, inherited: int) -> int:
        """The descriptor that is the stream ``name`` of the worker (torch's rules: ``DefaultLogsSpecs.reify``)."""
        plan = attached.plan
        logs, rank = plan.logs, plan.local_rank
        shown = not logs.local_ranks_filter or rank in logs.local_ranks_filter
        teed = bool(logs.tee[rank] & bit)
        if not teed and not logs.redirects[rank] & bit:
            return inherited if shown else self._null
        file = _open_log(f"{plan.directory}/{name}.log")
        if not teed or not shown or console is None:
            attached.child_ends.append(file)
            return file
        losses = Losses(plan.labels, name, self.log_dropped_bytes, self._on_dropped)
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(file)
            raise
        os.set_blocking(reading, False)
        attached.child_ends.append(writing)
        pipe = Pipe(reading, (plan.labels["group"], name), LogFile(file, losses))
        attached.teed.append((pipe, console, losses))
        self._pipes.add(pipe)
        return writing


class Attached:
    """What one worker is started with, and what it writes then. No call raises, and a second one changes nothing.

    ``stdin``, ``stdout`` and ``stderr`` are descriptors for the child; they are ours to close.
    """

    __slots__ = ("_pipes", "child_ends", "plan", "stderr", "stdin", "stdout", "teed")

    def __init__(self, plan: WorkerPlan, pipes: Pipes, null: int) -> None:
        self.plan = plan
        self.stdin = self.stdout = self.stderr = null
        self.child_ends: list[int] = []
        self.teed: list[tuple[Pipe, Console, Losses]] = []
        self._pipes = pipes

    def started(self, pid: int) -> None:
        """The worker has its descriptors: ours of them are closed, and what it writes is read from here on."""
        if not self.child_ends:
            return
        self._close_child_ends()
        prefix = substitute(self.plan.logs.prefix, {**self.plan.labels, "pid": str(pid)})
        for pipe, console, losses in self.teed:
            pipe.sinks += (ConsoleLines(console, os.fsencode(prefix), losses),)
            self._pipes.flow(pipe)

    def abort(self) -> None:
        """The start has failed: everything opened for it is closed."""
        self.close()

    def drain(self) -> None:
        """What the worker has written by now is on its way to file and console."""
        for pipe, _, _ in self.teed:
            self._pipes.drain(pipe)

    def close(self) -> None:
        """What can still be read is read, to the last byte, and everything is closed.

        For when the worker's tree is gone; a process outside of it that holds a pipe is not waited for.
        """
        self._close_child_ends()
        for pipe, _, _ in self.teed:
            self._pipes.drain(pipe)
            self._pipes.end(pipe)
        self.teed.clear()

    def _close_child_ends(self) -> None:
        while self.child_ends:
            os.close(self.child_ends.pop())


def _open_log(path: str) -> int:
    """A regular file to append to.

    The directory may be the worker's user's own: what is put there in the file's place (a link, a pipe without a
    reader) must neither lead us elsewhere nor hold us up.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o640)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    os.set_blocking(fd, True)
    return fd
