"""Who has been silent for too long: the timers, heartbeats and sections of one group's workers in one table.

Beside the machine of the group and not in it: a thousand heartbeats a second are writes to a table, and only what it
finds out is an input of the machine. The rules, in short:

- From its start a worker has its ``boot`` limit to its first word, and ``start_timeout`` to READY=1, or to the first
  good answer to its probe. From its first word on the time outside of any section counts; a section that has no limit
  of its own is none. The time between two heartbeats counts from READY=1, the probe's good answer or the first
  heartbeat on; where none of these is waited for, from the first word that ``boot`` asks for, or else from the start.
- Sections are a stack; whichever of them is over its limit counts, however many were opened on top of it.
- A section may have a learnt limit: how long those took that ended in time tells how long the next may last.
- A worker found silent is found once. All its deadlines go with it.
- Under new rules a wider limit holds at once, a tighter one for what begins after them: nobody is ended for what was
  allowed when it began.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, assert_never

from supervisor.core.deadlines import Deadlines
from supervisor.core.learning import Learnt
from supervisor.core.messages import Overdue, Worker
from supervisor.core.timers import TimerExpired, TimerRequest, Timers
from supervisor.plan import WatchdogRules

SECTIONS = 64
"""Open sections at a time in one worker."""

Became = Literal["ready", "stopping"]


class Notice(NamedTuple):
    """What a worker has told in one datagram (sd_notify(3), and the ``X_`` fields of ours). Durations in seconds.

    ``trigger``: it has found itself to be hung. ``heartbeat_every``: from now on it is to be held to this; 0: to
    nothing. ``sections``: begun (true) and ended ones, in order.
    """

    ready: bool = False
    heartbeat: bool = False
    trigger: bool = False
    heartbeat_every: float | None = None
    extend_by: float | None = None
    status: str | None = None
    stopping: bool = False
    sections: tuple[tuple[bool, str], ...] = ()
    progress: int | None = None


HEARTBEAT = Notice(heartbeat=True)
"""The one notice that comes a thousand times a second: recognised by identity."""


class Section(NamedTuple):
    """An open section. ``limit`` 0: it has none of its own, and the time in it counts as out of any."""

    name: str
    begun_at: float
    limit: float
    number: int


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker has not said in time what it was to say. ``section`` names the section that took too long.

    ``since`` is when the limit of so many seconds began to count. ``trigger`` has limit 0: it said so itself.
    """

    worker: Worker
    what: Overdue
    since: float
    limit: float
    section: str = ""


Expired = TimerExpired | Silent


def words(expired: Expired, pid: int) -> str:
    """What the worker has or has not done, to go on after its name. ``pid`` is that of its own process."""
    if isinstance(expired, TimerExpired):
        whose = "" if expired.pid == pid else f" of its process {expired.pid}"
        return f"did not release the timer '{expired.scope}'{whose} within {expired.at - expired.set_at:.1f} s"
    limit = f"{expired.limit:g} s"
    match expired.what:
        case "boot":
            return f"has said nothing within {limit} of its start"
        case "start":
            return f"was not ready within {limit} of its start"
        case "heartbeat":
            if not expired.limit:
                return "has said that it hangs (WATCHDOG=trigger)"
            return f"has sent no heartbeat for {limit}"
        case "section":
            return f"has been in section {expired.section} for longer than {limit}"  # unquoted: /status shows it
        case "out_of_section":
            return f"has been in no section for longer than {limit}"
        case "stopping":
            return f"has not ended within {limit} of its STOPPING=1"
        case _:
            assert_never(expired.what)


@dataclass(slots=True)
class Told:
    """What one worker has told so far; an evidence for people, and no worker of ours is judged by it."""

    status: str = ""
    progress: int | None = None
    progress_at: float = 0.0
    is_ready: bool = False
    sections: list[Section] = field(default_factory=list)


class _Limit(NamedTuple):
    """The key of a worker's deadline. ``number`` tells the sections of a worker apart."""

    rank: int
    what: Overdue
    number: int = 0


class _Watched:
    """One worker under watch."""

    __slots__ = (
        "begun",
        "heard",
        "heartbeat",
        "heartbeat_key",
        "learns_after",
        "numbers",
        "over",
        "pid",
        "stopping",
        "told",
        "worker",
    )

    def __init__(self, worker: Worker, pid: int, heartbeat: float) -> None:
        self.worker = worker
        self.pid = pid
        self.heartbeat = heartbeat
        self.heartbeat_key = _Limit(worker.rank, "heartbeat")
        self.heard = False
        self.stopping = False
        self.over = False
        self.numbers = 0
        self.learns_after = 0
        self.begun: dict[_Limit, tuple[float, float]] = {}  # since when, and the limit
        self.told = Told()


class Watchdog:
    """The deadlines of one group's workers. Reads no clock: every instant comes in, and goes out.

    ``refused`` counts sections that were too many, or ended without having begun; ``timers`` has a count of its own.
    ``learnt`` are the limits learnt from sections, ``learnt_from`` how many of them were of use for that.
    """

    def __init__(self, rules: WatchdogRules, *, probed: bool = False) -> None:
        """``probed``: somebody else is asked whether a worker is ready, and calls ``found_ready``."""
        self.refused = 0
        self.heartbeats = 0
        self.timers = Timers()
        self.learnt = Learnt(rules.auto)
        self.learnt_from = 0
        self._rules = rules
        self._up_when_ready = probed or rules.start_timeout > 0
        self._deadlines: Deadlines[_Limit] = Deadlines()
        self._watched: dict[int, _Watched] = {}
        self._by_pid: dict[int, _Watched] = {}

    def go_by(self, rules: WatchdogRules) -> None:
        """From here on these are the rules. Heartbeats are not among them: each worker goes by what it was told."""
        old, self._rules = self._rules, rules
        self.learnt.go_by(rules.auto)
        ruled: tuple[tuple[Overdue, float, float], ...] = (
            ("boot", old.boot, rules.boot),
            ("start", old.start_timeout, rules.start_timeout),
            ("out_of_section", old.out_of_section, rules.out_of_section),
            ("stopping", old.stopping, rules.stopping),
        )
        for watched in self._watched.values():
            for what, before, limit in ruled:
                since, held_to = watched.begun.get(_Limit(watched.worker.rank, what), (0.0, 0.0))
                if held_to == before and _is_wider(limit, before):  # else: it has asked for more by itself
                    self._limit(watched, what, limit, since)
            for place, section in enumerate(watched.told.sections):
                limit = self._section_limit(section.name)
                if _is_wider(limit, section.limit):
                    watched.told.sections[place] = section._replace(limit=limit)
                    self._limit(watched, "section", limit, section.begun_at, section.number)

    # ---- workers come and go

    def started(self, worker: Worker, pid: int, now: float) -> None:
        """The worker's program runs as the process ``pid``. What was left of an earlier attempt is forgotten."""
        earlier = self._watched.get(worker.rank)
        if earlier is not None:
            self.ended(earlier.worker)
        self.timers.forget(pid)  # of whoever had its number before
        watched = _Watched(worker, pid, self._rules.heartbeat)
        self._watched[worker.rank] = self._by_pid[pid] = watched
        self._limit(watched, "boot", self._rules.boot, now)
        self._limit(watched, "start", self._rules.start_timeout, now)
        if not self._rules.boot and not self._up_when_ready:
            self._limit(watched, "heartbeat", watched.heartbeat, now)

    def ended(self, worker: Worker) -> None:
        """Nothing more is expected of this worker; once it was the last one, of no process of the group."""
        watched = self._of(worker)
        if watched is None:
            return
        self._dismiss(watched)
        del self._watched[worker.rank]
        if self._by_pid[watched.pid] is watched:  # else the number is another's already
            self.timers.forget(watched.pid)
            del self._by_pid[watched.pid]
        if not self._watched:
            self.timers.clear()

    def told(self, worker: Worker) -> Told | None:
        """What the worker has told; None if it is not under watch."""
        watched = self._of(worker)
        return watched.told if watched else None

    def found_ready(self, worker: Worker, now: float) -> None:
        """Its probe says that the worker is ready: it has come up in time, and may never say so itself."""
        watched = self._of(worker)
        if watched is not None:
            self._lift(watched, "start")
            if watched.heartbeat_key not in watched.begun:
                self._limit(watched, "heartbeat", watched.heartbeat, now)

    # ---- words come in

    def hear(self, worker: Worker, notice: Notice, now: float) -> Became | None:
        """Take the worker's notice, and say what it has become by it. News from an earlier attempt is nothing."""
        watched = self._of(worker)
        if watched is None:
            return None
        if not watched.heard:
            self._first_word(watched, now)
        if notice.heartbeat:
            self.heartbeats += 1
            self._limit(watched, "heartbeat", watched.heartbeat, now)
            if notice is HEARTBEAT:
                return None
        return self._take(watched, notice, now)

    def request(self, request: TimerRequest, now: float) -> None:
        """Take a request for a timer; for the process of a worker it is a word like any other."""
        watched = self._by_pid.get(request.pid)
        if watched is not None:
            if watched.over:
                return
            if not watched.heard:
                self._first_word(watched, now)
        self.timers.take(request, now)

    # ---- deadlines go out

    def nearest(self) -> float | None:
        """The instant of the nearest deadline; None while nobody is under one."""
        limit, timer = self._deadlines.nearest(), self.timers.nearest()
        if limit is None or timer is None:
            return timer if limit is None else limit
        return min(limit, timer)

    def expired(self, now: float) -> list[Expired]:
        """Everything that is due, in the order in which it was, and each worker and process once.

        Ask when all has been read that was said before ``now``: a release may be among it.
        """
        found: list[Expired] = []
        while (at := self.nearest()) is not None and at <= now:
            timer = self.timers.pop(at)
            found.append(timer if timer is not None else self._pop(at))
        return found

    def dismiss(self, worker: Worker) -> None:
        """The worker has been found silent, in whatever way: from here on nothing is expected of it but its end."""
        watched = self._of(worker)
        if watched is not None:
            watched.over = True
            self._dismiss(watched)
            self.timers.forget(watched.pid)

    def put_off(self, by: float) -> None:
        """We were not running for so many seconds: nobody is the later for it."""
        self._deadlines.put_off(by)
        for watched in self._watched.values():
            watched.learns_after = watched.numbers  # who knows how long those took that are open
        self.timers.put_off(by)

    # ---- one worker

    def _of(self, worker: Worker) -> _Watched | None:
        watched = self._watched.get(worker.rank)
        return watched if watched is not None and watched.worker == worker else None

    def _first_word(self, watched: _Watched, now: float) -> None:
        watched.heard = True
        self._lift(watched, "boot")
        if self._rules.boot and not self._up_when_ready:
            self._limit(watched, "heartbeat", watched.heartbeat, now)
        self._limit(watched, "out_of_section", self._rules.out_of_section, now)

    def _take(self, watched: _Watched, notice: Notice, now: float) -> Became | None:
        told = watched.told
        if notice.status is not None:
            told.status = notice.status
        if notice.progress is not None:
            told.progress, told.progress_at = notice.progress, now
        if notice.heartbeat_every is not None:
            watched.heartbeat = notice.heartbeat_every
            if told.is_ready or watched.heartbeat_key in watched.begun:
                self._limit(watched, "heartbeat", watched.heartbeat, now)
        became_ready = notice.ready and not told.is_ready
        if became_ready:
            told.is_ready = True
            self._lift(watched, "start")
            self._limit(watched, "heartbeat", watched.heartbeat, now)
        if notice.extend_by is not None:
            self._extend(watched, "stopping" if watched.stopping else "start", notice.extend_by, now)
        for begun, name in notice.sections:
            if begun:
                self._begin(watched, name, now)
            else:
                self._end(watched, name, now)
        begins_to_stop = notice.stopping and not watched.stopping
        if begins_to_stop:
            self._dismiss(watched)
            watched.stopping = True
            self._limit(watched, "stopping", self._rules.stopping, now)
        if notice.trigger and not watched.over:
            watched.begun[watched.heartbeat_key] = (now, 0.0)
            self._deadlines.set(watched.heartbeat_key, now)
        return "stopping" if begins_to_stop else "ready" if became_ready else None

    def _extend(self, watched: _Watched, what: Overdue, by: float, now: float) -> None:
        key = _Limit(watched.worker.rank, what)
        at = self._deadlines.at(key)
        if at is not None and now + by > at:
            since, _ = watched.begun[key]
            watched.begun[key] = (since, now + by - since)
            self._deadlines.set(key, now + by)

    def _begin(self, watched: _Watched, name: str, now: float) -> None:
        sections = watched.told.sections
        if len(sections) >= SECTIONS:
            self.refused += 1
            return
        watched.numbers += 1
        limit = self._section_limit(name)
        sections.append(Section(name, now, limit, watched.numbers))
        if limit:
            self._lift(watched, "out_of_section")
        self._limit(watched, "section", limit, now, watched.numbers)

    def _end(self, watched: _Watched, name: str, now: float) -> None:
        """Close the section of that name that was opened last: threads need not close theirs in order."""
        sections = watched.told.sections
        section = next((section for section in reversed(sections) if section.name == name), None)
        if section is None:
            self.refused += 1
            return
        sections.remove(section)
        if section.number > watched.learns_after and not watched.over:
            self.learnt_from += self.learnt.add(name, now - section.begun_at)
        self._lift(watched, "section", section.number)
        if section.limit and not any(one.limit for one in sections):
            self._limit(watched, "out_of_section", self._rules.out_of_section, now)

    def _section_limit(self, name: str) -> float:
        learnt = self.learnt.limit(name)
        return self._rules.sections.get(name, 0.0) if learnt is None else learnt

    def _limit(self, watched: _Watched, what: Overdue, limit: float, now: float, number: int = 0) -> None:
        key = _Limit(watched.worker.rank, what, number) if what != "heartbeat" else watched.heartbeat_key
        if limit > 0 and not watched.over and (what == "stopping" or not watched.stopping):
            watched.begun[key] = (now, limit)
            self._deadlines.set(key, now + limit)
        elif watched.begun.pop(key, None):
            self._deadlines.drop(key)

    def _lift(self, watched: _Watched, what: Overdue, number: int = 0) -> None:
        self._limit(watched, what, 0.0, 0.0, number)

    def _dismiss(self, watched: _Watched) -> None:
        for key in watched.begun:
            self._deadlines.drop(key)
        watched.begun.clear()

    def _pop(self, now: float) -> Silent:
        due = self._deadlines.pop(now)
        assert due is not None
        key, _ = due
        watched = self._watched[key.rank]
        since, limit = watched.begun[key]
        section = next((one.name for one in watched.told.sections if one.number == key.number), "")
        self.dismiss(watched.worker)
        return Silent(watched.worker, key.what, since, limit, section)


def _is_wider(limit: float, before: float) -> bool:
    """0 is the widest: there is no limit."""
    return before > 0 and (limit == 0 or limit > before)
