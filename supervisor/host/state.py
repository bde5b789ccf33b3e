"""``state.json``: what the next daemon in this directory has to know about us, should we die without a word.

It says who we are and which workers run, each by number and start time. Written again when that changes, at most once
in ``EVERY`` seconds: a worker too young to be in it is known by its mark. A daemon that ends in order removes it.

It is replaced by rename(2), so that whoever is killed leaves the old one or the new one. There is no fsync(2) in it:
what a power failure could lose is about processes that it ended as well.

Nothing read from it is believed before it is checked (``parse``). The guardian imports this module, so that it imports
little itself.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.host.proc import read_process
from supervisor.host.replaced import replace_file

if TYPE_CHECKING:
    import asyncio

    from supervisor.host.disk import Disk

NAME = "state.json"
VERSION = 1
LIMIT = 1 << 24
"""Bytes that are read at most; ten thousand workers take one million."""

EVERY = 0.1
"""Seconds from one writing to the next, at least."""

AGAIN = 5.0
"""Seconds until a writing that failed is tried again, while nothing else changes."""

_MARK = re.compile(r"[0-9a-f]{12}", re.ASCII)
_BOOT = re.compile(r"[0-9a-f-]{36}", re.ASCII)
_MOST = 2**63
_PIDS = 2**22 + 1  # PID_MAX_LIMIT
_LONGEST = 4096


class Daemon(NamedTuple):
    """A daemon, dead or alive. ``started`` as in ``proc.Process``; ``mark`` is its own part of its workers' marks."""

    pid: int
    started: int
    session: int
    mark: str


class Recorded(NamedTuple):
    """A worker that ran when the state was written: ``pid`` is the leader of its session, not reaped then."""

    group: str
    rank: int
    attempt: int
    pid: int
    started: int


class State(NamedTuple):
    """What the file says. ``written_at`` in clock ticks since boot, like start times; ``directory``: device, inode."""

    boot_id: str
    directory: tuple[int, int]
    daemon: Daemon
    run_id: str
    written_at: int
    workers: tuple[Recorded, ...]


class Refused(NamedTuple):
    """There is a file, it is not to be believed, and why."""

    reason: str


class Held(NamedTuple):
    """Another daemon works in this directory; ``by`` is its pid and host, as it has written them itself."""

    by: str


def this_daemon(mark: str) -> Daemon:
    """Ourselves."""
    me = read_process(os.getpid())
    assert me is not None, "we run, and /proc is there"
    return Daemon(me.pid, me.started, me.session, mark)


def boot_id() -> str:
    """The name of this boot of the machine (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def ticks() -> int:
    """This instant as start times are told: in clock ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


# ---- one daemon a directory


def hold(directory: str) -> int | Held:
    """Be the one daemon of that directory for as long as the returned descriptor is open.

    Its lock ends with the process, however that ends (flock(2)). Raises ``OSError`` where there cannot be a lock.
    """
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.read(lock, 300).decode("ascii", "replace").strip()
            os.close(lock)
            return Held(said if said.isprintable() and said else "not known by pid")
        with suppress(OSError):  # a full disk: the lock holds, whatever can be written about it
            os.ftruncate(lock, 0)
            os.write(lock, f"pid {os.getpid()} on {os.uname().nodename}\n".encode("ascii", "replace"))
    except BaseException:
        os.close(lock)
        raise
    return lock


# ---- reading


def read(directory: str) -> State | Refused | None:
    """What a daemon of this directory has left; None if it left nothing. Never raises for what is in the file."""
    try:
        # not blocked by a pipe of that name, nor led elsewhere by a link
        file = os.open(os.path.join(directory, NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Refused(f"it cannot be read: {error.strerror}")
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            return Refused("it is not a file")
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            return Refused("others can write it")
        with open(file, "rb", closefd=False) as whole:
            data = whole.read(LIMIT + 1)
        state = parse(data)
    except OSError as error:
        return Refused(f"it cannot be read: {error.strerror}")
    except ValueError as error:
        return Refused(str(error))
    finally:
        os.close(file)
    if state.directory != _place(directory):
        return Refused("it was written for another directory, and copied here")
    return state


def parse(data: bytes) -> State:
    """Raises ``ValueError``, and nothing else, for whatever is not exactly what ``StateFile`` writes."""
    if len(data) > LIMIT:
        raise ValueError(f"it is longer than {LIMIT} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    version = _dict(found, None).get("version")
    if version != VERSION or type(version) is not int:
        raise ValueError(f"its version is not {VERSION}")
    found = _dict(found, ("version", "boot_id", "directory", "run_id", "daemon", "written_at", "workers"))
    directory, workers = _list(found["directory"]), _list(found["workers"])
    if len(directory) != 2:
        raise ValueError("a directory is a device and an inode")
    device, inode = (_number(one) for one in directory)
    daemon = _dict(found["daemon"], Daemon._fields)
    return State(
        boot_id=_text(found["boot_id"], _BOOT),
        directory=(device, inode),
        daemon=Daemon(
            _number(daemon["pid"], 1, _PIDS),
            _number(daemon["started"]),
            _number(daemon["session"]),
            _text(daemon["mark"], _MARK),
        ),
        run_id=_text(found["run_id"]),
        written_at=_number(found["written_at"]),
        workers=tuple(map(_recorded, workers)),
    )


def set_aside(directory: str) -> str:
    """Move the file out of the way for people to look at; the name it has then. Raises ``OSError``."""
    path = os.path.join(directory, NAME)
    os.rename(path, path + ".refused")
    return path + ".refused"


def _recorded(value: Any) -> Recorded:
    worker = _dict(value, Recorded._fields)
    return Recorded(
        _text(worker["group"]), _number(worker["rank"]), _number(worker["attempt"]),
        _number(worker["pid"], 2, _PIDS),  # 1 is nobody's worker
        _number(worker["started"]),
    )  # fmt: skip


def _dict(value: Any, keys: tuple[str, ...] | None) -> dict[str, Any]:
    if type(value) is not dict or (keys is not None and value.keys() != set(keys)):
        raise ValueError(f"there is no object with {', '.join(keys)}" if keys else "it is not an object")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError("something is not a list")
    return value


def _number(value: Any, least: int = 0, below: int = _MOST) -> int:
    if type(value) is not int or not least <= value < below:
        raise ValueError("a number is none, or out of range")
    return value


def _text(value: Any, form: re.Pattern[str] | None = None) -> str:
    if type(value) is not str or len(value) > _LONGEST or (form is not None and not form.fullmatch(value)):
        raise ValueError("a text is none, or not of its form")
    return value


# ---- writing


class StateFile:
    """Our own ``state.json``, written at once and kept current until ``close``.

    Nothing here raises, and after the first writing nothing waits. A disk that takes nothing is told once, as
    ``troubled(error)``, and ``troubled(None)`` when it takes the state again. ``close`` closes ``disk`` as well.
    """

    def __init__(
        self,
        directory: str,
        daemon: Daemon,
        run_id: str,
        loop: asyncio.AbstractEventLoop,
        troubled: Callable[[OSError | None], None],
        disk: Disk,
    ) -> None:
        self._directory = directory
        self._path = os.path.join(directory, NAME)
        self._loop = loop
        self._troubled = troubled
        self._disk = disk
        self._head = {"version": VERSION, "boot_id": boot_id(), "run_id": run_id, "daemon": daemon._asdict()}
        self._workers: dict[tuple[str, int], str] = {}
        self._new: dict[tuple[str, int], tuple[int, int]] = {}
        self._due: asyncio.TimerHandle | None = None
        self._written_at = 0.0
        self._writing = self._stale = self._short = self._in_trouble = self._closed = False
        self._written(self._replace(""))

    def started(self, group: str, rank: int, attempt: int, pid: int) -> None:
        """That worker runs as the process ``pid``, our child, which is not reaped before ``ended``."""
        # Looked at with the next writing: at this moment it is on its way through exec(2), and /proc would let us wait
        self._new[group, rank] = attempt, pid
        self._change()

    def ended(self, group: str, rank: int) -> None:
        """The worker's own process has been reaped: its number may be another's from now on."""
        if self._new.pop((group, rank), None) is None and self._workers.pop((group, rank), None) is not None:
            self._change()

    def close(self, *, in_order: bool) -> None:
        """Write no more. ``in_order``: nothing of ours is left, so there is nothing that the next one has to know."""
        self._closed = True
        if self._due is not None:
            self._due.cancel()
        if self._disk.close() and in_order:
            with suppress(OSError):  # it names nothing that still runs
                os.unlink(self._path)

    def _change(self) -> None:
        if self._writing:
            self._stale = True
        elif self._due is None:
            self._due = self._loop.call_at(max(self._loop.time(), self._written_at + EVERY), self._write)

    def _write(self) -> None:
        self._due = None
        self._look_at_new()
        self._writing = True
        self._disk.do(self._replace_and_tell, ",\n".join(self._workers.values()))

    def _replace_and_tell(self, workers: str) -> None:
        self._disk.tell(self._written, self._replace(workers))

    def _replace(self, workers: str) -> OSError | None:
        try:
            replace_file(self._path, self._text(workers))
        except OSError as error:
            return error
        return None

    def _written(self, error: OSError | None) -> None:
        self._writing = False
        if self._closed:
            return
        self._written_at = self._loop.time()
        short = error is not None and error.errno == errno.EMFILE and not self._short
        self._short = short
        if error is not None:
            # A start borrows our limit of open files for a moment: see ``Spawner.beside_threads``
            self._due = self._loop.call_later(EVERY if short else AGAIN, self._write)
        elif self._stale:
            self._change()
        self._stale = False
        if not short and self._in_trouble != (error is not None):
            self._in_trouble = error is not None
            self._troubled(error)

    def _look_at_new(self) -> None:
        for (group, rank), (attempt, pid) in list(self._new.items()):
            try:
                process = read_process(pid)
            except OSError:
                continue  # short of descriptors, as the writing will be: once more with the next
            del self._new[group, rank]
            if process is not None:
                self._workers[group, rank] = (
                    f'{{"group": {json.dumps(group)}, "rank": {rank}, "attempt": {attempt}, '
                    f'"pid": {pid}, "started": {process.started}}}'
                )

    def _text(self, workers: str) -> bytes:
        head = json.dumps(self._head | {"directory": _place(self._directory), "written_at": ticks()})
        return f'{head[:-1]}, "workers": [\n{workers}\n]}}\n'.encode()


def _place(directory: str) -> tuple[int, int]:
    about = os.stat(directory)
    return about.st_dev, about.st_ino
