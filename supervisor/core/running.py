"""What a person may want besides that a group stops: that it runs or runs anew, or one of its ranks.

Neither is charged to the budget: the group has all of it again, as if rankd had just begun, and a rank one of its own.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core import restarts
from supervisor.core.messages import CancelTimer
from supervisor.core.rolling import begin_roll, can_go, can_roll, take, who_is_away
from supervisor.core.starting import begin_attempt
from supervisor.core.state import Again, Group, Phase
from supervisor.core.stopping import stop
from supervisor.core.turn import Turn


def run_requested(turn: Turn, reason: str, anew: bool) -> None:
    """It runs, or will as soon as it may; what is on its way there already is left alone unless ``anew``.

    Nothing comes of it where slots are held by what cannot be killed.
    """
    group = turn.group
    match group.phase:
        case Phase.WAITING:
            pass
        case Phase.STARTING | Phase.RUNNING:
            if anew:
                _replace_workers(turn, reason)
        case Phase.BACKING_OFF:
            turn.set(history=restarts.History())
            turn.effects.append(CancelTimer("backoff"))
            turn.adopt_plan()
            begin_attempt(turn, f"restart: {reason}")
        case Phase.STOPPING:
            turn.set(after=Again(0.0, 0, reason), history=restarts.History(), why=reason, stopped_by="")
        case Phase.FINISHED:
            if not group.live:
                turn.adopt_plan()
                turn.enter(Phase.WAITING, reason, verdict=None, stopped_by="")
        case _:
            assert_never(group.phase)


def rank_requested(turn: Turn, rank: int, reason: str, anew: bool) -> None:
    """A rolling restart of just that rank, if it can be had; what runs already is left alone unless ``anew``."""
    group = turn.group
    slot = group.live.get(rank)
    if why_not_alone(group, rank, anew) or (slot is not None and slot.status is None and not anew):
        return
    if group.roll is None:
        begin_roll(turn, group.newest_plan, reason)
    take(turn, rank)


def why_not_alone(group: Group, rank: int, anew: bool) -> str:
    """Why that local rank cannot be started, or with ``anew`` restarted, by itself now; empty: it can."""
    name = group.plan.name
    if group.plan.restart.scope != "worker":
        return f"the workers of group {name} need each other: all of them restart (restart.scope)"
    if group.world is None or group.phase not in (Phase.STARTING, Phase.RUNNING):
        return f"group {name} is {group.phase.replace('_', ' ')}: no rank of it starts alone"
    if not 0 <= rank < group.plan.workers:
        return f"group {name} has no rank {group.rank(rank)}"
    slot = group.live.get(rank)
    if slot is None or slot.status is not None or not anew:
        return ""
    serving, away = who_is_away(group)
    if rank in serving and len(away) >= group.plan.restart.max_unavailable:
        return f"as many workers of group {name} are away as may be (restart.max_unavailable): {sorted(away)}"
    if can_go(slot):
        return ""
    why = "about to start" if slot.pid is None else "held in the kernel" if slot.held is not None else "ending already"
    return f"rank {group.rank(rank)} of group {name} is {why}"


def _replace_workers(turn: Turn, reason: str) -> None:
    """A few at a time where each serves for itself, else all at once; by whatever is the newest plan."""
    group = turn.group
    if can_roll(group, group.newest_plan):
        begin_roll(turn, group.newest_plan, reason, everybody=True)
    else:
        turn.set(history=restarts.History())
        stop(turn, Again(0.0, 0, reason), reason)
