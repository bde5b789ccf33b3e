"""A rolling restart: workers that serve each for itself are replaced a few at a time, so that the others go on.

- At most ``max_unavailable`` ranks are away at a time, those included that are away for another reason. Who is away
  anyway comes first: to replace it costs nobody anything. Who is held in the kernel is waited for.
- A rank that serves is drained first: it is said to be not ready, and stopped ``drain`` seconds later.
- The next one is taken when a replacement is ready, and has been so for ``ready_after``.
- What a roll does is somebody's wish and is charged to nobody. Those that it has started have a budget of their own; if
  one of them fails for good the roll halts, and everybody else runs on by the plan that he has (see ``stopping.halt``).
- If there are to be more workers the new ones are started at once; if fewer, the highest ranks are drained at once.
  Nobody else is restarted for it: no world is shared.
"""

from __future__ import annotations

from dataclasses import replace

from supervisor.core import events
from supervisor.core.judging import condemn
from supervisor.core.messages import CancelTimer, SetTimer
from supervisor.core.ranks import Ranks
from supervisor.core.starting import settle_start, start_one
from supervisor.core.state import Group, Phase, Roll, Slot
from supervisor.core.stopping import bring_back, is_draining, take_over
from supervisor.core.turn import Turn
from supervisor.plan import GroupPlan


def can_roll(group: Group, plan: GroupPlan) -> bool:
    """Whether the group comes to that plan by a roll: it serves, worker by worker, and all could run side by side.

    They share a MASTER_PORT and the doors in the runtime directory; a new rank may have the port of its own predecessor
    only.
    """
    if plan.first_port != group.plan.first_port and _ports(plan) & _ports(group.plan):
        return False
    if not group.plan.restart.scope == plan.restart.scope == "worker" or _shared(group.plan) != _shared(plan):
        return False
    if group.world is None or not (group.phase is Phase.RUNNING or (group.phase is Phase.STARTING and group.ready)):
        return False
    return any(slot.status is None and slot.worker.rank < plan.workers for slot in group.live.values())


def _ports(plan: GroupPlan) -> frozenset[int]:
    return frozenset(range(plan.first_port, plan.first_port + plan.workers)) if plan.first_port else frozenset()


def _shared(plan: GroupPlan) -> tuple[object, ...]:
    rules = plan.watchdog
    doors = (rules.timer_file, rules.timer_path, rules.notify, rules.heartbeat, plan.user, plan.group)
    return plan.master_addr, plan.master_port, plan.role, doors


def begin_roll(turn: Turn, plan: GroupPlan, why: str, *, everybody: bool = False) -> None:
    """Replace by workers of that plan all that run by another one; or, with ``everybody``, each of them.

    A roll that is under way goes on to that plan: whom it has started by it already is not started again.
    """
    group = turn.group
    earlier = group.roll
    goes_on = earlier is not None and group.rolls and earlier.everybody
    if earlier is not None and group.rolls and everybody:
        turn.set(roll=earlier._replace(why=why, everybody=True, renewed=frozenset()))
        turn.events.append(events.group_rolling(turn.now, plan.name, plan.workers, 0, why))
        return
    if earlier is not None and earlier.settles_at is not None:
        turn.effects.append(CancelTimer("roll"))
    taken: frozenset[int] = earlier.taken if earlier is not None else frozenset()
    renewed: frozenset[int] = earlier.renewed if earlier is not None and goes_on else frozenset()
    if plan is not group.newest_plan:
        go_by(turn, plan)
    _resize(turn, group.plan.workers, plan.workers)
    turn.set(roll=Roll(why, everybody or goes_on, taken, renewed))
    for rank in sorted(taken):
        if is_draining(turn.group.live.get(rank)) and not _is_stale(turn.group, rank):
            bring_back(turn, rank)
    turn.events.append(events.group_rolling(turn.now, plan.name, plan.workers, 0, why))


def go_by(turn: Turn, plan: GroupPlan, *, as_it_runs: bool = False) -> None:
    """Take the plan for the newest one, and of it at once what is no worker's own.

    ``as_it_runs``: whoever runs by the newest plan so far need not be started anew to run by this one.
    """
    group = turn.group
    at_once = replace(
        group.plan, workers=plan.workers, depends_on=plan.depends_on, required=plan.required, restart=plan.restart,
        stop=plan.stop, ready_after=plan.ready_after, unready_after=plan.unready_after,
    )  # fmt: skip
    newest = at_once if at_once == plan else plan
    plans: Ranks[GroupPlan] = Ranks()
    for rank, one in group.plans.items():
        plans = plans.put(rank, newest if one == plan or (as_it_runs and one is group.newest_plan) else one)
    take_over(turn, at_once)
    turn.set(plans=plans, next_plan=None if newest is at_once else newest)


def _resize(turn: Turn, before: int, after: int) -> None:
    """So many ranks from here on. Those that are no more, and away anyway, do not come back."""
    group = turn.group
    world = group.world
    assert world is not None
    more = after - before
    pauses, ended, well = group.pauses, group.ended, group.well
    for rank in range(after, before):
        if rank in pauses:
            pauses = pauses.drop(rank)
            if rank not in group.live:
                turn.effects.append(CancelTimer(f"restart:{rank}"))
        well -= group.has_ended_well(rank)
        if rank not in group.live:
            ended = ended.drop(rank)
    world = replace(
        world, local_world_size=after, world_size=world.world_size + more, role_world_size=world.role_world_size + more
    )
    turn.set(world=world, pauses=pauses, ended=ended, well=well)


def roll_on(turn: Turn) -> None:
    """Do what a roll can do now; to be asked after each input, as any of them may be what it has waited for."""
    group = turn.group
    for slot in group.live.values():
        if slot.worker.rank >= group.plan.workers and can_go(slot):
            _retire(turn, slot, "is not among the workers any more")
    _welcome_back(turn)
    if turn.group.rolls:
        _take_more(turn)
        _finish_or_wait(turn)
    settle_start(turn)


def _is_stale(group: Group, rank: int) -> bool:
    """The rank is still to be started anew."""
    roll = group.roll
    assert roll is not None
    by_another = group.plan_by(rank) is not group.newest_plan
    return by_another or group.is_missing(rank) or (roll.everybody and rank not in roll.renewed)


def can_go(slot: Slot) -> bool:
    """It runs, and neither we nor the kernel are about to end it or hold it."""
    return slot.pid is not None and slot.status is None and slot.condemned is None and slot.held is None


def _back_at(group: Group, rank: int) -> float | None:
    """Since when, for long enough to be counted on, the rank is back; None: it is not."""
    slot = group.live.get(rank)
    if slot is None or not slot.is_ready:
        return None
    return (slot.since if slot.readiness is None else slot.readiness.since) + group.plan.ready_after


def _welcome_back(turn: Turn) -> None:
    """Ranks that are back count as any other; so does one that has to go again, or whose number is no more."""
    group = turn.group
    roll = group.roll
    assert roll is not None
    away: set[int] = set()
    for rank in roll.taken:
        back_at = _back_at(group, rank)
        if rank >= group.plan.workers or group.has_ended_well(rank) or (group.rolls and group.is_missing(rank)):
            continue
        if back_at is None or (group.rolls and not _is_stale(group, rank) and turn.now < back_at):
            away.add(rank)
    if away != roll.taken:
        turn.set(roll=roll._replace(taken=frozenset(away)))


def who_is_away(group: Group) -> tuple[set[int], set[int]]:
    """The ranks that serve, and those that do not, though they have not ended well, or will be taken for a roll."""
    ranks = range(group.plan.workers)
    serving = {rank for rank in ranks if (slot := group.live.get(rank)) is not None and slot.is_ready}
    done = {rank for rank in ranks if group.has_ended_well(rank)}
    taken = group.roll.taken if group.roll is not None else frozenset()
    return serving, set(ranks) - serving - done | taken


def _take_more(turn: Turn) -> None:
    group = turn.group
    roll = group.roll
    assert roll is not None
    room = group.plan.restart.max_unavailable
    ranks = range(group.plan.workers)
    serving, away = who_is_away(group)
    taken = set(roll.taken)
    for rank in sorted((rank for rank in ranks if _is_stale(group, rank)), key=lambda rank: (rank in serving, rank)):
        if group.is_missing(rank):
            take(turn, rank)  # it serves nobody, and never did or will by itself
        elif rank in taken:
            if _waits_for_another(group, rank):
                take(turn, rank)
        elif len(taken) < room and (rank not in serving or len(away) < room) and _is_free(group, rank):
            take(turn, rank)
        else:
            continue
        taken.add(rank)
        away.add(rank)


def _is_free(group: Group, rank: int) -> bool:
    """Nobody waits for its start to be answered, or for its end."""
    slot = group.live.get(rank)
    return slot is None or slot.status is not None or can_go(slot)


def _waits_for_another(group: Group, rank: int) -> bool:
    """The rank was taken for a plan that is not the newest any more: what has come of that is to go, or not to come."""
    slot = group.live.get(rank)
    if slot is not None and slot.status is None:
        return can_go(slot)
    return rank in group.pauses and slot is None


def take(turn: Turn, rank: int) -> None:
    """Take the rank out of service, and let its replacement start as soon as nothing is left of it."""
    group = turn.group
    roll = group.roll
    assert roll is not None
    slot = group.live.get(rank)
    turn.set(roll=roll._replace(taken=roll.taken | {rank}), well=group.well - group.has_ended_well(rank))
    if slot is None:
        if rank in group.pauses:
            turn.effects.append(CancelTimer(f"restart:{rank}"))
        start_one(turn, rank)
    elif slot.status is not None:
        turn.set(pauses=group.pauses.put(rank, turn.now))
    else:
        _retire(turn, slot, f"is being replaced: {roll.why}")


def _retire(turn: Turn, slot: Slot, reason: str) -> None:
    drain = turn.group.plan.restart.drain if slot.is_ready else 0.0
    condemn(turn, slot, "daemon", reason, turn.group.plan.stop.ladder, look_for=drain)


def _finish_or_wait(turn: Turn) -> None:
    """It is over when everybody is there that is to be; else a replacement may have to prove itself for a while."""
    group = turn.group
    roll = group.roll
    assert roll is not None
    ranks = range(group.plan.workers)
    surplus = any(rank >= group.plan.workers for rank in group.live)
    instants = [at for rank in roll.taken if (at := _back_at(group, rank)) is not None and at > turn.now]
    settles_at = min(instants, default=None)
    if roll.taken or surplus or any(_is_stale(group, rank) for rank in ranks):
        if settles_at != roll.settles_at:
            turn.set(roll=roll._replace(settles_at=settles_at))
            turn.effects.append(CancelTimer("roll") if settles_at is None else SetTimer("roll", settles_at))
        return
    turn.set(plan=group.newest_plan, next_plan=None, plans=Ranks(), history=roll.history, roll=None)
    turn.events.append(
        events.group_rolling(turn.now, group.plan.name, group.plan.workers, len(roll.renewed), roll.why, over=True)
    )
