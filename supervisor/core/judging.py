"""Whether a worker that runs is ready, and what becomes of one that is found failed while it still runs."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events
from supervisor.core.events import By
from supervisor.core.messages import SetTimer, Worker, WorkerUnready
from supervisor.core.starting import settle_start
from supervisor.core.state import Climb, Condemned, Failure, Phase, Readiness, Slot, Verdict
from supervisor.core.stopping import name_unkillable, stop
from supervisor.core.turn import Turn, degrade, send
from supervisor.plan import Source


def worker_ready(turn: Turn, worker: Worker, source: Source) -> None:
    slot = _running(turn, worker)
    if slot is None or slot.readiness is None or source not in slot.readiness.missing:
        return
    missing = slot.readiness.missing - {source}
    if missing:
        turn.put(replace(slot, readiness=slot.readiness._replace(missing=missing)))
        return
    took_for = turn.now - slot.readiness.since
    turn.put(replace(slot, readiness=Readiness(missing, turn.now)), ready=turn.group.ready + 1)
    turn.events.append(events.worker_ready(turn.now, turn.who(worker), source, took_for))
    settle_start(turn)


def worker_unready(turn: Turn, found: WorkerUnready) -> None:
    """Said of one that was ready for that source, and may be alive no more; or of one that never was, which only waits.

    How long it may wait is a matter of time limits, and not of how often it was asked.
    """
    worker, source, reason = found.worker, found.source, found.reason
    slot = _running(turn, worker)
    if slot is None:
        return
    missing = slot.readiness.missing if slot.readiness is not None else frozenset()
    after = replace(slot, readiness=Readiness(missing | {source}, turn.now, reason))
    turn.put(after, ready=turn.group.ready - slot.is_ready)
    turn.events.append(events.worker_unready(turn.now, turn.who(worker), source, reason, found.output))
    degrade(turn, worker.attempt, f"rank {turn.group.rank(worker.rank)} is not ready: {reason}")
    probe = turn.group.plan.probe
    if source == "probe" and source not in missing and probe is not None and probe.liveness:
        signal = turn.group.plan.stop.ladder[0].signal
        turn.events.append(events.worker_probe_failed(turn.now, turn.who(worker), slot.pid, signal, reason))
        condemn(turn, after, "probe", f"failed its probe ({reason})")


def condemn(turn: Turn, slot: Slot, by: By, reason: str) -> None:
    """End a worker that runs and is found failed, by a ladder of its own. What follows is up to its exit.

    ``reason`` goes on after "rank 3 ".
    """
    worker = slot.worker
    rung = turn.group.plan.stop.ladder[0]
    climb = Climb(0, turn.now + rung.wait)
    condemned = Condemned(by, reason, turn.now, climb)
    turn.put(replace(slot, condemned=condemned), ready=turn.group.ready - slot.is_ready)
    send(turn, (worker,), rung)
    turn.effects.append(SetTimer(f"condemned:{worker.rank}", climb.at))
    degrade(turn, worker.attempt, f"rank {turn.group.rank(worker.rank)} {reason}")


def climb_condemned(turn: Turn, rank: int, at: float) -> None:
    """A condemned worker still runs when this rung's time is over: on to the next, or fail over it."""
    group = turn.group
    slot = group.live.get(rank)
    condemned = slot.condemned if slot is not None else None
    if slot is None or condemned is None or condemned.climb.at != at or group.phase not in _RUNS:
        return
    ladder = group.plan.stop.ladder
    following = condemned.climb.rung + 1
    if following < len(ladder):
        climb = Climb(following, turn.now + ladder[following].wait)
        turn.put(replace(slot, condemned=condemned._replace(climb=climb)))
        waited_for = round(turn.now - condemned.since, 1)
        turn.events.append(events.worker_killed(turn.now, turn.who(slot.worker), ladder[following].signal, waited_for))
        send(turn, (slot.worker,), ladder[following])
        turn.effects.append(SetTimer(f"condemned:{rank}", climb.at))
        return
    reason = f"rank {group.rank(rank)} {condemned.reason} and cannot be killed"
    turn.set(failure=Failure(turn.now, slot.worker.attempt, group.rank(rank), reason, 1))
    name_unkillable(turn, [rank])
    stop(turn, Verdict("failed", 1, reason), reason)


_RUNS = (Phase.STARTING, Phase.RUNNING)


def _running(turn: Turn, worker: Worker) -> Slot | None:
    """The slot of a worker that runs and is to run on."""
    slot = turn.slot(worker)
    if slot is None or slot.pid is None or slot.status is not None or slot.condemned is not None:
        return None
    return slot if turn.group.phase in _RUNS else None
