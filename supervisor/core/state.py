"""The state of one worker group, as a value, and the phases it can be in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from supervisor.core import restarts
from supervisor.core.events import By, Event
from supervisor.core.messages import Effect, ExitStatus, Worker
from supervisor.plan import GroupPlan, World


class Phase(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    FINISHED = "finished"


TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset({Phase.STARTING, Phase.FINISHED}),
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.STOPPING, Phase.BACKING_OFF, Phase.FINISHED}),
    Phase.RUNNING: frozenset({Phase.STOPPING, Phase.BACKING_OFF, Phase.STARTING, Phase.FINISHED}),
    Phase.STOPPING: frozenset({Phase.BACKING_OFF, Phase.STARTING, Phase.FINISHED}),
    Phase.BACKING_OFF: frozenset({Phase.STARTING, Phase.FINISHED}),
    Phase.FINISHED: frozenset({Phase.STARTING}),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """One live worker. ``pid`` is None until it has started; ``status`` is set once its own process has ended."""

    worker: Worker
    since: float
    pid: int | None = None
    ready: bool = False
    status: ExitStatus | None = None


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
    """What became of a finished group. ``exit_code`` is for the daemon's own exit."""

    outcome: Literal["succeeded", "failed", "stopped"]
    exit_code: int
    at: float
    why: str


@dataclass(frozen=True, slots=True)
class After:
    """What follows once everything is gone: another start after ``pause`` seconds, or a verdict."""

    pause: float | None
    outcome: Literal["succeeded", "failed", "stopped"] | None = None
    exit_code: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Climb:
    """Where a stop ladder stands: this rung's signal has been sent, the next is due ``at``."""

    rung: int
    at: float


@dataclass(frozen=True, slots=True)
class Group:
    """The whole state of one group; a value.

    ``live``: slots by local rank. ``ended``: the last end of each rank of the present attempt. ``ready``: how many
    ranks are ready. ``pauses``: instants at which single ranks restart (scope "worker"). ``strays``: the ladders of
    single workers that left processes behind. ``unkillable``: ranks whose slot is held for good.
    """

    plan: GroupPlan
    seed: int
    phase: Phase = Phase.WAITING
    since: float = 0.0
    why: str = ""
    attempt: int = -1
    begun_at: float = 0.0
    world: World | None = None
    live: dict[int, Slot] = field(default_factory=dict)
    ended: Mapping[int, Ended] = field(default_factory=dict)
    ready: int = 0
    ready_at: float | None = None
    was_started: bool = False
    was_ready: bool = False
    history: restarts.History = restarts.History()
    after: After | None = None
    climb: Climb | None = None
    resume_at: float | None = None
    pauses: Mapping[int, float] = field(default_factory=dict)
    strays: Mapping[int, Climb] = field(default_factory=dict)
    unkillable: frozenset[int] = frozenset()
    failure: Failure | None = None
    verdict: Verdict | None = None

    @property
    def is_ready(self) -> bool:
        """Every rank is ready or has ended well, and at least one is ready."""
        return self.phase is Phase.RUNNING and self.ready_at is not None

    def rank(self, local_rank: int) -> int:
        """The global rank; before a world is formed, as if this host were the only one."""
        return (self.world.base_rank if self.world else 0) + local_rank


@dataclass(frozen=True, slots=True)
class Outcome:
    group: Group
    effects: tuple[Effect, ...] = ()
    events: tuple[Event, ...] = ()
