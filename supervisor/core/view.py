"""The state of the groups as people are told it: ``Groups`` -> ``health.Snapshot``."""

from __future__ import annotations

import re
from collections.abc import Mapping

from supervisor.core import restarts
from supervisor.core.events import signal_name
from supervisor.core.groups import Groups, drain_reason
from supervisor.core.health import FailureView, GroupView, Only, RollView, Snapshot, WorkerView
from supervisor.core.returned import returned
from supervisor.core.state import Ended, Group, Phase, Slot
from supervisor.core.steady import Standing
from supervisor.core.stopping import is_draining

_QUOTED = re.compile(r"'[^']*'")


def snapshot(
    state: Groups, now: float, standings: Mapping[str, Standing] | None = None, *,
    behind: float = 0.0, workers: bool | Only = True,
) -> Snapshot:  # fmt: skip
    """Everything at the instant ``now``. ``workers`` false leaves the rows of single workers out: cheaper. So is one.

    ``standings``: what each group is taken for; one that is not there is taken for what it is.
    """
    drained = state.stage in ("starting", "running") and state.drained_by
    return Snapshot(
        at=now,
        stage="draining" if drained else state.stage,
        groups={
            name: group_view(group, now, standings.get(name) if standings else None, workers=workers)
            for name, group in state.groups.items()
        },
        why=drain_reason(state.drained_by) if drained else state.why,
        behind=behind,
    )


def group_view(
    group: Group, now: float, standing: Standing | None = None, *, workers: bool | Only = True
) -> GroupView:  # fmt: skip
    next_words, next_at = _next(group)
    failure = group.failure
    return GroupView(
        name=group.plan.name,
        phase=group.phase.value,
        since=group.since,
        ready_workers=group.ready,
        size=group.plan.workers,
        attempt=group.attempt,
        restarts=group.history.used,
        restarts_left=restarts.restarts_left(group.plan.restart, group.history, now),
        required=group.plan.required,
        ready=standing.ready if standing else group.is_ready,
        was_ready=group.was_ready,
        succeeded=group.verdict is not None and group.verdict.outcome == "succeeded",
        why=public(f"cut off from the other hosts: {group.cut_off}" if group.cut_off else group.why),
        next=next_words,
        next_at=next_at,
        round=group.world.round if group.world else 0,
        hosts=group.world.group_world_size if group.world else 0 if group.plan.rendezvous.is_elastic else 1,
        cut_off=public(group.cut_off),
        shared=group.plan.rendezvous.is_elastic,
        gang=group.plan.restart.scope == "group",
        last_failure=None
        if failure is None
        else FailureView(
            at=failure.at,
            attempt=failure.attempt,
            rank=failure.rank,
            reason=public(failure.reason),
            exit_code=failure.status.code if failure.status else failure.exit_code,
            signal=signal_name(failure.status.signal) if failure.status and failure.status.signal else None,
        ),
        workers=tuple(_worker_view(group, rank) for rank in _shown(group, workers)),
        returned=returned(group) if group.plan.returns and workers is True else {},
        failed=group.verdict is not None and group.verdict.outcome == "failed",
        stopped_by=group.stopped_by,
        roll=None if group.roll is None else RollView(len(group.roll.renewed), public(group.roll.halted)),
    )


def _shown(group: Group, workers: bool | Only) -> range:
    size = group.plan.workers
    if isinstance(workers, bool):
        return range(size if workers else 0)
    rank = workers.local_rank
    return range(rank, rank + 1) if workers.group == group.plan.name and rank < size else range(0)


def _next(group: Group) -> tuple[str | None, float | None]:
    match group.phase:
        case Phase.BACKING_OFF:
            return f"starts attempt {group.attempt + 1}", group.resume_at
        case Phase.STOPPING:
            assert group.climb is not None
            ladder = group.plan.stop.ladder
            if group.climb.rung + 1 < len(ladder):
                return f"{signal_name(ladder[group.climb.rung + 1].signal)} to what is left", group.climb.at
            return "gives up on what is left", group.climb.at
        case Phase.STARTING | Phase.RUNNING if group.pauses:
            rank, at = min(group.pauses.items(), key=lambda item: item[1])
            return f"restarts rank {group.rank(rank)}", at
        case Phase.STARTING | Phase.RUNNING if group.roll is not None and not group.roll.halted:
            return f"replaces its workers, {len(group.roll.renewed)}/{group.plan.workers} so far", None
        case _:
            return None, None


def _worker_view(group: Group, local_rank: int) -> WorkerView:
    rank = group.rank(local_rank)
    ended = group.ended.get(local_rank)
    slot = group.live.get(local_rank)
    if slot is not None:
        words = ended.words if ended is not None else ""
        since, why = _standing(slot)
        return WorkerView(rank, local_rank, _live(group, slot), since, slot.pid, slot.worker.attempt, words, why)
    if ended is not None:
        return WorkerView(rank, local_rank, _past(group, ended), ended.at, None, ended.worker.attempt, ended.words)
    return WorkerView(rank, local_rank, "pending", group.since)


def _live(group: Group, slot: Slot) -> str:
    if slot.worker.rank in group.unkillable:
        return "unkillable"
    if slot.status is not None:
        return "exited"
    if group.phase is Phase.STOPPING:
        return "stopping"
    if slot.is_ready:
        return "ready"
    if slot.condemned is not None:
        return "draining" if is_draining(slot) else "stopping"
    if slot.held is not None:
        return "uninterruptible"
    return "unready" if slot.readiness is not None and slot.readiness.why else "starting"


def _standing(slot: Slot) -> tuple[float, str]:
    """Since when the worker is as it is, and why it is not ready."""
    if slot.status is not None:
        return slot.since, ""
    if slot.condemned is not None:
        return slot.condemned.since, public(slot.condemned.reason)
    if slot.held is not None:
        return slot.held.since, public(slot.held.why)
    if slot.readiness is not None:
        return slot.readiness.since, public(slot.readiness.why)
    return slot.since, ""


def _past(group: Group, ended: Ended) -> str:
    if ended.worker.rank in group.pauses:
        return "backing_off"
    if ended.success:
        return "succeeded"
    return "stopped" if ended.by == "daemon" else "failed"


def public(words: str) -> str:
    """Without what stands in quotes: commands, folders and names of the user's are for records, not for probes."""
    return _QUOTED.sub("...", words)
