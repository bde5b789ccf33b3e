"""One step under way: the state so far, and the effects and events it has led to."""

from __future__ import annotations

from typing import Any, assert_never

from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.messages import Effect, LeaveWorld, SignalWorkers, Worker
from supervisor.core.ranks import Ranks
from supervisor.core.returned import returned
from supervisor.core.state import TRANSITIONS, Again, Climb, Group, Phase, Slot, Verdict
from supervisor.plan import Rung


class Turn:
    """One step under way: the state so far and what it has led to."""

    __slots__ = ("effects", "events", "group", "now")

    def __init__(self, group: Group, now: float) -> None:
        self.group = group
        self.now = now
        self.effects: list[Effect] = []
        self.events: list[Event] = []

    def set(self, **changes: Any) -> None:
        self.group = self.group._replace(**changes)

    def enter(
        self, phase: Phase, why: str, *, after: Again | Verdict | None = None, climb: Climb | None = None,
        resume_at: float | None = None, **changes: Any,
    ) -> None:  # fmt: skip
        """Come into another phase. What only the last one waited for is forgotten."""
        assert phase in TRANSITIONS[self.group.phase], f"{self.group.phase} -> {phase}"
        self.group = self.group._replace(
            phase=phase, since=self.now, why=why, after=after, climb=climb, resume_at=resume_at, barrier_at=None,
            **changes,
        )  # fmt: skip

    def slot(self, worker: Worker) -> Slot | None:
        """The live slot of just this start of the worker; None for news from an earlier attempt."""
        slot = self.group.live.get(worker.rank)
        return slot if slot is not None and slot.worker == worker else None

    def who(self, worker: Worker) -> Who:
        return Who(self.group.plan.name, self.group.rank(worker.rank), worker.rank, worker.attempt)

    def put(self, slot: Slot, **changes: Any) -> None:
        self.group = self.group._replace(live=self.group.live.put(slot.worker.rank, slot), **changes)

    def drop(self, rank: int, **changes: Any) -> None:
        """Free the slot: all of its worker is gone, so it was not unkillable after all."""
        group = self.group
        self.group = group._replace(live=group.live.drop(rank), unkillable=group.unkillable - {rank}, **changes)

    def adopt_plan(self) -> None:
        """Nothing is live that was started by the old plan: go by the new one, if there is one."""
        assert not self.group.live
        if self.group.next_plan is not None:
            self.group = self.group._replace(plan=self.group.next_plan, next_plan=None, plans=Ranks())

    def finish(self, verdict: Verdict) -> None:
        group = self.group
        by = group.stopped_by if verdict.outcome == "stopped" else ""
        self.enter(Phase.FINISHED, verdict.why, verdict=verdict, stopped_by=by, cut_off="")
        name = group.plan.name
        if group.plan.rendezvous.is_elastic:
            self.effects.append(LeaveWorld(verdict.why, verdict.exit_code))
        match verdict.outcome:
            case "succeeded":
                self.events.append(
                    events.group_succeeded(self.now, name, group.attempt, group.history.used, returned(group))
                )
            case "stopped":
                took_for = self.now - group.since if group.phase is Phase.STOPPING else 0.0
                self.events.append(events.group_stopped(self.now, name, group.attempt, took_for, verdict.why))
            case "failed":
                self.events.append(events.group_failed(self.now, name, group.attempt, verdict.why, verdict.exit_code))
            case _:
                assert_never(verdict.outcome)


def degrade(turn: Turn, attempt: int, why: str) -> None:
    """One of its ranks is not ready any more: so the group is not, if it was."""
    group = turn.group
    if group.ready_at is None or group.serves:
        return
    turn.set(ready_at=None, begun_at=turn.now, why=why)
    turn.events.append(
        events.group_degraded(turn.now, group.plan.name, attempt, group.ready, group.plan.workers, why)
    )  # fmt: skip


def rung_of(group: Group) -> Rung:
    """The rung that a stop under way stands on; once the group has finished, the last."""
    ladder = group.plan.stop.ladder
    return ladder[group.climb.rung if group.climb else -1]


def send(turn: Turn, workers: tuple[Worker, ...], rung: Rung) -> None:
    stop = turn.group.plan.stop
    reach = "tree" if rung is stop.ladder[-1] else stop.scope
    turn.effects.append(SignalWorkers(workers, rung.signal, reach))
