"""The machine of one worker group: (state, input, now) -> (state, effects, events).

The rules, in short:

- ``step`` is total. An input that does not apply in a phase, or is about an earlier attempt, changes nothing.
- A worker is *live* from the moment it is asked for until its whole tree is gone. No attempt begins while a worker of
  an earlier one is live, so two attempts never overlap.
- The first failure of an attempt is its root cause. What ends after we began to stop was stopped, not failed.
- Every wait has a timer: a pause before a restart, each rung of a stop ladder. What outlives the last rung is named
  ``unkillable``, its slot stays held, and the group fails rather than restart over it.
- A phase changes only along ``TRANSITIONS``.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core.ending import START_FAILED, attempt_failed, worker_exited, worker_gone, worker_not_started
from supervisor.core.messages import (
    DependencyLost,
    Input,
    StartRequested,
    StopRequested,
    StraysFound,
    TimerFired,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerReady,
    WorkerStarted,
    WorldFormed,
    WorldRefused,
)
from supervisor.core.starting import begin_attempt, start_all, start_one, start_requested, worker_ready, worker_started
from supervisor.core.state import Failure, Group, Outcome, Phase
from supervisor.core.stopping import climb_strays, climb_to, leave_unkillable, stop_requested, strays_found
from supervisor.core.turn import Turn, cause


def step(group: Group, input: Input, now: float) -> Outcome:
    """What follows from one input at the instant ``now``. Never raises for an input that does not apply."""
    turn = Turn(group, now)
    match input:
        case StartRequested():
            start_requested(turn)
        case DependencyLost(name, reason):
            if group.phase is Phase.WAITING:
                turn.finish("failed", 1, f"depends on {name}, which {reason}")
        case StopRequested(reason, hurry):
            stop_requested(turn, reason, hurry)
        case WorldFormed(attempt, world):
            if group.phase is Phase.STARTING and attempt == group.attempt and group.world is None:
                start_all(turn, world)
        case WorldRefused(attempt, reason):
            if group.phase is Phase.STARTING and attempt == group.attempt and group.world is None:
                attempt_failed(turn, "transient", "start", Failure(now, attempt, -1, reason, START_FAILED))
        case WorkerStarted(worker, pid):
            worker_started(turn, worker, pid)
        case WorkerNotStarted():
            worker_not_started(turn, input)
        case WorkerReady(worker):
            worker_ready(turn, worker)
        case WorkerExited(worker, status):
            worker_exited(turn, worker, status)
        case StraysFound(worker, processes):
            strays_found(turn, worker, processes)
        case WorkerGone(worker):
            worker_gone(turn, worker)
        case TimerFired(name, at):
            timer_fired(turn, name, at)
        case _:
            assert_never(input)
    return Outcome(turn.group, tuple(turn.effects), tuple(turn.events))


def timer_fired(turn: Turn, name: str, at: float) -> None:
    group = turn.group
    kind, _, rank_text = name.partition(":")
    if kind == "backoff" and group.phase is Phase.BACKING_OFF and at == group.resume_at:
        begin_attempt(turn, f"restart: {cause(group)}")
    elif kind == "ladder" and group.phase is Phase.STOPPING and group.climb is not None and at == group.climb.at:
        if group.climb.rung + 1 < len(group.plan.stop.ladder):
            climb_to(turn, group.climb.rung + 1)
        else:
            leave_unkillable(turn, tuple(group.live))
    elif kind == "restart" and group.phase is Phase.RUNNING and group.pauses.get(int(rank_text)) == at:
        if int(rank_text) not in group.live:
            start_one(turn, int(rank_text))
    elif kind == "strays" and (stand := group.strays.get(int(rank_text))) is not None and stand.at == at:
        climb_strays(turn, int(rank_text), stand)
