"""The runtime works off arrivals, performs effects through its hands and fires timers: here with hands of air."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import anyio

from supervisor import clock
from supervisor.core import groups
from supervisor.core.events import Event
from supervisor.core.groups import Begun, EndRequested, Groups
from supervisor.core.messages import (
    ExitStatus,
    JobEnded,
    LeaveWorld,
    ReportSuccess,
    ToPeers,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerStarted,
    WorldFormed,
)
from supervisor.core.state import Phase
from supervisor.plan import DaemonPlan, GroupPlan, Reach, RendezvousRules, Rung, StopRules, World, single_host_world
from supervisor.runtime import Runtime
from tests.stories.story import job


class Air:
    """Hands that answer in the same breath. ``waiting``: starts that are held back; ``obeys``: signals that end."""

    def __init__(self, *plans: GroupPlan, drain_delay: float = 0.0) -> None:
        plan = DaemonPlan(
            "rankd", "host", "run", "/s", "/r", {one.name: one for one in plans}, drain_delay=drain_delay
        )  # fmt: skip
        self.plans = plan.groups
        self.holds_back = False
        self.waiting: list[tuple[str, Worker]] = []
        self.obeys = {15, 9}
        self.broken: Callable[[], None] = lambda: None
        self.signals: list[int] = []
        self.words: list[tuple[str, ToPeers]] = []
        self.told: list[Event] = []
        self.changes: list[str] = []
        self._noticed = anyio.Event()
        names = list(plan.groups)
        self.runtime = Runtime(
            groups.begin(plan, dict.fromkeys(names, 1), {}, 0.0), self, self.told.append, self.changed
        )

    def take_evidence(self, group: str, worker: Worker, reason: str) -> None:
        raise AssertionError("nobody hangs here")

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.told]

    def changed(self, state: Groups) -> None:
        self.changes.append(" ".join(group.phase for group in state.groups.values()))
        self._noticed.set()

    async def noticed(self) -> None:
        """Until the runtime next says that something has changed."""
        self._noticed = anyio.Event()
        await self._noticed.wait()

    def form_world(self, group: str, attempt: int) -> World | str | None:
        if self.plans[group].rendezvous.is_elastic:
            return None
        return single_host_world(self.plans[group], attempt, "127.0.0.1", 1) if group != "lost" else "no free port"

    def tell_peers(self, group: str, word: ToPeers) -> None:
        self.words.append((group, word))

    def start(self, plan: GroupPlan, workers: Sequence[Worker], world: World, restarts: int) -> None:
        self.broken()
        for worker in workers:
            if self.holds_back:
                self.waiting.append((plan.name, worker))
            else:
                self.runtime.post(plan.name, WorkerStarted(worker, 1000 + worker.rank))

    def abandon(self, group: str) -> None:
        for name, worker in self.waiting:
            self.runtime.post(name, WorkerNotStarted(worker, "abandoned", "called off"))

    def signal(self, group: str, workers: Sequence[Worker], signal: int, reach: Reach) -> None:
        self.signals.append(signal)
        if signal in self.obeys:
            for worker in workers:
                self.end(group, worker, ExitStatus(None, signal))

    def end(self, group: str, worker: Worker, status: ExitStatus) -> None:
        self.runtime.post(group, WorkerExited(worker, status))
        self.runtime.post(group, WorkerGone(worker))

    def phase(self, group: str = "job") -> Phase:
        return self.runtime.state.groups[group].phase


async def test_an_arrival_is_worked_through_with_all_that_it_leads_to() -> None:
    """Asked for, formed, started and ready: when ``arrive`` returns, all of it has happened, in this order."""
    air = Air(job(workers=2))
    air.runtime.arrive(Begun())
    assert air.phase() is Phase.RUNNING
    assert air.names == [
        "group.starting", "worker.started", "worker.started", "group.started", "group.ready", "health.changed"
    ]  # fmt: skip
    assert air.changes == ["running"]


async def test_a_death_is_answered_before_the_call_returns() -> None:
    air = Air(job(workers=2))
    air.runtime.arrive(Begun())
    air.end("job", Worker(0, 0), ExitStatus(1))
    assert air.signals == [15]
    group = air.runtime.state.groups["job"]
    assert (group.phase, group.attempt) == (Phase.RUNNING, 1)
    assert air.names.count("health.changed") == 3  # ready, not ready, ready


async def test_the_ladder_climbs_by_itself_and_over_is_set_at_its_end() -> None:
    air = Air(job(workers=2, stop=StopRules((Rung(15, 0.02), Rung(9, 5.0)))))
    air.obeys = {9}
    air.runtime.arrive(Begun())
    air.runtime.arrive(EndRequested("SIGTERM"))
    assert air.phase() is Phase.STOPPING
    with anyio.fail_after(10):
        await air.runtime.over.wait()
    assert air.signals == [15, 9]
    assert air.phase() is Phase.FINISHED
    assert air.runtime.bug is None


async def test_a_drain_delay_is_waited_for() -> None:
    air = Air(job(), drain_delay=0.02)
    air.runtime.arrive(Begun())
    air.runtime.arrive(EndRequested("SIGTERM"))
    assert air.signals == []
    with anyio.fail_after(10):
        await air.runtime.over.wait()
    assert air.signals == [15]


async def test_starts_that_still_wait_are_called_off() -> None:
    air = Air(job(workers=3))
    air.holds_back = True
    air.runtime.arrive(Begun())
    air.runtime.arrive(EndRequested("SIGTERM"))
    assert air.runtime.over.is_set()
    assert air.names[-1] == "group.stopped"


async def test_a_world_that_is_refused_is_asked_for_again_later_until_the_timers_are_forgotten() -> None:
    air = Air(job("lost"))
    air.runtime.arrive(Begun())
    assert air.phase("lost") is Phase.BACKING_OFF
    assert air.runtime.snapshot().groups["lost"].next == "starts attempt 1"
    air.runtime.close()
    assert not air.runtime.over.is_set()


async def test_a_bug_ends_everything_and_is_kept() -> None:
    air = Air(job())
    bug = RuntimeError("a bug")

    def broken() -> None:
        raise bug

    air.broken = broken
    air.runtime.arrive(Begun())
    assert air.runtime.bug is bug
    assert air.runtime.over.is_set()
    before = air.runtime.state
    air.runtime.arrive(EndRequested("SIGTERM"))
    assert air.runtime.state is before
    assert air.runtime.snapshot().behind > 0, "what came is not taken"


async def test_what_has_not_lasted_is_not_told_until_it_has() -> None:
    air = Air(replace(job(), ready_after=0.02))
    air.runtime.arrive(Begun())
    assert air.phase() is Phase.RUNNING
    assert not air.runtime.snapshot().groups["job"].ready
    assert "health.changed" not in air.names
    with anyio.fail_after(10):
        while "health.changed" not in air.names:
            await air.noticed()
    assert air.runtime.snapshot().groups["job"].ready


async def test_a_timer_that_has_not_fired_in_time_says_how_far_the_core_is_behind() -> None:
    air = Air(job(), drain_delay=0.01)
    air.runtime.arrive(Begun())
    air.runtime.arrive(EndRequested("SIGTERM"))
    assert air.runtime.snapshot().behind == 0
    stuck_until = clock.now() + 0.05
    while clock.now() < stuck_until:
        pass
    assert air.runtime.snapshot().behind >= 0.04
    await air.runtime.over.wait()
    assert air.runtime.snapshot().behind == 0


async def test_a_runtime_that_closes_forgets_what_it_was_to_tell_later() -> None:
    air = Air(replace(job(), ready_after=0.01))
    air.runtime.arrive(Begun())
    air.runtime.close()
    await anyio.sleep(0.03)
    assert "health.changed" not in air.names


async def test_a_world_of_several_hosts_comes_later_and_they_are_told_of_what_happens() -> None:
    elastic = job(workers=1, rendezvous=RendezvousRules("etcd", 2))
    air = Air(elastic)
    air.runtime.arrive(Begun())
    assert air.phase() is Phase.STARTING
    air.runtime.post("job", WorldFormed(0, single_host_world(elastic, 1, "127.0.0.1", 1), restarts=0))
    assert air.phase() is Phase.RUNNING
    air.end("job", Worker(0, 0), ExitStatus(0))
    air.runtime.post("job", JobEnded("succeeded", "all workers have succeeded"))
    assert air.words == [("job", ReportSuccess()), ("job", LeaveWorld("all workers have succeeded"))]
