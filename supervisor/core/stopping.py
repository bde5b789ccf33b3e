"""How a group is stopped: the ladder, what it leaves behind, and what comes after."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from supervisor.core import events
from supervisor.core.messages import AbandonStarts, CancelTimer, LeaveWorld, SetTimer, SignalWorkers, Worker
from supervisor.core.ranks import Ranks
from supervisor.core.starting import begin_attempt
from supervisor.core.state import Again, Climb, Failure, Phase, Slot, Verdict
from supervisor.core.turn import Turn, rung_of, send
from supervisor.plan import GroupPlan


def stop_requested(turn: Turn, reason: str, hurry: bool, by: str = "") -> None:
    group = turn.group
    verdict = Verdict("stopped", 0, reason)
    if by and group.phase is not Phase.FINISHED and not isinstance(group.after, Verdict):
        turn.set(stopped_by=by)
    match group.phase:
        case Phase.WAITING:
            turn.finish(verdict)
        case Phase.BACKING_OFF:
            turn.effects.append(CancelTimer("backoff"))
            turn.finish(verdict)
        case Phase.STARTING | Phase.RUNNING:
            _leave(turn)
            stop(turn, verdict, reason)
        case Phase.STOPPING:
            if isinstance(group.after, Again):
                _leave(turn)
                turn.set(after=verdict, why=reason)
        case Phase.FINISHED:
            pass
        case _:
            assert_never(group.phase)
    last = len(group.plan.stop.ladder) - 1
    if hurry and turn.group.climb is not None and turn.group.climb.rung < last:
        climb_to(turn, last)


def _leave(turn: Turn) -> None:
    """The other hosts need not wait until it has stopped here."""
    if turn.group.plan.rendezvous.is_elastic and turn.group.live:
        turn.effects.append(LeaveWorld())


def stop(turn: Turn, after: Again | Verdict, why: str) -> None:
    """End every live worker by the ladder, then do what ``after`` says; at once if none is live."""
    if turn.group.rolls:
        halt(turn, why)
    group = turn.group
    turn.effects.extend([CancelTimer(f"restart:{rank}") for rank in group.pauses])
    turn.effects.extend([CancelTimer(f"strays:{rank}") for rank in group.strays])
    if group.barrier_at is not None:
        turn.effects.append(CancelTimer("barrier"))
    condemned = [slot.worker.rank for slot in group.live.values() if slot.condemned is not None]
    turn.effects.extend([CancelTimer(f"condemned:{rank}") for rank in condemned])
    turn.set(pauses=Ranks(), strays=Ranks(), ready=0, ready_at=None, roll=None)
    if not group.live:
        _go_on(turn, after)
        return
    rung = group.plan.stop.ladder[0]
    climb = Climb(0, turn.now + rung.wait)
    turn.enter(Phase.STOPPING, why, after=after, climb=climb)
    there = tuple(
        [
            slot.worker
            for slot in group.live.values()
            if (slot.status is None and slot.pid is not None) or slot.worker.rank in group.strays
        ]
    )
    if there:
        send(turn, there, rung)
        turn.events.append(
            events.group_stopping(turn.now, group.plan.name, group.attempt, len(there), rung.signal, why)
        )
    turn.effects.append(SetTimer("ladder", climb.at))
    if group.awaited:
        turn.effects.append(AbandonStarts())


def climb_to(turn: Turn, to: int) -> None:
    """Send the signal of rung ``to`` to all that is still live."""
    group = turn.group
    rung = group.plan.stop.ladder[to]
    waited_for = round(turn.now - group.since, 1)
    climb = Climb(to, turn.now + rung.wait)
    turn.set(climb=climb)
    workers = tuple([slot.worker for slot in group.live.values() if slot.pid is not None])
    if workers:
        turn.events.extend(
            [events.worker_killed(turn.now, turn.who(worker), rung.signal, waited_for) for worker in workers]
        )
        send(turn, workers, rung)
    turn.effects.append(SetTimer("ladder", climb.at))


def settle_stop(turn: Turn) -> None:
    """A stop under way is over once nothing is live."""
    after = turn.group.after
    if after is not None and not turn.group.live:
        turn.effects.append(CancelTimer("ladder"))
        _go_on(turn, after)


def _go_on(turn: Turn, after: Again | Verdict) -> None:
    turn.adopt_plan()
    group = turn.group
    match after:
        case Verdict():
            turn.finish(after)
        case Again(pause, _, why) if pause:
            at = turn.now + pause
            turn.enter(Phase.BACKING_OFF, why, resume_at=at)
            turn.effects.append(SetTimer("backoff", at))
            turn.events.append(events.group_backing_off(turn.now, group.plan.name, group.attempt, pause, why))
        case Again(_, _, why):
            begin_attempt(turn, f"restart: {why}")
        case _:
            assert_never(after)


def halt(turn: Turn, why: str) -> None:
    """A rolling restart goes no further, or not even those go on that it had come to: everybody else does as he is.

    Who was only being drained serves again.
    """
    group = turn.group
    roll = group.roll
    assert roll is not None
    if roll.settles_at is not None:
        turn.effects.append(CancelTimer("roll"))
    draining = [rank for rank in roll.taken if is_draining(group.live.get(rank))]
    turn.set(roll=roll._replace(halted=why, settles_at=None, taken=roll.taken.difference(draining)))
    for rank in draining:
        bring_back(turn, rank)
    turn.events.append(
        events.group_rolling(
            turn.now, group.plan.name, group.plan.workers, len(roll.renewed), why, over=True, halted=True
        )
    )


def is_draining(slot: Slot | None) -> bool:
    """Whether the worker is to be replaced, and has not been told to end yet."""
    return (
        slot is not None
        and slot.status is None
        and slot.condemned is not None
        and slot.condemned.by == "daemon"
        and not slot.condemned.looked_at
    )


def bring_back(turn: Turn, rank: int) -> None:
    """The worker, which was being drained, serves on."""
    after = replace(turn.group.live[rank], condemned=None)
    turn.put(after, ready=turn.group.ready + after.is_ready)
    turn.effects.append(CancelTimer(f"condemned:{rank}"))


def take_over(turn: Turn, plan: GroupPlan) -> None:
    """Go by this plan from here on. What workers have left behind climbs a new ladder from its foot."""
    group = turn.group
    if plan.stop.ladder != group.plan.stop.ladder:
        strays = group.strays
        for rank, climb in strays.items():
            strays = strays.put(rank, Climb(-1, climb.at))
        turn.set(strays=strays)
    turn.set(plan=plan)


def strays_found(turn: Turn, worker: Worker, processes: tuple[str, ...]) -> None:
    """The worker has ended and its children live on: they are stopped by a ladder of their own."""
    slot = turn.slot(worker)
    if slot is None or slot.status is None:
        return
    group = turn.group
    if group.phase in (Phase.STARTING, Phase.RUNNING):
        if worker.rank in group.strays:
            return
        rung = group.plan.stop.ladder[0]
        climb = Climb(0, turn.now + rung.wait)
        turn.set(strays=group.strays.put(worker.rank, climb))
        turn.effects.append(SetTimer(f"strays:{worker.rank}", climb.at))
    else:
        rung = rung_of(group)
    turn.effects.append(SignalWorkers((worker,), rung.signal, "tree"))
    turn.events.append(events.worker_orphan_killed(turn.now, turn.who(worker), rung.signal, processes))


def climb_strays(turn: Turn, rank: int, climb: Climb) -> None:
    """What the worker left behind is still there after this rung: on to the next, or fail over it."""
    group = turn.group
    ladder = group.plan.stop.ladder
    slot = group.live[rank]
    if climb.rung + 1 < len(ladder):
        rung = ladder[climb.rung + 1]
        following = Climb(climb.rung + 1, turn.now + rung.wait)
        turn.set(strays=group.strays.put(rank, following))
        turn.effects.append(SignalWorkers((slot.worker,), rung.signal, "tree"))
        turn.effects.append(SetTimer(f"strays:{rank}", following.at))
        waited_for = round(turn.now - slot.since, 1)
        turn.events.append(events.worker_killed(turn.now, turn.who(slot.worker), rung.signal, waited_for))
        return
    reason = f"rank {group.rank(rank)} left processes that cannot be killed"
    turn.set(
        strays=group.strays.drop(rank), failure=Failure(turn.now, slot.worker.attempt, group.rank(rank), reason, 1)
    )
    name_unkillable(turn, [rank])
    stop(turn, Verdict("failed", 1, reason), reason)


def leave_unkillable(turn: Turn) -> None:
    """The ladder is at its end and some still live: hold their slots and fail, whatever was to come."""
    group = turn.group
    assert group.after is not None
    ranks = list(group.live)
    name_unkillable(turn, ranks)
    names = ", ".join(str(group.rank(rank)) for rank in ranks[:8]) + (" ..." if len(ranks) > 8 else "")
    why = f"rank{'s' if len(ranks) > 1 else ''} {names} cannot be killed"
    turn.finish(Verdict("failed", group.after.exit_code or 1, why))


def name_unkillable(turn: Turn, ranks: list[int]) -> None:
    """Hold the slots of these ranks for good, and say so."""
    group = turn.group
    turn.set(unkillable=group.unkillable.union(ranks))
    for rank in ranks:
        if rank not in group.unkillable:
            slot = group.live[rank]
            turn.events.append(events.worker_unkillable(turn.now, turn.who(slot.worker), slot.pid, ""))
