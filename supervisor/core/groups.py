"""All groups of one daemon as one machine: who may start, who must stop, when everything is over and how it went.

It steps single groups (``group.step``) and, whenever one comes into another standing, asks ``order`` who is next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, assert_never

from supervisor.core import events, order, reload
from supervisor.core.events import Event
from supervisor.core.group import step
from supervisor.core.health import Stage
from supervisor.core.messages import (
    CancelTimer,
    DependencyLost,
    Effect,
    Input,
    PlanChanged,
    RankRequested,
    RunRequested,
    SetTimer,
    StartRequested,
    StopRequested,
)
from supervisor.core.order import Standing
from supervisor.core.state import Group, Phase
from supervisor.plan import Condition, DaemonPlan


@dataclass(frozen=True, slots=True)
class Of:
    """An input for one group."""

    group: str
    input: Input


@dataclass(frozen=True, slots=True)
class EndRequested:
    """The whole daemon is to stop, and why. A second time, with ``hurry``: without waiting.

    ``forward``: the signal that workers get first, instead of what stands first in their group's ladder.
    """

    reason: str
    hurry: bool = False
    forward: int | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The daemon is up: groups may start."""


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """The configuration was read anew and says ``plan``. ``seeds`` and ``last_attempts`` as in ``begin``."""

    plan: DaemonPlan
    seeds: Mapping[str, int]
    last_attempts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """A person wants clients to go elsewhere, while everything runs on."""

    by: str


@dataclass(frozen=True, slots=True)
class UndrainRequested:
    """Clients may come back."""

    by: str


@dataclass(frozen=True, slots=True)
class DrainOver:
    """The daemon's drain timer, set for the instant ``at``, is due."""

    at: float


_TO_BE: Mapping[Condition, str] = {"started": "be started", "ready": "be ready", "succeeded": "succeed"}

Arrival = Of | EndRequested | Begun | ReloadRequested | DrainRequested | UndrainRequested | DrainOver


class Groups(NamedTuple):
    """The state of all groups, in the order of the configuration; a value.

    ``stage`` is the daemon's; ``first_failed`` the group whose failure gives the daemon its exit code. ``leaving``:
    groups that the configuration has no more; they come last, and are forgotten once they have stopped. ``drained_by``:
    the person who keeps clients away while the daemon runs on.
    """

    plan: DaemonPlan
    groups: Mapping[str, Group]
    stage: Stage = "starting"
    why: str = ""
    drained_at: float | None = None
    first_failed: str | None = None
    leaving: frozenset[str] = frozenset()
    drained_by: str = ""

    @property
    def over(self) -> bool:
        """Every group has finished, and the daemon is not to stay, not even for one that may be started again."""
        groups = self.groups.values()
        if self.stage == "stopping":
            return all(group.phase is Phase.FINISHED for group in groups)
        return self.plan.when_done == "exit" and all(group.is_done for group in groups)

    @property
    def exit_code(self) -> int:
        """Of the first required group that failed; 0 when none has. A stop that was asked for is a success."""
        if self.first_failed is None:
            return 0
        verdict = self.groups[self.first_failed].verdict
        return verdict.exit_code if verdict is not None else 0


@dataclass(frozen=True, slots=True)
class Result:
    """``effects`` are named by group; None is the daemon's own timer."""

    groups: Groups
    effects: tuple[tuple[str | None, Effect], ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(slots=True)
class _Round:
    """One arrival being worked through, with all that it leads to."""

    state: Groups
    now: float
    effects: list[tuple[str | None, Effect]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def feed(self, name: str, input: Input) -> bool:
        """Step one group; true when its standing has changed, so that its neighbours must be looked at."""
        before = self.state.groups[name]
        outcome = step(before, input, self.now)
        after = outcome.group
        if after is before and not outcome.effects and not outcome.events:
            return False
        self.effects.extend([(name, effect) for effect in outcome.effects])
        self.events.extend(outcome.events)
        self.state = self.state._replace(groups={**self.state.groups, name: after})
        verdict = after.verdict
        if (
            verdict is not None
            and verdict is not before.verdict
            and verdict.outcome == "failed"
            and after.plan.required
        ):
            self.state = self.state._replace(first_failed=self.state.first_failed or name)
        return (before.phase, before.ready_at, before.verdict, before.cut_off) != (
            after.phase, after.ready_at, after.verdict, after.cut_off
        )  # fmt: skip


def begin(plan: DaemonPlan, seeds: Mapping[str, int], last_attempts: Mapping[str, int], now: float) -> Groups:
    """Nothing has started yet. ``last_attempts``: numbers that are used up already (logs of them exist)."""
    return Groups(
        plan,
        {
            name: Group(group, seeds[name], since=now, why="not started yet", attempt=last_attempts.get(name, -1))
            for name, group in plan.groups.items()
        },
    )


def standing(group: Group) -> Standing:
    verdict = group.verdict
    return Standing(
        was_started=group.was_started,
        ready=group.is_ready,
        was_ready=group.was_ready,
        finished=group.phase is Phase.FINISHED,
        succeeded=verdict is not None and verdict.outcome == "succeeded",
        held=bool(group.stopped_by),
    )


def advance(state: Groups, arrival: Arrival, now: float) -> Result:
    """What follows from one arrival, for all groups."""
    round = _Round(state, now)
    match arrival:
        case Of(name, input):
            if name not in state.groups or (isinstance(input, StartRequested) and state.stage != "running"):
                return Result(state)
            if isinstance(input, RunRequested | RankRequested) and (
                state.stage not in ("starting", "running") or name in state.leaving
            ):
                return Result(state)
            if not round.feed(name, input) and (round.state is state or name not in state.leaving):
                return Result(round.state, tuple(round.effects), tuple(round.events))
            if isinstance(input, RunRequested):
                round.state = _with_first_failed(round.state)
        case Begun():
            if state.stage != "starting":
                return Result(state)
            round.state = state._replace(stage="running")
        case EndRequested(reason, hurry, forward):
            if forward is not None and state.stage in ("starting", "running"):
                round.state = _with_first_rung(state, forward)
            _end(round, reason, hurry)
        case ReloadRequested():
            _reload(round, arrival)
        case DrainRequested(by):
            if state.stage in ("starting", "running") and not state.drained_by:
                round.state = state._replace(drained_by=by)
                round.events.append(events.daemon_draining(now, drain_reason(by), None))
        case UndrainRequested(by):
            if state.drained_by:
                round.state = state._replace(drained_by="")
                round.events.append(events.daemon_undrained(now, by))
        case DrainOver(at):
            if state.stage == "draining" and state.drained_at == at:
                _enter_stopping(round)
        case _:
            assert_never(arrival)
    _settle(round)
    return Result(round.state, tuple(round.effects), tuple(round.events))


def why_not_reload(state: Groups, plan: DaemonPlan) -> str:
    """Why the daemon cannot go by that plan now; empty: it can. It goes by all of a plan or by nothing of it."""
    if state.stage not in ("starting", "running"):
        return f"rankd is {state.stage}"
    fixed = reload.compare(state.plan, plan).fixed
    return f"only a restart of rankd can change {', '.join(fixed)}" if fixed else ""


def missing_for(state: Groups, name: str) -> str:
    """What stands against it that the group starts now, of all that it depends on; empty: nothing."""
    verdict, other = order.may_start(state.groups[name].plan.depends_on, _standings(state.groups.values()))
    if verdict == "met":
        return ""
    phase = state.groups[other].phase.replace("_", " ")
    return f"depends on {other}, which is {phase} and not {state.groups[name].plan.depends_on[other]}"


def _reload(round: _Round, new: ReloadRequested) -> None:
    state, now = round.state, round.now
    if why_not_reload(state, new.plan):
        return
    changes = reload.compare(state.plan, new.plan)
    groups = {
        name: state.groups.get(name)
        or Group(plan, new.seeds[name], since=now, why="added by a reload", attempt=new.last_attempts.get(name, -1))
        for name, plan in new.plan.groups.items()
    }
    leaving = [name for name in state.groups if name not in groups]
    # Nobody waits for it any more: neither /readyz nor the exit code.
    groups |= {name: _not_required(state.groups[name]) for name in leaving}
    round.state = state._replace(plan=new.plan, groups=groups, leaving=frozenset(leaving))
    round.events.append(events.daemon_reloaded(now, changes))
    for name, plan in new.plan.groups.items():
        if name in state.leaving:
            round.feed(name, PlanChanged(plan, restart=True, wanted=True))
        elif change := changes.changed.get(name):
            round.feed(name, PlanChanged(plan, restart=bool(change.restart)))
    round.state = _with_first_failed(round.state)


def drain_reason(by: str) -> str:
    """Why the daemon drains, if a person has asked for it."""
    return f"asked by {by} with `rankd drain`"


def _with_first_failed(state: Groups) -> Groups:
    """What has failed and is not over it still counts, in the order in which it was known."""
    failed = [name for name, group in state.groups.items() if group.plan.required and _has_failed(group)]
    return state._replace(first_failed=state.first_failed if state.first_failed in failed else next(iter(failed), None))


def _has_failed(group: Group) -> bool:
    return group.verdict is not None and group.verdict.outcome == "failed"


def _not_required(group: Group) -> Group:
    return group._replace(plan=replace(group.plan, required=False))


def _end(round: _Round, reason: str, hurry: bool) -> None:
    state = round.state
    match state.stage:
        case "starting" | "running":
            # What failed before has been told; the stop that was asked for is judged by how it goes from here.
            round.state = state._replace(why=reason, first_failed=None)
            delay = state.plan.drain_delay
            if delay and not hurry:
                at = round.now + delay
                round.state = round.state._replace(stage="draining", drained_at=at)
                round.events.append(events.daemon_draining(round.now, reason, delay))
                round.effects.append((None, SetTimer("drain", at)))
            else:
                _enter_stopping(round)
        case "draining":
            if hurry:
                round.effects.append((None, CancelTimer("drain")))
                _enter_stopping(round)
        case "stopping" | "stopped":
            pass
        case _:
            assert_never(state.stage)
    if hurry and round.state.stage == "stopping":
        for name in state.groups:
            round.feed(name, StopRequested(reason, hurry=True))


def _with_first_rung(state: Groups, signal: int) -> Groups:
    """Every ladder begins with that signal, but for those that have no rung to be asked on: they only kill."""

    def changed(group: Group) -> Group:
        first, *others = group.plan.stop.ladder
        if not others:
            return group
        stop = replace(group.plan.stop, ladder=(replace(first, signal=signal), *others))
        return group._replace(plan=replace(group.plan, stop=stop))

    return state._replace(groups={name: changed(group) for name, group in state.groups.items()})


def _enter_stopping(round: _Round) -> None:
    round.state = round.state._replace(stage="stopping", drained_at=None)
    round.events.append(events.daemon_stopping(round.now, round.state.why))


def _settle(round: _Round) -> None:
    """Start and stop whoever may, until nobody is left who may."""
    while _start_some(round) | _stop_some(round) | _dismiss_some(round):
        pass
    state = round.state
    if state.stage != "running" or state.plan.when_done == "stay":
        return
    required = [group for group in state.groups.values() if group.plan.required]
    done = [group.is_done for group in required or state.groups.values()]
    if all(done) and not state.over:
        round.state = state._replace(why="every required group has finished")
        _enter_stopping(round)
        _settle(round)


def _start_some(round: _Round) -> bool:
    if round.state.stage != "running":
        return False
    changed = False
    for name, group in round.state.groups.items():
        if group.phase is not Phase.WAITING or name in round.state.leaving:
            continue
        standings = _standings(round.state.groups.values())
        verdict, other = order.may_start(group.plan.depends_on, standings)
        if verdict == "met":
            changed |= round.feed(name, StartRequested())
        elif verdict == "pending":
            by = round.state.groups[other].stopped_by
            why = f"waits for {other} to {_TO_BE[group.plan.depends_on[other]]}" + (
                f"; {by} has stopped it" if by else ""
            )
            round.state = round.state._replace(groups={**round.state.groups, name: group._replace(why=why)})
        else:
            finished = round.state.groups[other].verdict
            reason = f"has {finished.outcome}" if finished is not None else "has finished"
            changed |= round.feed(name, DependencyLost(other, reason))
    return changed


def _stop_some(round: _Round) -> bool:
    stopping = round.state.stage == "stopping"
    if not stopping and not round.state.leaving:
        return False
    changed = False
    plans = [group.plan for group in round.state.groups.values()]
    for name, group in round.state.groups.items():
        if group.phase is Phase.FINISHED or not (stopping or name in round.state.leaving):
            continue
        if order.may_stop(name, plans, _standings(round.state.groups.values())):
            why = round.state.why if stopping else "the configuration has it no more"
            changed |= round.feed(name, StopRequested(why))
    return changed


def _dismiss_some(round: _Round) -> bool:
    """Forget the groups that were to leave and have. What cannot be killed keeps its group."""
    state = round.state
    leaving = {name: state.groups[name] for name in state.leaving}
    gone = {name for name, group in leaving.items() if group.phase is Phase.FINISHED and not group.live}
    if not gone:
        return False
    staying = {name: group for name, group in state.groups.items() if name not in gone}
    round.state = state._replace(groups=staying, leaving=state.leaving - gone)
    return True


def _standings(groups: Iterable[Group]) -> dict[str, Standing]:
    return {group.plan.name: standing(group) for group in groups}


def stop_deadline(state: Groups, now: float) -> float | None:
    """The latest instant at which a stop under way will have come to its end; None when none is.

    Groups stop after those that depend on them: in the worst case one ladder after the other.
    """
    if state.stage not in ("draining", "stopping"):
        return None
    begun = state.drained_at if state.drained_at is not None else now
    later = 0.0
    for group in state.groups.values():
        ladder = group.plan.stop.ladder
        if group.climb is not None:
            begun = max(begun, group.climb.at + sum(rung.wait for rung in ladder[group.climb.rung + 1 :]))
        elif group.phase is not Phase.FINISHED:
            later += sum(rung.wait for rung in ladder)
    return begun + later
