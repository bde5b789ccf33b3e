"""A small process that outlives the daemon by a moment and takes its workers along.

Needed where no control group does it: a daemon that systemd has started as a service dies with its whole unit, by
KillMode= (systemd.kill(5)). Everywhere else workers would run on when the daemon is killed, or runs out of memory.
PR_SET_PDEATHSIG is no way: it needs code between fork and exec, does not reach grandchildren, and is sent when the
thread ends that made the child.

The guardian waits for the end of a pipe that only the daemon holds, or for the daemon's pidfd: a child on its way to
exec(2) on a hung file system holds the pipe as well. Nothing wakes it before, and all that it will need is in memory
from the start. When all is over in order the daemon, whose child it is, simply kills it.

It is a program of its own rather than a fork: that takes 5 MiB and not 8 (a daemon that goes on writes to nearly every
page that the two had shared), and it can be done again when the guardian has died.

``ps`` shows it as "guardian" and the pid of its daemon, and no more: ``pkill -9 rankd`` should not get both.
"""

from __future__ import annotations

import os
import select
import signal as signals
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from supervisor.host import leftovers, state
from supervisor.host.leftovers import WITHIN, Search
from supervisor.host.proc import Ended, open_proved, read_process
from supervisor.host.state import Daemon, State

if TYPE_CHECKING:
    import asyncio

TRIES = 5
"""So often another one is started after one that was younger than ``STEADY`` seconds."""

STEADY = 60.0

_PATIENCE = 2.0  # seconds for it to come up and to go, beside its work
_DYING = 1.0  # seconds from its first closed file to the end of a process; a ward that closes our pipe itself lives on
_PAUSE = 0.1  # seconds, doubled with each try
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from supervisor.host.guardian import main; sys.exit(main(sys.argv[2:]))"
)


def is_needed(environ: Mapping[str, str], pid: int) -> bool:
    """False for the main process of a systemd service, which is known by SYSTEMD_EXEC_PID (systemd.exec(5), since 248).

    The other variables of systemd are inherited by everything in a desktop's terminals, and by children of services.
    A systemd too old to set it gets a guardian, which does no harm: the unit's end is its end as well. That workers
    live on under KillMode=process is the administrator's word; the next start ends them.
    """
    return not ("INVOCATION_ID" in environ and environ.get("SYSTEMD_EXEC_PID") == str(pid))


# ---- the daemon's side


class Guardian:
    """The guardian of this process, from now until ``close``; another one when it dies."""

    def __init__(
        self,
        ward: Daemon,
        directory: str,
        loop: asyncio.AbstractEventLoop,
        leave_alone: Callable[[int], None],
        lost: Callable[[str, bool], None],
        ground: str = "",
    ) -> None:
        """``directory``, absolute: where the ward's state is. ``ground``: the control group of its
        workers, if they have any. ``leave_alone`` is told each guardian's pid, our child.

        ``lost`` is told why there is no guardian now, and whether another is tried. Nothing here raises.
        """
        self.pid = 0
        """0 while there is none."""
        self._words = [_ROOT, "guardian", "of", *map(str, ward), directory, ground]
        self._loop = loop
        self._leave_alone = leave_alone
        self._lost = lost
        self._pidfd = self._pipe = -1
        self._began_at = 0.0
        self._tries = 0
        self._again: asyncio.TimerHandle | None = None
        self._start()

    def close(self, *, in_order: bool) -> None:
        """It is gone afterwards; unless all is ``in_order``, not before it has ended what is left."""
        if self._again is not None:
            self._again.cancel()
        if not self.pid:
            return
        if not in_order:
            os.close(self._pipe)
            self._pipe = -1
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll((WITHIN + _PATIENCE) * 1000)
        os.kill(self.pid, signals.SIGKILL)
        self._reap()

    def _start(self) -> None:
        self._again = None
        self._began_at = self._loop.time()
        try:
            self._spawn()
        except OSError as error:
            self._failed(f"it cannot be started: {error.strerror}")

    def _spawn(self) -> None:
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        try:
            # Its own session, so that no terminal's Ctrl-C reaches it; all signals blocked, from birth and for good
            pid = os.posix_spawn(
                sys.executable, [sys.executable, "-I", "-S", "-c", _PROGRAM, *self._words], os.environ,
                setsid=True, setsigmask=signals.valid_signals(),
                file_actions=((os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)),
            )  # fmt: skip
            self._leave_alone(pid)
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                os.kill(pid, signals.SIGKILL)
                os.waitpid(pid, 0)
                raise
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self.pid, self._pipe = pid, ours
        self._loop.add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        code = os.waitstatus_to_exitcode(self._reap())
        self._failed(f"it was killed by signal {-code}" if code < 0 else f"it exited with code {code}")

    def _reap(self) -> int:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        pid, self.pid = self.pid, 0
        return os.waitpid(pid, 0)[1]

    def _failed(self, why: str) -> None:
        self._tries = 1 if self._loop.time() - self._began_at >= STEADY else self._tries + 1
        again = self._tries <= TRIES
        self._lost(why, again)
        if again:
            pause = _PAUSE * 2**self._tries if self._tries > 1 else 0
            self._again = self._loop.call_later(pause, self._start)


# ---- its own


def main(words: Sequence[str]) -> int:
    """The guardian's life.

    ``words``: "guardian of", the fields of its ward, the directory of the ward's state, the control group
    of its workers.
    """
    _, _, pid, started, session, mark, directory, ground = words
    ward = Daemon(int(pid), int(started), int(session), mark)
    os.chdir("/")
    with open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write("guardian")
    end_leaves = _end_leaves() if ground else None
    _outlive(ward)
    first = Ended() if end_leaves is None else end_leaves(ground)
    found = state.read(directory)
    # another's: the next daemon was faster than we are
    record = found if isinstance(found, State) and found.daemon == ward else None
    then = leftovers.end(Search(ward, record))
    _say(ward, Ended(first.killed + then.killed, first.left + then.left))
    return 0


def _end_leaves() -> Callable[[str], Ended]:
    from supervisor.host.ground import end_leaves  # noqa: PLC0415 - most have no control groups, and memory is dear here

    return end_leaves


def _outlive(ward: Daemon) -> None:
    """Wait for the ward's end."""
    process = read_process(ward.pid)
    pidfd = open_proved(process) if process is not None and process.started == ward.started else None
    if pidfd is not None:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        poll.poll()
        # The pipe may be closed before the other files of one that dies, of which one is the lock on its control group
        poll.unregister(0)
        poll.poll(_DYING * 1000)
        os.close(pidfd)


def _say(ward: Daemon, ended: Ended) -> None:
    """A line for people, if anybody takes it: records have ended with the daemon."""
    if not ended.killed and not ended.left:
        return
    line = f"rankd: the daemon (pid {ward.pid}) has died; processes of its workers killed: {len(ended.killed)}"
    if ended.left:
        line += f"; still there after {WITHIN:g} s: {', '.join(map(str, ended.left[:8]))}"
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with suppress(OSError):
        if poll.poll(0):
            os.write(2, f"{line}\n".encode(errors="replace"))
