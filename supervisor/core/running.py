"""What a person may want of a group besides that it stops: that it runs, or runs anew.

Neither is charged to the budget: the group has all of it again, as if rankd had just begun.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core import restarts
from supervisor.core.messages import CancelTimer
from supervisor.core.rolling import begin_roll, can_roll
from supervisor.core.starting import begin_attempt
from supervisor.core.state import Again, Phase
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


def _replace_workers(turn: Turn, reason: str) -> None:
    """A few at a time where each serves for itself, else all at once; by whatever is the newest plan."""
    group = turn.group
    if can_roll(group, group.newest_plan):
        begin_roll(turn, group.newest_plan, reason, everybody=True)
    else:
        turn.set(history=restarts.History())
        stop(turn, Again(0.0, 0, reason), reason)
