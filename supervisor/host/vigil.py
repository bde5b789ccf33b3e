"""One group's watchdog at work: what its workers say goes into the table, and what falls due comes out of it.

It sleeps until the nearest deadline and wakes for nothing else but words. A deadline that has moved away meanwhile is
looked at in vain once, which is cheaper than setting the loop's timer anew for every heartbeat.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from supervisor import clock
from supervisor.core.learning import Learnt
from supervisor.core.messages import Worker
from supervisor.core.timers import TimerExpired, TimerRequest
from supervisor.core.watchdog import Expired, Notice, Told, Watchdog
from supervisor.host.notify import NotifySocket
from supervisor.host.proc import Process, read_process
from supervisor.host.timer_pipe import TimerPipe
from supervisor.plan import WatchdogRules

LATE = 1.0
"""Seconds from which on a wake-up that comes late means that we have not been running (SIGSTOP, a frozen cgroup)."""

AGAIN = 0.1
"""Seconds until a timer is looked at again whose process could not be."""

_TICK = 1 / os.sysconf("SC_CLK_TCK")


class Vigil:
    """The doors and deadlines of one group. Lives in one event loop, from before the first worker to after the last.

    ``environment`` is what each worker is to be given, on top of its own.
    """

    def __init__(
        self,
        rules: WatchdogRules,
        directory: str,
        *,
        whose: Callable[[Process], Worker | None],
        found: Callable[[Worker, Expired], None],
        refused: Callable[[TimerExpired], None],
        ready: Callable[[Worker], None],
        stopping: Callable[[Worker], None],
        stood_still: Callable[[float], None],
        learnt: Callable[[], None] = lambda: None,
        probed: bool = False,
        ran: Callable[[float], float] = lambda _by: float("-inf"),
        user: tuple[int, int] | None = None,
    ) -> None:
        """``directory`` is the group's own. ``whose`` says which worker's tree a process is in.

        ``found`` is told of each worker found silent, once, and of each timer of a living process of it; a timer with
        signal 0 is only to be reported. ``refused`` is told of a timer whose process is nobody's, ``ready`` of each
        worker's first READY=1, ``stopping`` of its first STOPPING=1, ``stood_still`` of how long we had not been
        running when nobody was held to be late. ``learnt`` is told when more is known of how long sections take.
        ``ran`` says at which last instant up to the given one the loop was running, as far as is known. ``probed``: a
        probe is asked whether a worker is ready. Raises ``OSError`` and leaves nothing open then.
        """
        self._dog = Watchdog(rules, probed=probed)
        self._whose = whose
        self._found = found
        self._refused = refused
        self._ready = ready
        self._stopping = stopping
        self._stood_still = stood_still
        self._learnt = learnt
        self._ran = ran
        self._leaders: dict[int, Worker] = {}
        self._spoke = 0  # the process whose words are being heard
        self._alarm: asyncio.TimerHandle | None = None
        self._turned_at = clock.now()
        self._foreign_timers = 0
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._timers: TimerPipe | None = None
        self._notify: NotifySocket | None = None
        self.environment: dict[str, str] = {}
        try:
            if rules.notify:
                self._notify = NotifySocket(os.path.join(directory, "notify"), self._sender, self._hear, user=user)
                self.environment["NOTIFY_SOCKET"] = self._notify.address
                self._notify.listen()
            if rules.heartbeat:
                self.environment["WATCHDOG_USEC"] = str(int(rules.heartbeat * 1_000_000))
            if rules.timer_file:
                path = rules.timer_path or os.path.join(directory, "timers")
                self._timers = TimerPipe(path, self._request, user=user)
                self.environment["TORCHELASTIC_TIMER_FILE"] = self._timers.path
                self._timers.listen()
        except OSError:
            self.close()
            raise

    @property
    def timers(self) -> int:
        """How many of torch's timers are set."""
        return len(self._dog.timers)

    @property
    def heard(self) -> bool:
        """Whether any worker has said anything but torch's timers."""
        return self._notify is not None and self._notify.taken > 0

    @property
    def heartbeats(self) -> int:
        """How many heartbeats have been heard."""
        return self._dog.heartbeats

    @property
    def refusals(self) -> Mapping[str, int]:
        """How much was not taken, by what it was: a line of the timers' pipe, a datagram that says nothing or whose
        sender is no worker, a section that cannot be, a timer too many or of a process that is no worker's."""
        return {
            "line": self._timers.lines.refused if self._timers else 0,
            "datagram": self._notify.refused if self._notify else 0,
            "sender": self._notify.foreign if self._notify else 0,
            "section": self._dog.refused,
            "timer": self._dog.timers.refused + self._foreign_timers,
        }

    @property
    def learnt(self) -> Learnt:
        """The limits that are learnt from the group's sections."""
        return self._dog.learnt

    def go_by(self, rules: WatchdogRules) -> None:
        """From here on limits are these; see ``Watchdog.go_by``. The doors stay as they are."""
        self._dog.go_by(rules)
        self._set_alarm()

    def told(self, worker: Worker) -> Told | None:
        """What the worker has said, for people."""
        return self._dog.told(worker)

    def started(self, worker: Worker, pid: int) -> None:
        """The worker's own process is ``pid``, which stays its number until ``ended``."""
        now = clock.now()
        self._catch_up(now)
        self._leaders[pid] = worker
        self._dog.started(worker, pid, now)
        self._set_alarm()

    def found_ready(self, worker: Worker) -> None:
        """Somebody else than the worker itself says that it is ready."""
        now = clock.now()
        self._catch_up(now)
        self._dog.found_ready(worker, now)
        self._set_alarm()

    def ended(self, worker: Worker, pid: int) -> None:
        """The worker's own process has been waited for."""
        if self._leaders.get(pid) == worker:  # else the number is another's already
            del self._leaders[pid]
        self._dog.ended(worker)

    def close(self) -> None:
        """Hear and expect nothing more. Idempotent."""
        self._closed = True
        self._stop_alarm()
        if self._notify is not None:
            self._notify.close()
        if self._timers is not None:
            self._timers.close()

    # ---- words

    def _sender(self, pid: int) -> Worker | None:
        self._spoke = pid
        worker = self._leaders.get(pid)
        if worker is None and pid:
            process = self._read(pid)
            worker = self._whose(process) if process else None
        return worker

    def _hear(self, worker: Worker, notice: Notice) -> None:
        now = clock.now()
        self._catch_up(now)
        learnt_from = self._dog.learnt_from
        if self._spoke not in self._leaders and (notice.stopping or notice.heartbeat_every is not None):
            notice = notice._replace(stopping=False, heartbeat_every=None)  # of a child's own life
        became = self._dog.hear(worker, notice, now)
        if self._dog.learnt_from > learnt_from:
            self._learnt()
        self._set_alarm()
        if became == "ready":
            self._ready(worker)
        elif became == "stopping":
            self._stopping(worker)

    def _request(self, requests: list[TimerRequest]) -> None:
        now = clock.now()
        for request in requests:
            self._dog.request(request, now)
        self._catch_up(now)  # these are as old as what we were late for
        self._set_alarm()

    # ---- deadlines

    def _set_alarm(self) -> None:
        """Wake up at the nearest deadline at the latest."""
        at = self._dog.nearest()
        if self._closed or at is None or (self._alarm is not None and self._alarm.when() <= at):
            return
        self._stop_alarm()
        self._alarm = self._loop.call_at(max(at, clock.now()), self._due)  # what was due before it was set is not late

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _catch_up(self, now: float) -> None:
        """Something has woken us: if that was long after the alarm, we were not running, and nobody is late for it."""
        turned_at, self._turned_at = self._turned_at, now
        if self._alarm is None or now - self._alarm.when() <= LATE:
            return
        late_since = self._alarm.when()
        self._stop_alarm()
        if self._timers is not None:
            self._timers.drain()  # timers that were set meanwhile are put off like the others
        self._stop_alarm()
        # At most: nothing tells when it began but the last turn before it, of whatever the loop had to do.
        away_for = now - max(turned_at, self._ran(late_since))
        self._dog.put_off(away_for)
        self._stood_still(away_for)

    def _due(self) -> None:
        now = clock.now()
        self._catch_up(now)
        if self._notify is not None:
            self._notify.drain_all()  # what was said in time, and not heard because we were late, is heard first
        if self._timers is not None:
            self._timers.drain()
        for expired in self._dog.expired(now):
            self._tell(expired)
        self._stop_alarm()
        self._set_alarm()

    def _tell(self, expired: Expired) -> None:
        if not isinstance(expired, TimerExpired):
            self._found(expired.worker, expired)
            return
        try:
            process = read_process(expired.pid)
            if process is None or process.dead:
                return  # it has ended and with it what it was to do in time
            worker = self._whose(process) if _began_at(process) <= expired.set_at + _TICK else None
        except OSError:  # short of descriptors: that will not be so for ever, and a hang might
            again = TimerRequest(expired.pid, expired.scope, clock.now() + AGAIN, expired.signal)
            self._dog.timers.take(again, expired.set_at)
            return
        if worker is None:
            self._foreign_timers += 1
            self._refused(expired)
            return
        if expired.signal:
            self._dog.dismiss(worker)
        self._found(worker, expired)

    def _read(self, pid: int) -> Process | None:
        with suppress(OSError):  # short of descriptors: nothing is proved, then
            return read_process(pid)
        return None


def _began_at(process: Process) -> float:
    """When the process was forked, in monotonic seconds: /proc counts from boot, suspended time included."""
    return process.started * _TICK - (time.clock_gettime(time.CLOCK_BOOTTIME) - clock.now())
