"""Where the streams of this host's workers go: files, the console, journald, any of them, or where the daemon's own go.

A stream whose only reader is a file is that file: the worker writes it by itself, and the daemon does nothing. What is
copied, rotated or filtered comes through a pipe.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from supervisor.host.console import Console
from supervisor.host.disk import SETTLES_WITHIN, Disk
from supervisor.host.filtered import FilteredFile, FilteredLines
from supervisor.host.handed import HandedFile
from supervisor.host.journal import JOURNAL_SOCKET, Journal, JournalLines, entry_fields
from supervisor.host.logfile import LogFile, RotatedFile, open_log
from supervisor.host.pipes import BYTES_A_TURN, Pipe, Pipes
from supervisor.host.sinks import STAMP, ConsoleLines, Dropped, Losses, Sink, StampedLines
from supervisor.host.spawn import Identity, NotStarted, make_directory
from supervisor.host.tail import Begun, LastBlocks, last_lines
from supervisor.plan import Rotation, WorkerPlan, substitute

STDOUT, STDERR = 1, 2
"""The bits of ``Streams`` (torch.distributed.elastic.multiprocessing.api, ``Std``)."""

REOPENED_A_TURN = 64


class Output:
    """The files and pipes of all workers.

    ``console_out`` and ``console_err`` get the lines of teed streams and may be one and the same; None: the files only.
    ``inherited`` are the descriptors given to workers for streams that have no file, ``stdin`` what they read (None:
    /dev/null); these stay the caller's. ``on_dropped`` hears of what takes nothing. ``log_bytes`` (by group and stream)
    and ``log_dropped_bytes`` (by group) count what comes through pipes. ``journal_socket`` is journald's.
    """

    def __init__(
        self,
        console_out: Console | None,
        console_err: Console | None,
        *,
        inherited: tuple[int, int] = (1, 2),
        stdin: int | None = None,
        on_dropped: Callable[[Dropped], None] | None = None,
        journal_socket: str = JOURNAL_SOCKET,
    ) -> None:
        self.log_bytes: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.log_dropped_bytes: defaultdict[str, int] = defaultdict(int)
        self._on_dropped = on_dropped
        self._pipes = Pipes(self.log_bytes, self._settle)
        self._consoles = {id(console): console for console in (console_out, console_err) if console is not None}
        for console in self._consoles.values():
            console.on_room = self._pipes.wake
        self._files: set[HandedFile] = set()
        self._disks: defaultdict[int, Disk] = defaultdict(Disk)
        self._filtered: dict[str, FilteredFile] = {}
        self._journal_socket = journal_socket
        self._journal: Journal | None = None
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

    def reopen(self) -> None:
        """Whatever file we write is opened anew by its name: somebody has moved it away (logrotate(8)).

        A thousand at a time would hold up the loop: it turns in between.
        """
        self._reopen(iter(tuple(self._files)))

    def close(self) -> None:
        """Everything that can still be read is read, written and closed. Idempotent; the consoles stay open.

        A disk that does not answer by then is not waited for: what it was to take is counted as lost.
        """
        self._pipes.close()
        for disk in self._disks.values():
            disk.close()
        self._disks.clear()
        while self._files:
            self._files.pop().abandon()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._null >= 0:
            os.close(self._null)
            self._null = -1

    def _settle(self) -> None:
        """No disk is more than a turn behind, unless it hangs: only so far does reading ahead of it pay.

        With more under way, a block has left the processor's cache by the time it is written.
        """
        for disk in self._disks.values():
            if disk.behind > BYTES_A_TURN:
                disk.settle(SETTLES_WITHIN)
        for console in self._consoles.values():
            console.settle(BYTES_A_TURN)

    def _reopen(self, files: Iterator[HandedFile]) -> None:
        some = list(islice(files, REOPENED_A_TURN))
        for file in some:
            file.reopen()
        if some:
            asyncio.get_running_loop().call_soon(self._reopen, files)

    def _route(self, attached: Attached, name: str, bit: int, console: Console | None, inherited: int) -> int:
        """The descriptor that is the stream ``name`` of the worker (torch's rules: ``DefaultLogsSpecs.reify``)."""
        plan = attached.plan
        logs = plan.logs
        path, teed, shown = _place(plan, name, bit)
        has_file = bool(path)
        if not has_file and not logs.journal:
            return inherited if shown else self._null
        followed = teed and shown
        texts = (logs.duplicate_stdout_filters if bit == STDOUT else logs.duplicate_stderr_filters) if followed else ()
        if not followed or console is None:
            console = None
            if not texts and not logs.rotate.max_bytes and not logs.journal:
                file = open_log(path)
                attached.child_ends.append(file)
                if bit == STDERR:
                    attached.errors = Begun.of(path, file)
                return file
        stream = Stream(plan, name, console, texts, self._losses(plan, name))
        attached.streams.append(stream)
        if has_file:
            stream.file = self._log_file(plan, path, stream.losses)
            self._files.add(stream.file)
        if bit == STDERR:
            attached.errors = stream.remember()
        if texts:
            stream.filtered = self._filtered_file(plan, name)
        if logs.journal:
            if self._journal is None:
                self._journal = Journal(self._journal_socket)
            stream.journal = self._journal, self._losses(plan, name, "journal")
        reading, writing = os.pipe2(os.O_CLOEXEC)
        attached.child_ends.append(writing)
        os.set_blocking(reading, False)
        stream.open(Pipe(reading, (plan.labels["group"], name)), self._pipes)
        return writing

    def _losses(self, plan: WorkerPlan, name: str, into: str = "") -> Losses:
        return Losses(plan.labels, name, self.log_dropped_bytes, self._on_dropped, into)

    def _log_file(self, plan: WorkerPlan, path: str, losses: Losses) -> HandedFile:
        patient = plan.logs.when_full == "block"
        opened = partial(_opened, plan, path, plan.logs.rotate)
        return HandedFile(
            self._disk_of(path), opened, losses,
            patient=patient, on_room=self._pipes.wake, on_closed=self._files.discard,
        )  # fmt: skip

    def _disk_of(self, path: str) -> Disk:
        """Each file system has a thread: one that does not answer must not hold up the others."""
        return self._disks[os.stat(os.path.dirname(path)).st_dev]

    def _filtered_file(self, plan: WorkerPlan, name: str) -> FilteredFile:
        """The file for that stream of all ranks of an attempt, with one user more."""
        path = f"{os.path.dirname(plan.directory)}/filtered_{name}.log"
        if plan.places is not None:
            path = plan.places.filtered_stdout if name == "stdout" else plan.places.filtered_stderr
        file = self._filtered.get(path)
        if file is None:
            losses = self._losses(plan, name, f"filtered_{name}.log")
            file = FilteredFile(
                self._disk_of(path), partial(_opened, plan, path, Rotation()), losses,
                patient=plan.logs.when_full == "block", on_room=self._pipes.wake,
                on_closed=self._files.discard, left=partial(self._filtered.pop, path),
            )  # fmt: skip
            self._filtered[path] = file
            self._files.add(file)
        file.users += 1
        return file


class Stream:
    """One stream of one worker that comes through a pipe, and all that it goes to."""

    __slots__ = ("_console", "_last", "_texts", "file", "filtered", "journal", "losses", "name", "pipe", "plan")

    def __init__(
        self, plan: WorkerPlan, name: str, console: Console | None, texts: tuple[str, ...], losses: Losses
    ) -> None:
        self.plan = plan
        self.name = name
        self.losses = losses
        self.file: HandedFile | None = None
        self.filtered: FilteredFile | None = None
        self.journal: tuple[Journal, Losses] | None = None
        self.pipe: Pipe | None = None
        self._console = console
        self._texts = texts
        self._last: LastBlocks | None = None

    def remember(self) -> LastBlocks:
        """The end of the stream is kept: no file has it."""
        self._last = LastBlocks()
        return self._last

    def open(self, pipe: Pipe, pipes: Pipes) -> None:
        """The pipe is ours, and what comes through it goes to the file. Raises ``OSError``; ``close`` it then, too."""
        self.pipe = pipe
        pipe.sinks = tuple(sink for sink in (self.file, self._last) if sink is not None)
        if self.plan.logs.when_full == "block":
            pipe.gate = self._takes_more
        elif self.file is not None or self._console is not None:
            pipe.gate = self._keeps_up
        pipes.add(pipe)

    def started(self, pid: int) -> None:
        """The prefix can be said now, and with it all lines."""
        assert self.pipe is not None
        self.pipe.sinks += tuple(self._lines(pid))

    def close(self, pipes: Pipes) -> None:
        """What is in the pipe is read, and what cannot be written now is dropped."""
        if self.pipe is None:
            if self.file is not None:
                self.file.give_up()
                self.file.finish()
        elif self.pipe.fd >= 0:
            self.pipe.gate = None
            if self.file is not None:
                self.file.give_up()
            pipes.drain(self.pipe)
            pipes.end(self.pipe)
        if self.filtered is not None:
            self.filtered.leave()
            self.filtered = None

    def settle(self) -> None:
        """What was written can be read, unless a disk is slow."""
        if self.file is not None:
            self.file.settle()
        if self._console is not None:
            self._console.settle()

    def _lines(self, pid: int) -> Iterator[Sink]:
        logs = self.plan.logs
        words = {**self.plan.labels, "pid": str(pid), "timestamp": STAMP}
        prefix = os.fsencode(substitute(logs.prefix, words))
        if self._console is not None:
            kind = StampedLines if STAMP.encode() in prefix else ConsoleLines
            shown = self._console.prefix(prefix, int(self.plan.labels["rank"]))
            yield kind(self._console, shown, self.losses)
        if self.filtered is not None:
            yield FilteredLines(self.filtered, self._texts, prefix, self.losses)
        if self.journal is not None:
            journal, losses = self.journal
            yield JournalLines(journal, entry_fields(self.plan, self.name, pid), losses)

    def _takes_more(self) -> bool:
        """Whether files and console take what is read next. journald is never waited for: it may be waiting for us."""
        files = (self.file, self.filtered)
        return all(file is None or file.takes_more() for file in files) and (
            self._console is None or self._console.takes_more()
        )

    def _keeps_up(self) -> bool:
        """Whether disks are no further behind than they may be, or so far that they are not waited for."""
        return (self.file is None or self.file.takes_more()) and (self._console is None or self._console.keeps_up())


class Attached:
    """What one worker is started with, and what it writes then. No call raises, and a second one changes nothing.

    ``stdin``, ``stdout`` and ``stderr`` are descriptors for the child; they are ours to close.
    """

    __slots__ = ("_pipes", "child_ends", "errors", "plan", "stderr", "stdin", "stdout", "streams")

    def __init__(self, plan: WorkerPlan, pipes: Pipes, null: int) -> None:
        self.plan = plan
        self.stdin = self.stdout = self.stderr = null
        self.child_ends: list[int] = []
        self.errors: Begun | LastBlocks | None = None
        self.streams: list[Stream] = []
        self._pipes = pipes

    def started(self, pid: int) -> None:
        """The worker has its descriptors: ours of them are closed, and what it writes is read from here on."""
        if not self.child_ends:
            return
        self._close_child_ends()
        for stream in self.streams:
            stream.started(pid)
            assert stream.pipe is not None
            self._pipes.flow(stream.pipe)

    def abort(self) -> None:
        """The start has failed: everything opened for it is closed."""
        self.close()

    def drain(self) -> None:
        """What the worker has written by now is on its way to file and console."""
        for stream in self.streams:
            if stream.pipe is not None:
                self._pipes.drain(stream.pipe)

    def stderr_tail(self) -> str:
        """The last lines of the worker's stderr; nothing where we never see it, or its file cannot be read."""
        if self.errors is None:
            return ""
        try:
            return last_lines(self.errors.end())
        except OSError:  # removed, or the disk fails: a failure is told without it
            return ""

    def close(self) -> None:
        """What can still be read is read, to the last byte, and everything is closed.

        For when the worker's tree is gone; a process outside of it that holds a pipe is not waited for.
        """
        self._close_child_ends()
        for stream in self.streams:
            stream.close(self._pipes)
        for stream in self.streams:
            stream.settle()
        self.streams.clear()

    def _close_child_ends(self) -> None:
        while self.child_ends:
            os.close(self.child_ends.pop())


def _place(plan: WorkerPlan, name: str, bit: int) -> tuple[str, bool, bool]:
    """The file of that stream ("": none), whether it is copied to the console, and whether that shows this worker."""
    logs, rank, places = plan.logs, plan.local_rank, plan.places
    if places is not None:
        path = places.stdout if bit == STDOUT else places.stderr
        nowhere = path == os.devnull
        return "" if nowhere else path, bool(places.tee & bit), not nowhere
    teed = bool(logs.tee[rank] & bit)
    path = f"{plan.directory}/{name}.log" if teed or logs.redirects[rank] & bit else ""
    return path, teed, not logs.local_ranks_filter or rank in logs.local_ranks_filter


def _opened(plan: WorkerPlan, path: str, rules: Rotation, losses: Losses) -> LogFile:
    """The log file of that name, as the worker's plan wants it. Raises ``OSError``."""
    open_file = partial(_open_again, plan)
    patient = plan.logs.when_full == "block"
    if rules.max_bytes:
        return RotatedFile(path, losses, rules, open_file=open_file, patient=patient)
    return LogFile(path, losses, open_file=open_file, patient=patient)


def _open_again(plan: WorkerPlan, path: str) -> int:
    """A log file of the worker; its directory is made anew if somebody has removed it. Raises ``OSError``."""
    try:
        return open_log(path)
    except FileNotFoundError:
        try:
            make_directory(plan.directory, Identity.of(plan))
        except NotStarted as why:
            raise OSError(errno.ENOENT, why.reason, path) from why
        return open_log(path)
