"""The machine of one worker group: (state, input, now) -> (state, effects, events).

The rules, in short:

- ``step`` is total. An input that does not apply in a phase, or is about an earlier attempt, changes nothing.
- A worker is *live* from the moment it is asked for until its whole tree is gone. No attempt begins while a worker of
  an earlier one is live, so two attempts never overlap.
- The first failure of an attempt is its root cause. What ends after we began to stop was stopped, not failed.
- Every wait has a timer: a pause before a restart, each rung of a stop ladder. What outlives the last rung is named
  ``unkillable``, its slot stays held, and the group fails rather than restart over it.
- A worker that is found failed is *condemned*: it climbs a ladder of its own, and then has failed as any other does.
  Of a group that restarts as a whole the first that hangs is the root cause, whoever ends before it.
- Where each worker serves for itself, a restart that is asked for goes through them a few at a time: see ``rolling``.
- A phase changes only along ``TRANSITIONS``.
"""

from __future__ import annotations

import re
from typing import assert_never

from supervisor.core.ending import (
    START_FAILED,
    attempt_ended,
    settle_run,
    worker_exited,
    worker_gone,
    worker_not_started,
)
from supervisor.core.held import worker_held, worker_let_go
from supervisor.core.judging import climb_condemned, evidence_taken, worker_ready, worker_silent, worker_unready
from supervisor.core.messages import (
    DependencyLost,
    EvidenceTaken,
    Input,
    JobEnded,
    PeersAwaited,
    PeersFound,
    PeersLost,
    PlanChanged,
    RankRequested,
    RunRequested,
    StartRequested,
    StopRequested,
    StraysFound,
    TimerFired,
    WorkerExited,
    WorkerGone,
    WorkerHeld,
    WorkerLetGo,
    WorkerNotStarted,
    WorkerReady,
    WorkerSilent,
    WorkerStarted,
    WorkerUnready,
    WorldFormed,
    WorldLost,
    WorldRefused,
)
from supervisor.core.replanning import plan_changed
from supervisor.core.rolling import roll_on
from supervisor.core.running import rank_requested, run_requested
from supervisor.core.sharing import barrier_over, peers_told
from supervisor.core.starting import begin_attempt, start_all, start_one, start_requested, worker_started
from supervisor.core.state import Failure, Group, Outcome, Phase, Verdict
from supervisor.core.stopping import climb_strays, climb_to, leave_unkillable, stop_requested, strays_found
from supervisor.core.turn import Turn


def step(group: Group, input: Input, now: float) -> Outcome:
    """What follows from one input at the instant ``now``. Never raises for an input that does not apply."""
    turn = Turn(group, now)
    _take(turn, input)
    if turn.group is not group and turn.group.roll is not None:
        roll_on(turn)
        settle_run(turn)
    return Outcome(turn.group, tuple(turn.effects), tuple(turn.events))


def _take(turn: Turn, input: Input) -> None:
    group = turn.group
    match input:
        case StartRequested():
            start_requested(turn)
        case DependencyLost(name, reason):
            if group.phase is Phase.WAITING:
                turn.finish(Verdict("failed", 1, f"depends on {name}, which {reason}"))
        case RunRequested(reason, anew):
            run_requested(turn, reason, anew)
        case RankRequested(rank, reason, anew):
            rank_requested(turn, rank, reason, anew)
        case StopRequested(reason, hurry, by):
            stop_requested(turn, reason, hurry, by)
        case PlanChanged():
            plan_changed(turn, input)
        case WorldFormed(attempt, world, restarts):
            if group.phase is Phase.STARTING and attempt == group.attempt and group.world is None:
                start_all(turn, world, restarts)
        case WorldRefused(attempt, reason):
            if group.phase is Phase.STARTING and attempt == group.attempt and group.world is None:
                attempt_ended(turn, "transient", "start", Failure(turn.now, attempt, -1, reason, START_FAILED))
        case WorldLost() | JobEnded() | PeersAwaited() | PeersLost() | PeersFound():
            peers_told(turn, input)
        case WorkerStarted(worker, pid):
            worker_started(turn, worker, pid)
        case WorkerReady(worker, source):
            worker_ready(turn, worker, source)
        case WorkerUnready():
            worker_unready(turn, input)
        case WorkerNotStarted():
            worker_not_started(turn, input)
        case WorkerSilent():
            worker_silent(turn, input)
        case EvidenceTaken():
            evidence_taken(turn, input)
        case WorkerHeld():
            worker_held(turn, input)
        case WorkerLetGo(worker):
            worker_let_go(turn, worker)
        case WorkerExited():
            worker_exited(turn, input)
        case StraysFound(worker, processes):
            strays_found(turn, worker, processes)
        case WorkerGone(worker):
            worker_gone(turn, worker)
        case TimerFired(name, at):
            timer_fired(turn, name, at)
        case _:
            assert_never(input)


def timer_fired(turn: Turn, name: str, at: float) -> None:
    """Do what was to be done at the instant ``at``, unless the timer has been cancelled or set anew meanwhile."""
    group = turn.group
    climb = group.climb
    match name.split(":"):
        case ["backoff"] if at == group.resume_at:
            begin_attempt(turn, f"restart: {group.why}")
        case ["ladder"] if climb is not None and at == climb.at:
            if climb.rung + 1 < len(group.plan.stop.ladder):
                climb_to(turn, climb.rung + 1)
            else:
                leave_unkillable(turn)
        case ["barrier"] if at == group.barrier_at:
            barrier_over(turn)
        case ["condemned", text]:
            climb_condemned(turn, _rank(text), at)
        case ["roll"] if group.roll is not None and at == group.roll.settles_at:
            turn.set(roll=group.roll._replace(settles_at=None))  # see ``roll_on``
        case ["restart", text]:
            rank = _rank(text)
            if group.pauses.get(rank) == at and rank not in group.live:
                start_one(turn, rank)
        case ["strays", text]:
            rank = _rank(text)
            climb = group.strays.get(rank)
            if climb is not None and at == climb.at:
                climb_strays(turn, rank, climb)


def _rank(text: str) -> int:
    """The rank in a timer's name; -1 when it is none."""
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
