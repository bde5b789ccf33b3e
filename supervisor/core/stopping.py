"""How a group is stopped: the ladder, what it leaves behind, and what comes after."""

from __future__ import annotations

from typing import assert_never

from supervisor.core import events
from supervisor.core.messages import AbandonStarts, CancelTimer, SetTimer, SignalWorkers, Worker
from supervisor.core.starting import begin_attempt
from supervisor.core.state import After, Climb, Phase
from supervisor.core.turn import Turn, cause, rung_of, send


def stop_requested(turn: Turn, reason: str, hurry: bool) -> None:
    group = turn.group
    after = After(None, "stopped", 0, reason)
    match group.phase:
        case Phase.WAITING | Phase.BACKING_OFF:
            if group.phase is Phase.BACKING_OFF:
                turn.effects.append(CancelTimer("backoff"))
            turn.finish("stopped", 0, reason)
        case Phase.STARTING | Phase.RUNNING:
            stop(turn, after, reason)
            if hurry and turn.group.phase is Phase.STOPPING:
                _hurry(turn)
        case Phase.STOPPING:
            if group.after is None or group.after.pause is not None:
                turn.set(after=after, why=reason)
            if hurry:
                _hurry(turn)
        case Phase.FINISHED:
            pass
        case _:
            assert_never(group.phase)


def stop(turn: Turn, after: After, why: str) -> None:
    """End every live worker by the ladder, then do what ``after`` says; at once if none is live."""
    group = turn.group
    turn.effects.extend(CancelTimer(f"restart:{rank}") for rank in group.pauses)
    turn.effects.extend(CancelTimer(f"strays:{rank}") for rank in group.strays)
    turn.set(after=after, pauses={}, strays={}, ready=0, ready_at=None)
    if not group.live:
        settle_stop(turn)
        return
    rung = group.plan.stop.ladder[0]
    climb = Climb(0, turn.now + rung.wait)
    turn.enter(Phase.STOPPING, why, climb=climb)
    strays = group.strays
    there = tuple(
        slot.worker
        for rank, slot in group.live.items()
        if (slot.pid is not None and slot.status is None) or rank in strays
    )
    if there:
        send(turn, there, rung)
        turn.events.append(
            events.group_stopping(turn.now, group.plan.name, group.attempt, len(there), rung.signal, why)
        )
    turn.effects.append(SetTimer("ladder", climb.at))
    turn.effects.append(AbandonStarts())


def _hurry(turn: Turn) -> None:
    group = turn.group
    last = len(group.plan.stop.ladder) - 1
    if group.climb is not None and group.climb.rung < last:
        climb_to(turn, last)


def climb_to(turn: Turn, to: int) -> None:
    """Send the signal of rung ``to`` to all that is still live."""
    group = turn.group
    assert group.climb is not None
    rung = group.plan.stop.ladder[to]
    waited_for = turn.now - group.since
    climb = Climb(to, turn.now + rung.wait)
    turn.set(climb=climb)
    workers = tuple(slot.worker for slot in group.live.values() if slot.pid is not None)
    for worker in workers:
        turn.events.append(
            events.worker_killed(
                turn.now,
                turn.who(worker),
                rung.signal,
                round(waited_for, 1),
            )
        )
    send(turn, workers, rung)
    turn.effects.append(SetTimer("ladder", climb.at))


def settle_stop(turn: Turn) -> None:
    """Go on to what comes after a stop, once nothing is live."""
    group = turn.group
    after = group.after
    if after is None or group.live:
        return
    if group.phase is Phase.STOPPING:
        turn.effects.append(CancelTimer("ladder"))
        turn.set(climb=None)
    if after.outcome is not None:
        turn.finish(after.outcome, after.exit_code, after.why)
    elif after.pause:
        at = turn.now + after.pause
        turn.enter(
            Phase.BACKING_OFF, group.why if group.phase is Phase.STOPPING else cause(group), resume_at=at, after=None
        )
        turn.effects.append(SetTimer("backoff", at))
        turn.events.append(
            events.group_backing_off(turn.now, group.plan.name, group.attempt, after.pause, turn.group.why)
        )
    else:
        begin_attempt(turn, f"restart: {cause(group)}")


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
        turn.set(strays={**group.strays, worker.rank: climb})
        turn.effects.append(SetTimer(f"strays:{worker.rank}", climb.at))
    else:
        rung = rung_of(group)
    turn.effects.append(SignalWorkers((worker,), rung.signal, "tree"))
    turn.events.append(events.worker_orphan_killed(turn.now, turn.who(worker), rung.signal, processes))


def climb_strays(turn: Turn, rank: int, climb: Climb) -> None:
    group = turn.group
    ladder = group.plan.stop.ladder
    worker = group.live[rank].worker
    if climb.rung + 1 < len(ladder):
        rung = ladder[climb.rung + 1]
        following = Climb(climb.rung + 1, turn.now + rung.wait)
        turn.set(strays={**group.strays, rank: following})
        turn.effects.append(SignalWorkers((worker,), rung.signal, "tree"))
        turn.effects.append(SetTimer(f"strays:{rank}", following.at))
        turn.events.append(
            events.worker_killed(
                turn.now,
                turn.who(worker),
                rung.signal,
                round(turn.now - group.live[rank].since, 1),
            )
        )
        return
    strays = dict(group.strays)
    del strays[rank]
    turn.set(strays=strays)
    reason = f"rank {group.rank(rank)} left processes that cannot be killed"
    _name_unkillable(turn, (rank,))
    stop(turn, After(None, "failed", 1, reason), reason)


def leave_unkillable(turn: Turn, ranks: tuple[int, ...]) -> None:
    """The ladder is at its end and these still live: hold their slots and fail, whatever was to come."""
    group = turn.group
    _name_unkillable(turn, ranks)
    names = ", ".join(str(group.rank(rank)) for rank in ranks[:8]) + (" ..." if len(ranks) > 8 else "")
    exit_code = group.failure.exit_code if group.failure else 1
    turn.finish("failed", exit_code, f"rank{'s' if len(ranks) > 1 else ''} {names} cannot be killed")


def _name_unkillable(turn: Turn, ranks: tuple[int, ...]) -> None:
    group = turn.group
    turn.set(unkillable=group.unkillable.union(ranks))
    for rank in ranks:
        slot = group.live[rank]
        turn.events.append(events.worker_unkillable(turn.now, turn.who(slot.worker), slot.pid, ""))
