"""How an attempt begins: a world is formed, workers are asked for, they report, the group is ready."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events, peer_events, restarts
from supervisor.core.messages import FormWorld, SetTimer, StartWorkers, Worker
from supervisor.core.ranks import Ranks
from supervisor.core.state import Phase, Readiness, Slot
from supervisor.core.turn import Turn, rung_of, send
from supervisor.plan import World


def start_requested(turn: Turn) -> None:
    """A finished group may be started anew, with a fresh budget, unless something of it could not be killed."""
    group = turn.group
    if group.phase is Phase.WAITING or (group.phase is Phase.FINISHED and not group.live):
        turn.set(history=restarts.History(), verdict=None, failure=None)
        turn.adopt_plan()
        begin_attempt(turn, "asked to start")


def begin_attempt(turn: Turn, why: str) -> None:
    group = turn.group
    assert not group.live
    attempt = group.attempt + 1
    turn.enter(
        Phase.STARTING, why, attempt=attempt, begun_at=turn.now, world=None, ended=Ranks(), well=0, suspect=None,
        stopped_by="",
    )  # fmt: skip
    turn.events.append(events.group_starting(turn.now, group.plan.name, attempt, group.plan.workers))
    if group.plan.rendezvous.is_elastic:
        turn.set(why=f"{why}; waits for the other hosts")
        turn.events.append(peer_events.rendezvous_joining(turn.now, group.plan.name, attempt))
    turn.effects.append(FormWorld(attempt))


def start_all(turn: Turn, world: World, restarts: int | None = None) -> None:
    """``restarts``: how many the hosts of the world have used together, if they count together."""
    group = turn.group
    if restarts is not None:
        turn.set(history=replace(group.history, used=restarts), why=f"in round {world.round}")
        group = turn.group
        took_for = turn.now - group.begun_at
        turn.events.append(
            peer_events.rendezvous_formed(turn.now, group.plan.name, group.attempt, world, restarts, took_for)
        )
    workers = tuple([Worker(rank, group.attempt) for rank in range(group.plan.workers)])
    turn.set(world=world, live=Ranks([Slot(worker, turn.now) for worker in workers]), awaited=len(workers))
    turn.effects.append(StartWorkers(workers, world, group.history.used, group.plan))


def start_one(turn: Turn, rank: int) -> None:
    """Start a single rank of the group again (scope "worker"), by the newest plan if a roll wants that."""
    group = turn.group
    assert group.world is not None
    worker = Worker(rank, group.attempt + 1)
    plan = group.plan_by(rank)
    if group.roll is not None and not group.roll.halted and rank in group.roll.taken:
        plan = group.newest_plan
        plans = group.plans.drop(rank) if plan is group.plan else group.plans.put(rank, plan)
        turn.set(roll=group.roll._replace(renewed=group.roll.renewed | {rank}), plans=plans)
    turn.put(
        Slot(worker, turn.now), attempt=worker.attempt, pauses=group.pauses.drop(rank), awaited=group.awaited + 1
    )  # fmt: skip
    turn.effects.append(StartWorkers((worker,), group.world, turn.group.history_of(rank).used, plan))


def resume_rank(turn: Turn, rank: int) -> None:
    """Nothing of the rank is left: start it again as soon as its pause is over."""
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
    awaited = group.plan_by(worker.rank).readiness
    slot = Slot(worker, turn.now, pid, readiness=Readiness(awaited, turn.now) if awaited else None)
    if group.phase in (Phase.STARTING, Phase.RUNNING):
        turn.put(slot, awaited=group.awaited - 1, ready=group.ready + slot.is_ready)
        settle_start(turn)
    else:
        turn.put(slot, awaited=group.awaited - 1)
        send(turn, (worker,), rung_of(group))  # past recall when the stop came: it is signalled like the others


def settle_start(turn: Turn) -> None:
    """Say that the group has started, or is ready, when that has just become true."""
    group = turn.group
    if group.phase is Phase.STARTING:
        if group.awaited or group.pauses:
            return
        turn.enter(Phase.RUNNING, "every worker has started", was_started=True)
        turn.events.append(
            events.group_started(
                turn.now, group.plan.name, group.attempt, group.plan.workers, turn.now - group.begun_at
            )
        )
    if group.ready_at is None and group.serves:
        turn.set(ready_at=turn.now, was_ready=True, why="every worker is ready")
        turn.events.append(events.group_ready(turn.now, group.plan.name, group.attempt, turn.now - group.begun_at))
