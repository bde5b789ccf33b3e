"""A simulated machine for the groups to run on: processes that obey or do not, starts that fail, timers that are late.

It keeps the contract of the real hands: each start is answered once, an exit comes after a start and the end of the
whole tree after the exit. What the groups must never do to it is asserted where they would do it.
"""

from __future__ import annotations

import signal as signals
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

from supervisor.core import groups
from supervisor.core.events import Event
from supervisor.core.groups import Arrival, DrainOver, Groups, Of
from supervisor.core.messages import (
    AbandonStarts,
    CancelTimer,
    Effect,
    EvidenceTaken,
    ExitStatus,
    FormWorld,
    Input,
    LeaveWorld,
    ReportFailure,
    ReportSuccess,
    SetTimer,
    SignalWorkers,
    StartWorkers,
    StraysFound,
    TakeEvidence,
    TimerFired,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerStarted,
    WorldFormed,
    WorldRefused,
)
from supervisor.core.state import TRANSITIONS, Group
from supervisor.plan import DaemonPlan, GroupPlan, LogRules, single_host_world

Obeys = Literal["anything", "SIGKILL", "nothing"]


@dataclass
class Process:
    """One worker's tree. ``leader_lives`` until its exit is reported; ``signal`` is the last one sent to the tree."""

    worker: Worker
    obeys: Obeys
    leaves_strays: bool
    leader_lives: bool = True
    strays_told: bool = False
    signal: int | None = None

    @property
    def must_end(self) -> bool:
        """It has been sent what it cannot, or does not, resist."""
        return self.signal is not None and (
            self.obeys == "anything" or (self.obeys == "SIGKILL" and self.signal == signals.SIGKILL)
        )


@dataclass
class Host:
    """``asked``: starts not answered yet, in order. ``trees``: what lives. ``told``: every event so far."""

    plan: DaemonPlan
    in_flight: bool
    """Whether the first start that waits is past recall when starts are called off."""
    state: Groups = field(init=False)
    now: float = 0.0
    worlds: list[tuple[str, int]] = field(default_factory=list)
    asked: list[tuple[str, Worker]] = field(default_factory=list)
    trees: dict[tuple[str, int], Process] = field(default_factory=dict)
    timers: dict[tuple[str | None, str], float] = field(default_factory=dict)
    told: list[Event] = field(default_factory=list)
    past: list[tuple[str, Worker]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = groups.begin(self.plan, dict.fromkeys(self.plan.groups, 7), {}, self.now)

    # ---- what the groups are told

    def arrive(self, arrival: Arrival) -> list[Event]:
        """Let this happen, with all that the host answers in the same breath."""
        inbox = deque([arrival])
        said: list[Event] = []
        while inbox:
            before = self.state
            result = groups.advance(before, inbox.popleft(), self.now)
            self.state = result.groups
            for name, group in result.groups.groups.items():
                old = before.groups[name].phase if name in before.groups else group.phase
                assert group.phase is old or group.phase in TRANSITIONS[old], f"{name}: {old} -> {group.phase}"
                if name in before.groups:
                    _no_more_are_taken_than_may_be(before.groups[name], group)
            for name_or_none, effect in result.effects:
                inbox.extend(self._perform(name_or_none, effect))
            said.extend(result.events)
        self.told.extend(said)
        return said

    def post(self, group: str, input: Input) -> list[Event]:
        return self.arrive(Of(group, input))

    # ---- what the groups ask for

    def _perform(self, group: str | None, effect: Effect) -> Sequence[Arrival]:
        match effect:
            case SetTimer(name, at):
                assert at >= self.now
                self.timers[group, name] = at
                return ()
            case CancelTimer(name):
                self.timers.pop((group, name), None)
                return ()
        assert group is not None
        match effect:
            case FormWorld(attempt):
                self.worlds.append((group, attempt))
            case StartWorkers(workers, world, _, plan):
                assert world.local_world_size == self.state.groups[group].plan.workers
                known = self.state.groups[group]
                assert all(plan is known.plan_by(worker.rank) for worker in workers)
                self._start(group, workers)
            case AbandonStarts():
                kept = [one for one in self.asked if one[0] == group][: 1 if self.in_flight else 0]
                off = [one for one in self.asked if one[0] == group and one not in kept]
                self.asked = [one for one in self.asked if one not in off]
                self.past.extend(off)
                return [Of(name, WorkerNotStarted(worker, "abandoned", "called off")) for name, worker in off]
            case SignalWorkers(workers, signal, _):
                for worker in workers:
                    tree = self.trees.get((group, worker.rank))
                    if tree is not None and tree.worker == worker:
                        tree.signal = signal
            case TakeEvidence(worker):
                return [Of(group, EvidenceTaken(worker, "/logs/evidence"))]
            case ReportFailure() | ReportSuccess() | LeaveWorld():
                raise AssertionError(f"{group} has no peers to be told {effect}")
            case _:
                assert_never(effect)
        return ()

    def _start(self, group: str, workers: Sequence[Worker]) -> None:
        """Invariant 1, and half of 2: no start over what lives, or over what may yet start."""
        alone = self.state.groups[group].plan.restart.scope == "worker" and len(workers) == 1
        busy = {rank for name, rank in self.trees if name == group}
        busy |= {worker.rank for name, worker in self.asked if name == group}
        if not alone:
            assert not busy, f"{group} starts {workers} while ranks {busy} live"
        for worker in workers:
            assert worker.rank not in busy, f"{group} starts {worker} over what lives"
            assert all((group, worker) != old for old in self.past), f"{worker} of {group} is started twice"
        self.asked.extend((group, worker) for worker in workers)

    # ---- what can happen

    def answer_world(self, reason: str = "") -> None:
        """The oldest rendezvous that is waited for: formed, or refused for ``reason``."""
        group, attempt = self.worlds.pop(0)
        if reason:
            self.post(group, WorldRefused(attempt, reason))
        else:
            known = self.state.groups.get(group)
            size = known.plan if known is not None else GroupPlan(group, (), 1, group, LogRules(""))  # it has left
            self.post(group, WorldFormed(attempt, single_host_world(size, 0, "127.0.0.1", 1)))

    def answer_start(self, *, obeys: Obeys = "anything", leaves_strays: bool = False) -> None:
        """The start that has waited longest: the worker runs."""
        group, worker = self.asked.pop(0)
        self.trees[group, worker.rank] = Process(worker, obeys, leaves_strays)
        self.post(group, WorkerStarted(worker, 100 + worker.rank))

    def refuse_start(self, fault: Literal["permanent", "transient"]) -> None:
        group, worker = self.asked.pop(0)
        self.past.append((group, worker))
        self.post(group, WorkerNotStarted(worker, fault, fault, 127))

    def leaders(self) -> list[tuple[str, int]]:
        return [key for key, tree in self.trees.items() if tree.leader_lives]

    def remains(self) -> list[tuple[str, int]]:
        """Trees whose leader has ended, and of which nothing need be left."""
        return [key for key, tree in self.trees.items() if not tree.leader_lives]

    def exit(self, key: tuple[str, int], status: ExitStatus) -> None:
        tree = self.trees[key]
        tree.leader_lives = False
        self.post(key[0], WorkerExited(tree.worker, status))

    def find_strays(self, key: tuple[str, int]) -> None:
        tree = self.trees[key]
        tree.strays_told = True
        self.post(key[0], StraysFound(tree.worker, ("4711 python3",)))

    def vanish(self, key: tuple[str, int]) -> None:
        tree = self.trees.pop(key)
        self.past.append((key[0], tree.worker))
        self.post(key[0], WorkerGone(tree.worker))

    def fire(self, *, late: float = 0.0) -> None:
        """The next timer, at its instant or so much later."""
        (group, name), at = min(self.timers.items(), key=lambda item: item[1])
        del self.timers[group, name]
        self.now = max(self.now, at + late)
        self.arrive(DrainOver(at) if group is None else Of(group, TimerFired(name, at)))

    # ---- left to itself

    def settle(self, until: float) -> None:
        """Everybody who owes an answer gives it, at once; timers fire on time; workers run until they must end.

        Ends when nothing is left to happen before the instant ``until``.
        """
        for _ in range(10_000):
            if not self._turn(until):
                return
        raise AssertionError("the host and the groups keep each other busy for ever")

    def _turn(self, until: float) -> bool:
        if self.worlds:
            self.answer_world()
        elif self.asked:
            self.answer_start()
        elif ending := [key for key in self.leaders() if self.trees[key].must_end]:
            self.exit(ending[0], ExitStatus(None, self.trees[ending[0]].signal))
        elif strays := [key for key in self.remains() if self._holds(key) and not self.trees[key].strays_told]:
            self.find_strays(strays[0])
        elif gone := [key for key in self.remains() if not self._holds(key)]:
            self.vanish(gone[0])
        elif self.timers and min(self.timers.values()) <= until:
            self.fire()
        else:
            return False
        return True

    def _holds(self, key: tuple[str, int]) -> bool:
        """Whether something of the tree outlives its leader, and has not been ended either."""
        tree = self.trees[key]
        return tree.leaves_strays and not (tree.strays_told and tree.must_end)


def _no_more_are_taken_than_may_be(before: Group, after: Group) -> None:
    """A roll takes nobody away who serves while as many are away already as may be."""
    if after.roll is None:
        return
    ranks = range(after.plan.workers)
    served = {rank for rank in ranks if (slot := before.live.get(rank)) is not None and slot.is_ready}
    away = [
        rank
        for rank in ranks
        if not ((slot := after.live.get(rank)) is not None and slot.is_ready) and not after.has_ended_well(rank)
    ]
    taken = [
        rank
        for rank in served.intersection(away)
        if (slot := after.live.get(rank)) is not None and slot.condemned is not None and slot.condemned.by == "daemon"
    ]
    assert not taken or len(away) <= after.plan.restart.max_unavailable, f"{taken} are taken while {away} are away"
