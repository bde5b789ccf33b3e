"""One step under way: the state so far, and the effects and events it has led to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, assert_never

from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.messages import Effect, SignalWorkers, Worker
from supervisor.core.state import TRANSITIONS, Group, Phase, Slot, Verdict
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
        self.group = replace(self.group, **changes)

    def enter(self, phase: Phase, why: str, **changes: Any) -> None:
        allowed = TRANSITIONS[self.group.phase]
        assert phase in allowed, f"{self.group.phase} -> {phase}"
        self.group = replace(self.group, phase=phase, since=self.now, why=why, **changes)

    def slot(self, worker: Worker) -> Slot | None:
        """The live slot of just this start of the worker; None for news from an earlier attempt."""
        slot = self.group.live.get(worker.rank)
        return slot if slot is not None and slot.worker == worker else None

    def who(self, worker: Worker) -> Who:
        return Who(self.group.plan.name, self.group.rank(worker.rank), worker.rank, worker.attempt)

    def put(self, slot: Slot, **changes: Any) -> None:
        self.set(live={**self.group.live, slot.worker.rank: slot}, **changes)

    def drop(self, rank: int, **changes: Any) -> None:
        live = dict(self.group.live)
        del live[rank]
        self.set(live=live, **changes)

    def finish(self, outcome: Literal["succeeded", "failed", "stopped"], exit_code: int, why: str) -> None:
        group = self.group
        self.enter(
            Phase.FINISHED, why, after=None, climb=None, resume_at=None, ready=0, ready_at=None,
            verdict=Verdict(outcome, exit_code, self.now, why),
        )  # fmt: skip
        name = group.plan.name
        took_for = self.now - group.since if group.phase is Phase.STOPPING else 0.0
        match outcome:
            case "succeeded":
                self.events.append(events.group_succeeded(self.now, name, group.attempt, group.history.used))
            case "stopped":
                self.events.append(events.group_stopped(self.now, name, group.attempt, took_for, why))
            case "failed":
                self.events.append(events.group_failed(self.now, name, group.attempt, why, exit_code))
            case _:
                assert_never(outcome)


def rung_of(group: Group) -> Rung:
    ladder = group.plan.stop.ladder
    return ladder[group.climb.rung if group.climb else -1]


def send(turn: Turn, workers: tuple[Worker, ...], rung: Rung) -> None:
    stop = turn.group.plan.stop
    reach = "tree" if rung is stop.ladder[-1] else stop.scope
    turn.effects.append(SignalWorkers(workers, rung.signal, reach))


def cause(group: Group) -> str:
    return group.failure.reason if group.failure else group.why
