"""The state of one worker group, as a value, and the phases it can be in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from supervisor.core import restarts
from supervisor.core.events import By, Event
from supervisor.core.messages import (
    DependencyLost,
    Effect,
    ExitStatus,
    Input,
    JobEnded,
    PlanChanged,
    Returned,
    RunRequested,
    StartRequested,
    StopRequested,
    TimerFired,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerStarted,
    WorldLost,
    WorldRefused,
)
from supervisor.core.ranks import Ranks
from supervisor.plan import GroupPlan, Rung, Source, World


class Phase(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    FINISHED = "finished"


_STOPS = (
    WorkerExited, WorkerNotStarted, StopRequested, PlanChanged, RunRequested, WorldLost, JobEnded, TimerFired
)  # fmt: skip

TRANSITIONS: Mapping[Phase, Mapping[Phase, tuple[type[Input], ...]]] = {
    Phase.WAITING: {
        Phase.STARTING: (StartRequested,),
        Phase.FINISHED: (DependencyLost, StopRequested),
    },
    Phase.STARTING: {
        Phase.STARTING: (PlanChanged, RunRequested),
        Phase.RUNNING: (WorkerStarted, WorkerNotStarted, PlanChanged),
        Phase.STOPPING: _STOPS,
        Phase.BACKING_OFF: (WorldRefused, WorkerNotStarted),
        Phase.FINISHED: (WorldRefused, WorkerNotStarted, StopRequested, JobEnded),
    },
    Phase.RUNNING: {
        Phase.STOPPING: _STOPS,
        Phase.BACKING_OFF: (WorkerGone,),
        Phase.STARTING: (WorkerGone, PlanChanged, RunRequested, WorldLost),
        Phase.FINISHED: (WorkerGone, WorkerNotStarted, StopRequested, JobEnded, TimerFired),
    },
    Phase.STOPPING: {
        Phase.BACKING_OFF: (WorkerGone, WorkerNotStarted),
        Phase.STARTING: (WorkerGone, WorkerNotStarted),
        Phase.FINISHED: (WorkerGone, WorkerNotStarted, TimerFired),
    },
    Phase.BACKING_OFF: {
        Phase.STARTING: (TimerFired, PlanChanged, RunRequested),
        Phase.FINISHED: (StopRequested, JobEnded),
    },
    Phase.FINISHED: {
        Phase.WAITING: (PlanChanged, RunRequested),
        Phase.STARTING: (StartRequested,),
    },
}
"""From which phase to which others, and upon which inputs."""


def phase_diagram() -> str:
    """``TRANSITIONS`` as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.WAITING}"]
    for phase, following in TRANSITIONS.items():
        for other, inputs in following.items():
            words = (re.sub(r"(?<=[a-z])(?=[A-Z])", " ", input.__name__).lower() for input in inputs)
            lines.append(f"    {phase} --> {other} : {', '.join(words)}")
    return "\n".join(lines)


class Climb(NamedTuple):
    """Where a stop ladder stands: this rung's signal has been sent, the next is due ``at``."""

    rung: int
    at: float


class Readiness(NamedTuple):
    """Who has not said, or not said again, that the worker is ready; since when it is so, and what was said instead."""

    missing: frozenset[Source]
    since: float
    why: str = ""


class Held(NamedTuple):
    """The worker is in uninterruptible sleep: since when this is known, and where it sleeps."""

    since: float
    why: str


class Condemned(NamedTuple):
    """The worker is to end, by a ladder of its own: ``by`` has found it failed, or it makes room (by "daemon").

    ``reason`` goes on after "rank 3 ": "failed its probe (no answer within 1 s)". ``signal`` is the first that it gets,
    and ``rungs`` are those still above it: the next is due ``at``. ``looked_at``: nothing is sent before it has been
    seen what it and its peers do, or ``at``. ``evidence`` is the file with that, if there is one.
    """

    by: By
    reason: str
    since: float
    signal: int
    rungs: tuple[Rung, ...]
    at: float
    looked_at: bool = True
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Slot:
    """One live worker. ``pid`` is None until it has started; ``status`` is set once its own process has ended.

    ``readiness`` None: it is ready as long as it runs. ``held``: it is in uninterruptible sleep, and not ready as long
    as it is.
    """

    worker: Worker
    since: float
    pid: int | None = None
    status: ExitStatus | None = None
    readiness: Readiness | None = None
    condemned: Condemned | None = None
    held: Held | None = None

    @property
    def is_ready(self) -> bool:
        """It runs, is to run on, is not held, and whoever is asked says that it is ready."""
        if self.pid is None or self.status is not None or self.condemned is not None or self.held is not None:
            return False
        return self.readiness is None or not self.readiness.missing


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rank's last worker ended. ``status`` None: it never ran."""

    worker: Worker
    at: float
    pid: int | None
    status: ExitStatus | None
    by: By
    success: bool
    words: str
    returned: Returned | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The root cause of an attempt's failure. ``rank`` is global, -1 when no worker is to blame."""

    at: float
    attempt: int
    rank: int
    reason: str
    exit_code: int
    status: ExitStatus | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes, or has become, of a group that is not to run on. ``exit_code`` is for the daemon's own exit."""

    outcome: Literal["succeeded", "failed", "stopped"]
    exit_code: int
    why: str


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt is to begin after ``pause`` seconds. ``why`` and ``exit_code`` say how the last one ended."""

    pause: float
    exit_code: int
    why: str


class Roll(NamedTuple):
    """A rolling restart: the workers are replaced by others of the newest plan, a few at a time.

    ``taken``: ranks that are out of service for it, from their drain until they are back. ``renewed``: those it has
    started anew. ``everybody``: also those that run by the newest plan are to be replaced. ``history``: the
    restarts of those that it has started, who have a budget of their own. ``settles_at``: when the first of them will
    have been ready for long enough. ``halted``: why it goes no further; "" while it does.
    """

    why: str
    everybody: bool = False
    taken: frozenset[int] = frozenset()
    renewed: frozenset[int] = frozenset()
    history: restarts.History = restarts.History()
    settles_at: float | None = None
    halted: str = ""


class Group(NamedTuple):
    """The whole state of one group; a value. (A named tuple, because each step replaces it: 2 us, a dataclass takes 7.)

    ``begun_at``: when it last set out to become ready. ``live``: slots by local rank. ``ended``: the last end of each
    rank of the present attempt. ``awaited``: how many starts have no answer yet; ``ready``: how many ranks are ready;
    ``well``: how many have ended well and are not to run again. ``after`` and ``climb``: while it stops, what follows
    once nothing is live, and where the ladder stands. ``resume_at``: while it backs off, until when. ``pauses``:
    instants at which single ranks restart (scope "worker"). ``strays``: the ladders of single workers that left
    processes behind. ``unkillable``: ranks whose slot is held for good. ``suspect``: the first of a gang that was found
    to hang in this attempt; what happens to its peers from then on may come of that. ``next_plan``: what it goes by as
    soon as nothing is live that was started by ``plan``. ``roll``: a rolling restart, under way or halted; ``plans``:
    what those ranks run by meanwhile that do not run by ``plan``. ``stopped_by``: the person who has stopped it, or is
    about to. ``barrier_at``: while it has succeeded and waits for other hosts, until when. ``cut_off``: why nothing is
    heard of them.
    """

    plan: GroupPlan
    seed: int
    phase: Phase = Phase.WAITING
    since: float = 0.0
    why: str = ""
    attempt: int = -1
    begun_at: float = 0.0
    world: World | None = None
    live: Ranks[Slot] = Ranks()
    ended: Ranks[Ended] = Ranks()
    awaited: int = 0
    ready: int = 0
    well: int = 0
    ready_at: float | None = None
    was_started: bool = False
    was_ready: bool = False
    history: restarts.History = restarts.History()
    after: Again | Verdict | None = None
    climb: Climb | None = None
    resume_at: float | None = None
    pauses: Ranks[float] = Ranks()
    strays: Ranks[Climb] = Ranks()
    unkillable: frozenset[int] = frozenset()
    suspect: Worker | None = None
    failure: Failure | None = None
    verdict: Verdict | None = None
    next_plan: GroupPlan | None = None
    roll: Roll | None = None
    plans: Ranks[GroupPlan] = Ranks()
    stopped_by: str = ""
    barrier_at: float | None = None
    cut_off: str = ""

    @property
    def is_done(self) -> bool:
        """It has finished, and not because a person had it stopped, who may want it to run again."""
        return self.phase is Phase.FINISHED and not self.stopped_by

    @property
    def is_ready(self) -> bool:
        """Every rank is ready or has ended well, at least one is ready or waits for other hosts, and these are heard
        of."""
        return self.phase is Phase.RUNNING and self.ready_at is not None and not self.cut_off

    @property
    def newest_plan(self) -> GroupPlan:
        """By which workers are started that nothing speaks against."""
        return self.next_plan or self.plan

    @property
    def rolls(self) -> bool:
        """Whether a rolling restart is under way."""
        return self.roll is not None and not self.roll.halted

    def plan_by(self, local_rank: int) -> GroupPlan:
        """By which plan that rank runs, or ran last."""
        return self.plans.get(local_rank) or self.plan

    def history_of(self, local_rank: int) -> restarts.History:
        """The restarts that count for that rank."""
        roll = self.roll
        return roll.history if roll is not None and local_rank in roll.renewed else self.history

    def has_ended_well(self, local_rank: int) -> bool:
        """The rank is done, and is not to run again."""
        slot, ended = self.live.get(local_rank), self.ended.get(local_rank)
        if (slot is not None and slot.status is None) or local_rank in self.pauses:
            return False
        return ended is not None and ended.success

    def is_missing(self, local_rank: int) -> bool:
        """Nothing of the rank lives or is to come back, though it has not ended well."""
        return local_rank not in self.live and local_rank not in self.pauses and not self.has_ended_well(local_rank)

    @property
    def serves(self) -> bool:
        """Whether all serve who are to: who is away for a roll is excused, as long as anybody is ready."""
        if not self.ready:
            return False
        if self.roll is None:
            return self.ready + self.well == self.plan.workers
        ready = {rank for rank, slot in self.live.items() if slot.is_ready and rank < self.plan.workers}
        return bool(ready) and all(
            rank in ready or rank in self.roll.taken or self.has_ended_well(rank) for rank in range(self.plan.workers)
        )

    def rank(self, local_rank: int) -> int:
        """The global rank; before a world is formed, as if this host were the only one."""
        return (self.world.base_rank if self.world else 0) + local_rank


@dataclass(frozen=True, slots=True)
class Outcome:
    group: Group
    effects: tuple[Effect, ...] = ()
    events: tuple[Event, ...] = ()
