"""Whether a worker that runs is ready, and what becomes of one that is found failed while it still runs."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events
from supervisor.core.events import By
from supervisor.core.messages import EvidenceTaken, SetTimer, TakeEvidence, Worker, WorkerSilent, WorkerUnready
from supervisor.core.starting import settle_start
from supervisor.core.state import Condemned, Failure, Phase, Readiness, Slot, Verdict
from supervisor.core.stopping import halt, name_unkillable, stop
from supervisor.core.turn import Turn, degrade, send
from supervisor.plan import Rung, Source

LOOK = 2.0
"""Seconds that looking at a worker and its peers may take, besides what a dump is given, before the worker is ended."""


def worker_ready(turn: Turn, worker: Worker, source: Source) -> None:
    slot = _running(turn, worker)
    if slot is None or slot.readiness is None or source not in slot.readiness.missing:
        return
    missing = slot.readiness.missing - {source}
    if missing:
        turn.put(replace(slot, readiness=slot.readiness._replace(missing=missing)))
        return
    took_for = turn.now - slot.readiness.since
    after = replace(slot, readiness=Readiness(missing, turn.now))
    turn.put(after, ready=turn.group.ready + after.is_ready)
    turn.events.append(events.worker_ready(turn.now, turn.who(worker), slot.pid, source, took_for))
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
    since = slot.readiness.since if slot.readiness is not None and missing else turn.now
    after = replace(slot, readiness=Readiness(missing | {source}, since, reason))
    turn.put(after, ready=turn.group.ready - slot.is_ready)
    turn.events.append(events.worker_unready(turn.now, turn.who(worker), source, reason, found.output))
    degrade(turn, worker.attempt, f"rank {turn.group.rank(worker.rank)} is not ready: {reason}")
    probe = turn.group.plan_by(worker.rank).probe
    if source == "probe" and source not in missing and probe is not None and probe.liveness:
        ladder = turn.group.plan.stop.ladder
        turn.events.append(events.worker_probe_failed(turn.now, turn.who(worker), slot.pid, ladder[0].signal, reason))
        condemn(turn, after, "probe", f"failed its probe ({reason})", ladder)


def worker_silent(turn: Turn, silent: WorkerSilent) -> None:
    """The watchdog has found it. It gets the signal that is asked for, and SIGKILL if it outlives that; but first it is
    seen what it does."""
    slot = _running(turn, silent.worker)
    if slot is None:
        return
    turn.events.append(events.worker_silent(turn.now, turn.who(silent.worker), slot.pid, silent))
    last = turn.group.plan.stop.ladder[-1]
    ladder = (last,) if silent.signal == last.signal else (Rung(silent.signal, last.wait), last)
    dump = turn.group.plan.watchdog.dump
    look_for = LOOK + (dump.wait if dump.signal or dump.command else 0.0)
    if turn.group.plan.restart.scope == "group":
        turn.set(suspect=turn.group.suspect or silent.worker)
    condemn(turn, slot, silent.by, silent.reason, ladder, look_for=look_for)
    turn.effects.append(TakeEvidence(silent.worker, silent.reason))


def evidence_taken(turn: Turn, taken: EvidenceTaken) -> None:
    """It has been seen what the worker does: now it may be ended. If it is already, its file is still worth knowing."""
    slot = turn.slot(taken.worker)
    condemned = slot.condemned if slot is not None else None
    if slot is None or condemned is None:
        return
    known = condemned._replace(evidence=taken.path)
    if condemned.by == "daemon":
        return
    if condemned.looked_at or turn.group.phase not in _RUNS:
        turn.put(replace(slot, condemned=known))
    else:
        _climb(turn, slot, known)


def condemn(
    turn: Turn, slot: Slot, by: By, reason: str, ladder: tuple[Rung, ...], *, look_for: float = 0.0
) -> None:  # fmt: skip
    """End a worker that runs and is found failed, by a ladder of its own. What follows is up to its exit.

    ``reason`` goes on after "rank 3 ". ``look_for``: so many seconds at most pass before the first signal. ``by``
    "daemon": it has not failed, but is to make room.
    """
    worker = slot.worker
    at = turn.now + look_for
    turn.set(ready=turn.group.ready - slot.is_ready)
    condemned = Condemned(by, reason, turn.now, ladder[0].signal, ladder, at, looked_at=not look_for)
    if look_for:
        turn.put(replace(slot, condemned=condemned))
        turn.effects.append(SetTimer(f"condemned:{worker.rank}", at))
    else:
        _begin_to_climb(turn, slot, condemned)
    degrade(turn, worker.attempt, f"rank {turn.group.rank(worker.rank)} {reason}")


def climb_condemned(turn: Turn, rank: int, at: float) -> None:
    """A condemned worker still runs when this rung's time is over: on to the next, or fail over it."""
    group = turn.group
    slot = group.live.get(rank)
    condemned = slot.condemned if slot is not None else None
    if slot is None or condemned is None or condemned.at != at or group.phase not in _RUNS or rank in group.unkillable:
        return
    if not condemned.looked_at:
        _begin_to_climb(turn, slot, condemned)
        return
    if condemned.rungs:
        waited_for = round(turn.now - condemned.since, 1)
        turn.events.append(events.worker_killed(turn.now, turn.who(slot.worker), condemned.rungs[0].signal, waited_for))
        _climb(turn, slot, condemned)
        return
    reason = f"rank {group.rank(rank)} {condemned.reason} and cannot be killed"
    turn.set(failure=Failure(turn.now, slot.worker.attempt, group.rank(rank), reason, 1))
    name_unkillable(turn, [rank])
    if condemned.by == "daemon":
        halt(turn, reason)
    else:
        stop(turn, Verdict("failed", 1, reason), reason)


def _begin_to_climb(turn: Turn, slot: Slot, condemned: Condemned) -> None:
    if condemned.by == "daemon":
        turn.events.append(events.worker_stopping(turn.now, turn.who(slot.worker), condemned.signal, condemned.reason))
    _climb(turn, slot, condemned)


def _climb(turn: Turn, slot: Slot, condemned: Condemned) -> None:
    rung, *above = condemned.rungs
    at = turn.now + rung.wait
    turn.put(replace(slot, condemned=condemned._replace(rungs=tuple(above), at=at, looked_at=True)))
    send(turn, (slot.worker,), rung)
    turn.effects.append(SetTimer(f"condemned:{slot.worker.rank}", at))


_RUNS = (Phase.STARTING, Phase.RUNNING)


def _running(turn: Turn, worker: Worker) -> Slot | None:
    """The slot of a worker that runs and is to run on."""
    slot = turn.slot(worker)
    if slot is None or slot.pid is None or slot.status is not None or slot.condemned is not None:
        return None
    return slot if turn.group.phase in _RUNS else None
