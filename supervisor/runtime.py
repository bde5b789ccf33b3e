"""Inbox -> ``advance`` -> effects and events: the one place where what decides meets what acts.

Doors (pidfds, signals, timers, sockets) call ``arrive``; nobody else steps the machine. An arrival is worked through
at once and to its end, including all that its effects report back in the same breath, so that a worker's death is
answered in the very callback that saw it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

import anyio

from supervisor import clock
from supervisor.core import events, health, steady, view
from supervisor.core.events import Event
from supervisor.core.groups import Arrival, DrainOver, Groups, Of, Result, advance
from supervisor.core.messages import (
    AbandonStarts,
    CancelTimer,
    Effect,
    FormWorld,
    Input,
    LeaveWorld,
    ReportFailure,
    ReportSuccess,
    SetTimer,
    SignalWorkers,
    StartWorkers,
    TakeEvidence,
    TimerFired,
    ToPeers,
    Worker,
    WorldFormed,
    WorldRefused,
)
from supervisor.plan import GroupPlan, Reach, World


class Hands(Protocol):
    """What acts for the groups. Nothing here waits; answers come back through ``Runtime.arrive``."""

    def form_world(self, group: str, attempt: int) -> World | str | None:
        """The world of that attempt, or why there is none; None: an answer will come."""

    def tell_peers(self, group: str, word: ToPeers) -> None:
        """Tell the other hosts of an elastic group."""

    def start(self, plan: GroupPlan, workers: Sequence[Worker], world: World, restarts: int) -> None:
        """Start these workers of the group by that plan of it, one after the other, as soon as may be."""

    def abandon(self, group: str) -> None:
        """Answer every start of that group which is still waiting; start none of them."""

    def take_evidence(self, group: str, worker: Worker, reason: str) -> None:
        """See what this worker and its peers do; answered by ``EvidenceTaken``."""

    def signal(self, group: str, workers: Sequence[Worker], signal: int, reach: Reach) -> None:
        """Send a signal as far as ``reach`` says."""


class Runtime:
    """The state of all groups, kept current. ``over`` is set when every group has finished, or on a bug."""

    def __init__(
        self, state: Groups, hands: Hands, tell: Callable[[Event], None], changed: Callable[[Groups], None]
    ) -> None:
        """``tell`` takes every event; ``changed`` is called when a group or the daemon has come into another phase."""
        self.state = state
        self.over = anyio.Event()
        self.bug: BaseException | None = None
        self._hands = hands
        self._tell = tell
        self._changed = changed
        self._inbox: deque[Arrival] = deque()
        self._busy = False
        self._timers: dict[tuple[str | None, str], asyncio.TimerHandle] = {}
        self._standings: dict[str, steady.Standing] = {}
        self._settling: asyncio.TimerHandle | None = None
        self._waiting_since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._answer = health.Answer(False)

    def post(self, group: str, input: Input) -> None:
        """An input for one group has come."""
        self.arrive(Of(group, input))

    def arrive(self, arrival: Arrival) -> None:
        """Take an arrival and work off the inbox, unless that is what is being done already."""
        if not self._inbox:
            self._waiting_since = clock.now()
        self._inbox.append(arrival)
        if self._busy or self.bug is not None:
            return
        self._busy = True
        before = self.state
        try:
            while self._inbox:
                self._work(advance(self.state, self._inbox.popleft(), clock.now()))
            if _outline(before) != _outline(self.state):
                self._notice()
        except Exception as bug:  # noqa: BLE001 - whatever it is, the daemon kills its workers and ends with it
            self.fail(bug)
        finally:
            self._busy = False
        if self.state.over:
            self.over.set()

    def fail(self, bug: BaseException) -> None:
        """Something of ours is broken: take no more arrivals and let the daemon end."""
        self.bug = self.bug or bug
        self.over.set()

    def snapshot(self, *, workers: bool | health.Only = True) -> health.Snapshot:
        """How everything stands at this instant."""
        now = clock.now()
        return view.snapshot(self.state, now, self._standings, behind=self._behind(now), workers=workers)

    def close(self) -> None:
        """Forget all timers."""
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        if self._settling is not None:
            self._settling.cancel()

    def _behind(self, now: float) -> float:
        """For how many seconds the oldest arrival has not been taken, or a timer that is due has not fired."""
        waiting = [handle.when() for handle in self._timers.values()]
        if self._inbox and self._waiting_since is not None:
            waiting.append(self._waiting_since)
        return max(0.0, now - min(waiting, default=now))

    def _work(self, result: Result) -> None:
        self.state = result.groups
        for group, effect in result.effects:
            self._perform(group, effect)
        for event in result.events:
            self._tell(event)

    def _perform(self, group: str | None, effect: Effect) -> None:
        match effect:
            case SetTimer(name, at):
                self._cancel(group, name)
                self._timers[group, name] = self._loop.call_at(at, self._due, group, name, at)
                return
            case CancelTimer(name):
                self._cancel(group, name)
                return
        assert group is not None, "only timers are the daemon's own"
        match effect:
            case FormWorld(attempt):
                world = self._hands.form_world(group, attempt)
                if isinstance(world, str):
                    self.post(group, WorldRefused(attempt, world))
                elif world is not None:
                    self.post(group, WorldFormed(attempt, world))
            case StartWorkers(workers, world, restarts, plan):
                self._hands.start(plan, workers, world, restarts)
            case AbandonStarts():
                self._hands.abandon(group)
            case SignalWorkers(workers, signal, reach):
                self._hands.signal(group, workers, signal, reach)
            case TakeEvidence(worker, reason):
                self._hands.take_evidence(group, worker, reason)
            case ReportFailure() | ReportSuccess() | LeaveWorld():
                self._hands.tell_peers(group, effect)
            case _:
                assert_never(effect)

    def _cancel(self, group: str | None, name: str) -> None:
        handle = self._timers.pop((group, name), None)
        if handle is not None:
            handle.cancel()

    def _due(self, group: str | None, name: str, at: float) -> None:
        del self._timers[group, name]
        self.arrive(DrainOver(at) if group is None else Of(group, TimerFired(name, at)))

    def _notice(self) -> None:
        """Something that others see has changed: say so if ``/readyz`` answers otherwise now."""
        self._settle()
        answer = health.ready(self.snapshot(workers=False))
        if answer.ok != self._answer.ok:
            self._tell(events.health_changed(clock.now(), answer.ok, answer.reasons))
        self._answer = answer
        self._changed(self.state)

    def _settle(self) -> None:
        """Take every group for what it is now, or come back when it has been so for long enough."""
        now = clock.now()
        groups = self.state.groups
        self._standings = {
            name: steady.observe(self._standings.get(name, steady.Standing()), group, now)
            for name, group in groups.items()
        }
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        due = [steady.settles_at(self._standings[name], group) for name, group in groups.items()]
        if instants := [at for at in due if at is not None]:
            self._settling = self._loop.call_at(min(instants), self._notice)


def _outline(state: Groups) -> tuple[object, ...]:
    """What has to differ for anybody outside to see a difference between events."""
    groups = state.groups.values()
    return (state.stage, state.drained_by, *((group.phase, group.ready_at, group.cut_off) for group in groups))
