"""What follows when a worker is held in the kernel: it is not healthy until it is let go, and not restarted meanwhile.

A signal does not reach it, and whatever device holds it would hold its successor as well. If it is to end all the same
and does not, it is named unkillable and its slot is not used again: see ``stopping``.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events
from supervisor.core.messages import Worker, WorkerHeld
from supervisor.core.starting import settle_start
from supervisor.core.state import Held, Phase
from supervisor.core.turn import Turn, degrade


def worker_held(turn: Turn, input: WorkerHeld) -> None:
    """Say so. The group is degraded by it if it was ready."""
    slot = turn.slot(input.worker)
    if slot is None or slot.pid is None or slot.status is not None or slot.held is not None:
        return
    who = turn.who(input.worker)
    turn.events.append(events.worker_uninterruptible(turn.now, who, input.pid, input.limit, input.details, over=False))
    running = turn.group.phase in (Phase.STARTING, Phase.RUNNING)
    held = Held(turn.now, f"is in uninterruptible sleep: {input.details}")
    turn.put(replace(slot, held=held), ready=turn.group.ready - (running and slot.is_ready))
    degrade(turn, who.attempt, f"rank {who.rank} is in uninterruptible sleep")


def worker_let_go(turn: Turn, worker: Worker) -> None:
    """It counts again for what it was."""
    slot = turn.slot(worker)
    if slot is None or slot.pid is None or slot.status is not None or slot.held is None:
        return
    limit = turn.group.plan.watchdog.uninterruptible
    turn.events.append(events.worker_uninterruptible(turn.now, turn.who(worker), slot.pid, limit, "", over=True))
    running = turn.group.phase in (Phase.STARTING, Phase.RUNNING)
    after = replace(slot, held=None)
    turn.put(after, ready=turn.group.ready + (running and after.is_ready))
    if running:
        settle_start(turn)
