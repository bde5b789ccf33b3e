"""What follows when a worker has been silent for too long: it is ended, and its end is a failure like any other."""

from __future__ import annotations

import signal as signals
from dataclasses import replace

from supervisor.core import events
from supervisor.core.messages import SetTimer, SignalWorkers, WorkerSilent
from supervisor.core.state import Failure, Phase, Silence, Slot, Verdict
from supervisor.core.stopping import name_unkillable, stop
from supervisor.core.turn import Turn


def worker_silent(turn: Turn, silent: WorkerSilent) -> None:
    """End the worker. That it was silent is remembered until its end is told of: see ``ending.worker_exited``."""
    slot = turn.slot(silent.worker)
    if slot is None or slot.pid is None or slot.status is not None or slot.silence is not None:
        return
    if turn.group.phase not in (Phase.STARTING, Phase.RUNNING):
        return  # it is being ended already
    turn.events.append(
        events.worker_silent(
            turn.now, turn.who(silent.worker), slot.pid, silent.by, silent.reason, silent.signal, silent.evidence
        )
    )
    _send(turn, slot, Silence(silent.by, silent.reason, silent.signal, 0.0, silent.evidence))


def outlives_silence(turn: Turn, rank: int, silence: Silence) -> None:
    """The worker is still there after its signal: SIGKILL; and after that the group fails over it."""
    group = turn.group
    slot = group.live[rank]
    if silence.signal != signals.SIGKILL:
        waited_for = round(_patience(turn), 1)
        turn.events.append(events.worker_killed(turn.now, turn.who(slot.worker), signals.SIGKILL, waited_for))
        _send(turn, slot, replace(silence, signal=int(signals.SIGKILL)))
        return
    reason = f"rank {group.rank(rank)} {silence.reason} and cannot be killed"
    turn.set(failure=Failure(turn.now, slot.worker.attempt, group.rank(rank), reason, 1))
    name_unkillable(turn, [rank])
    stop(turn, Verdict("failed", 1, reason), reason)


def _send(turn: Turn, slot: Slot, silence: Silence) -> None:
    rank = slot.worker.rank
    at = turn.now + _patience(turn)
    turn.put(replace(slot, silence=replace(silence, at=at)))
    turn.effects.append(SignalWorkers((slot.worker,), silence.signal, "tree"))
    turn.effects.append(SetTimer(f"silence:{rank}", at))


def _patience(turn: Turn) -> float:
    return turn.group.plan.stop.ladder[-1].wait
