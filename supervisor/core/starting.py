"""How an attempt begins: a world is formed, workers are asked for, they report, the group is ready."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events, restarts
from supervisor.core.messages import FormWorld, SetTimer, StartWorkers, Worker
from supervisor.core.state import Phase, Slot
from supervisor.core.turn import Turn, rung_of, send
from supervisor.plan import World


def start_requested(turn: Turn) -> None:
    """A finished group may be started anew, with a fresh budget, unless something of it could not be killed."""
    group = turn.group
    if group.phase is Phase.WAITING or (group.phase is Phase.FINISHED and not group.live):
        turn.set(history=restarts.History(), verdict=None, failure=None)
        begin_attempt(turn, "asked to start")


def begin_attempt(turn: Turn, why: str) -> None:
    group = turn.group
    assert not group.live
    attempt = group.attempt + 1
    turn.enter(
        Phase.STARTING,
        why,
        attempt=attempt,
        begun_at=turn.now,
        world=None,
        ended={},
        ready=0,
        ready_at=None,
        after=None,
        climb=None,
        resume_at=None,
        pauses={},
        strays={},
    )
    turn.events.append(events.group_starting(turn.now, group.plan.name, attempt, group.plan.workers))
    turn.effects.append(FormWorld(attempt))


def start_all(turn: Turn, world: World) -> None:
    group = turn.group
    workers = tuple(Worker(rank, group.attempt) for rank in range(group.plan.workers))
    turn.set(world=world, live={worker.rank: Slot(worker, turn.now) for worker in workers})
    turn.effects.append(StartWorkers(workers, world, group.history.used))


def start_one(turn: Turn, rank: int) -> None:
    """Start a single rank of a running group again (scope "worker")."""
    group = turn.group
    assert group.world is not None
    worker = Worker(rank, group.attempt + 1)
    pauses = dict(group.pauses)
    del pauses[rank]
    turn.put(Slot(worker, turn.now), attempt=worker.attempt, pauses=pauses)
    turn.effects.append(StartWorkers((worker,), group.world, group.history.used))


def resume_rank(turn: Turn, rank: int) -> None:
    at = turn.group.pauses[rank]
    if turn.now >= at:
        start_one(turn, rank)
    else:
        turn.effects.append(SetTimer(f"restart:{rank}", at))


def worker_started(turn: Turn, worker: Worker, pid: int) -> None:
    slot = turn.slot(worker)
    if slot is None or slot.pid is not None:
        return
    group = turn.group
    turn.events.append(events.worker_started(turn.now, turn.who(worker), pid))
    slot = replace(slot, pid=pid, since=turn.now)
    if group.phase in (Phase.STOPPING, Phase.FINISHED):
        turn.put(slot)  # it was past recall when the stop came: it is signalled like the others
        send(turn, (worker,), rung_of(group))
        return
    turn.put(replace(slot, ready=True), ready=group.ready + 1)
    settle_start(turn)


def worker_ready(turn: Turn, worker: Worker) -> None:
    slot = turn.slot(worker)
    if slot is None or slot.pid is None or slot.ready or slot.status is not None:
        return
    group = turn.group
    if group.phase not in (Phase.STARTING, Phase.RUNNING):
        return
    turn.put(replace(slot, ready=True), ready=group.ready + 1)
    turn.events.append(
        events.worker_ready(
            turn.now,
            turn.who(worker),
            slot.pid,
            turn.now - slot.since,
        )
    )
    settle_start(turn)


def settle_start(turn: Turn) -> None:
    """Say that the group has started, or is ready, when that has just become true."""
    group = turn.group
    if group.phase is Phase.STARTING:
        if any(slot.pid is None for slot in reversed(group.live.values())):  # ranks are started in order
            return
        turn.enter(Phase.RUNNING, "every worker has started", was_started=True)
        turn.events.append(
            events.group_started(
                turn.now, group.plan.name, group.attempt, group.plan.workers, turn.now - group.begun_at
            )
        )
        group = turn.group
    if group.phase is Phase.RUNNING and group.ready_at is None and group.ready:
        well = sum(1 for ended in group.ended.values() if ended.success) if group.ready < group.plan.workers else 0
        if group.ready + well == group.plan.workers:
            turn.set(ready_at=turn.now, was_ready=True, why="every worker is ready")
            turn.events.append(events.group_ready(turn.now, group.plan.name, group.attempt, turn.now - group.begun_at))
