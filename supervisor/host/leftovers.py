"""What a daemon that has died left behind is found, and ended with SIGKILL.

Without the daemon nothing comes to it any more: orphans have gone to init, and descent is cut off at the top. What is
left of a worker is told, to a fixed point, by

- the record: the pid and start time that ``state.json`` has of it;
- the mark in its environment, unless that is written over;
- its session: nobody can enter one (setsid(2) only founds them), so its members come from its founder;
- its parent, if that is one of these.

A process that has none of them (a session of its own, no parent, a foreign environment) is not found. Never taken is
what is older than the daemon, or belongs to the session of the daemon or of whoever looks: no worker is in there, but
the people are who started it. Nobody is asked to end: whoever was to stop in order was stopped by the daemon.
"""

from __future__ import annotations

import errno
import os
import select
import signal as signals
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from supervisor.host import state
from supervisor.host.containment import MARK
from supervisor.host.proc import OUT_OF_REACH, Ended, Process, inherited, open_proved, processes, read_process, send
from supervisor.host.state import Daemon, Refused, State

WITHIN = 10.0
"""Seconds after which what will not die is left."""

LOOK_AGAIN = 0.1
"""Seconds from one look to the next, at most, while something dies."""

SURE_AFTER = 0.05
"""Seconds after which nothing is still nothing: a process in the midst of exec(2) shows no environment."""

_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_HELD = 256  # pidfds at a time
_PROCESS_GROUP = 4  # PIDFD_SIGNAL_PROCESS_GROUP, since Linux 6.9 (pidfd_send_signal(2))


class Earlier(NamedTuple):
    """What an earlier daemon of a directory left. ``refused``: its record was not to be believed, and is ``aside``."""

    pid: int = 0
    ended: Ended = Ended()
    refused: str = ""
    aside: str = ""


def end_earlier(directory: str, within: float = WITHIN) -> Earlier:
    """End what is left of the daemon that last worked in this directory, itself included, in ``within`` seconds.

    For the one who holds the directory (``state.hold``). After another boot nothing can be left, and nothing is
    signalled. Raises ``OSError`` only for /proc itself.
    """
    found = state.read(directory)
    if isinstance(found, Refused):
        try:
            aside = state.set_aside(directory)
        except OSError as error:  # it stays, and is refused again next time, unless we can replace it
            aside = f"where it was: {error.strerror}"
        return Earlier(refused=found.reason, aside=aside)
    if found is None or found.boot_id != state.boot_id():
        return Earlier()
    pid, started, _, _ = found.daemon
    daemon = read_process(pid) if pid not in (1, os.getpid()) else None
    if daemon is not None and daemon.started == started:  # on its way out, or its lock file was taken from under it
        send(daemon, signals.SIGKILL)
    return Earlier(pid, end(Search(found.daemon, found), within))


def end(search: Search, within: float = WITHIN) -> Ended:
    """Kill what the search finds until it finds nothing, twice; give up after ``within`` seconds."""
    give_up_at = time.monotonic() + within
    killed: dict[tuple[int, int], Process] = {}
    found: list[Process] = []
    quiet = 0
    while quiet < 2 and time.monotonic() < give_up_at:
        dying: list[int] = []
        try:
            found = search.look()
            for process in found:
                if process.identity in killed:
                    continue
                pidfd = open_proved(process)
                if pidfd is not None:  # else it went with the group of another
                    dying.append(pidfd)
                    _kill(process, pidfd)
                    if len(dying) > _HELD:
                        os.close(dying.pop(0))
                killed[process.identity] = process
            quiet = 0 if found else quiet + 1
            if quiet < 2:
                _wait(dying, LOOK_AGAIN if found else SURE_AFTER)
        except OSError as error:
            if error.errno not in _SHORTAGE:
                raise
            _wait([], LOOK_AGAIN)
        finally:
            for pidfd in dying:
                os.close(pidfd)
    return Ended(tuple(killed.values()), tuple(found))


class Search:
    """For what is left of one daemon. Remembers what it has found: a process may lose what it was known by."""

    def __init__(self, daemon: Daemon, record: State | None = None) -> None:
        self._daemon = daemon
        self._me = os.getpid()
        self._session = os.getsid(0)
        workers = record.workers if record else ()
        self._known = {(worker.pid, worker.started) for worker in workers}
        self._sessions = {worker.pid for worker in workers}
        self._written_at = record.written_at if record else 0

    def look(self) -> list[Process]:
        """What is there of it and alive at this moment. Raises ``OSError`` when short of descriptors."""
        census = {process.pid: process for process in processes(besides=(self._me,))}
        ours: dict[int, Process] = {}
        others = []
        for process in census.values():
            if process.dead or process.started < self._daemon.started or self._is_foreign(process, census):
                continue
            if self._is_proved(process):
                ours[process.pid] = process
            else:
                others.append(process)
        while grown := _akin(others, ours, census):
            ours |= {process.pid: process for process in grown}
            others = [process for process in others if process.pid not in ours]
        self._known.update(process.identity for process in ours.values())
        return list(ours.values())

    def _is_foreign(self, process: Process, census: dict[int, Process]) -> bool:
        """In our session or the daemon's. The latter's number may be given anew; a younger leader tells."""
        if process.session == self._session:
            return True
        leader = census.get(process.session)
        is_old = leader is None or leader.started <= self._daemon.started
        return process.session == self._daemon.session and is_old and process.identity not in self._known

    def _is_proved(self, process: Process) -> bool:
        """By itself, whatever its relations are.

        A recorded worker had its number to itself when the record was written, and its session with it: who is in that
        session and was there by then has been in it ever since it was forked.
        """
        if process.identity in self._known:
            return True
        if process.session in self._sessions and process.started <= self._written_at:
            return True
        mark = inherited(process.pid, MARK)
        return any(part.startswith(f"{self._daemon.mark}.") for part in mark.split("/"))


def _akin(others: list[Process], ours: dict[int, Process], census: dict[int, Process]) -> list[Process]:
    """Those of the others that are children of ours, or in a session that is.

    A session is its living leader's, whoever else is in it: in a shell somebody may work with a copied environment.
    """
    sessions = {process.session for process in ours.values()}

    def is_akin(process: Process) -> bool:
        leader = census.get(process.session)
        if process.parent in ours:
            return True
        return process.session in (sessions if leader is None or leader.dead else ours)

    return [process for process in others if is_akin(process)]


def _kill(process: Process, pidfd: int) -> None:
    """The founder of a session goes together with all of its process group: however fast that forks, none gets away."""
    with suppress(*OUT_OF_REACH):
        if process.session == process.pid:
            try:
                signals.pidfd_send_signal(pidfd, signals.SIGKILL, None, _PROCESS_GROUP)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return
        signals.pidfd_send_signal(pidfd, signals.SIGKILL)


def _wait(pidfds: Sequence[int], seconds: float) -> None:
    """Return when all of these have ended, or when the time is over; with none of them, only then."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = len(pidfds)
    until = time.monotonic() + seconds
    while (left or not pidfds) and (remains := until - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(remains * 1000):
            poll.unregister(pidfd)
            left -= 1
