"""What a running group does with another plan: take it over as it runs, or restart by it, at once or a few at a time.

A restart of this kind is somebody's wish: it is not counted, and the group has its whole budget again.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core import restarts
from supervisor.core.messages import CancelTimer, PlanChanged
from supervisor.core.rolling import begin_roll, can_roll, go_by
from supervisor.core.starting import begin_attempt
from supervisor.core.state import Again, Phase, Verdict
from supervisor.core.stopping import stop, take_over
from supervisor.core.turn import Turn
from supervisor.plan import GroupPlan

WHY = "its configuration has changed"


def plan_changed(turn: Turn, changed: PlanChanged) -> None:
    if not changed.restart:
        _go_by(turn, changed.plan)
    elif can_roll(turn.group, changed.plan):
        begin_roll(turn, changed.plan, WHY)
    else:
        _restart(turn, changed)


def _go_by(turn: Turn, plan: GroupPlan) -> None:
    """What differs needs nobody to be started anew. A stop under way goes by the ladder that it began with."""
    group = turn.group
    if group.roll is not None and group.next_plan is not None:
        go_by(turn, plan, as_it_runs=True)
    elif group.phase is Phase.STOPPING or group.next_plan is not None:
        turn.set(next_plan=plan)
    else:
        take_over(turn, plan)


def _restart(turn: Turn, changed: PlanChanged) -> None:
    """What was stopped on request stays stopped, unless it is ``wanted``; anything else begins again."""
    group = turn.group
    turn.set(next_plan=changed.plan)
    match group.phase:
        case Phase.WAITING:
            turn.adopt_plan()
        case Phase.STARTING | Phase.RUNNING:
            turn.set(history=restarts.History())
            stop(turn, Again(0.0, 0, WHY), WHY)
        case Phase.BACKING_OFF:
            turn.set(history=restarts.History())
            turn.effects.append(CancelTimer("backoff"))
            turn.adopt_plan()
            begin_attempt(turn, f"restart: {WHY}")
        case Phase.STOPPING:
            if changed.wanted or not _is_stopped(group.after):
                turn.set(after=Again(0.0, 0, WHY), history=restarts.History(), why=WHY)
        case Phase.FINISHED:
            if group.live:
                return  # its slots are held; it can be started when they are free
            turn.adopt_plan()
            if changed.wanted or not _is_stopped(group.verdict):
                turn.enter(Phase.WAITING, WHY, verdict=None)
        case _:
            assert_never(group.phase)


def _is_stopped(after: Again | Verdict | None) -> bool:
    return isinstance(after, Verdict) and after.outcome == "stopped"
