"""Random histories of random plans on a simulated host: what must hold in every one of them, whatever happens."""

from __future__ import annotations

import json
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.core.groups import Begun, EndRequested, standing
from supervisor.core.messages import (
    ExitStatus,
    RankRequested,
    RunRequested,
    SilentBy,
    StartRequested,
    StopRequested,
    StraysFound,
    TimerFired,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerReady,
    WorkerSilent,
    WorkerStarted,
    WorkerUnready,
    WorldRefused,
)
from supervisor.core.order import may_start
from supervisor.core.state import Group, Phase
from supervisor.plan import (
    Backoff,
    Condition,
    DaemonPlan,
    GroupPlan,
    LogRules,
    Probe,
    RestartRules,
    Rung,
    Source,
    StopRules,
    WatchdogRules,
)
from tests.core.host import Host, Obeys

NAMES = ("a", "b", "c")

backoffs = st.builds(
    Backoff,
    initial=st.sampled_from([0.0, 0.5, 4.0]),
    factor=st.sampled_from([1.0, 2.0]),
    max=st.sampled_from([1.0, 60.0]),
    jitter=st.sampled_from([0.0, 0.25, 1.0]),
)
restart_rules = st.builds(
    RestartRules,
    policy=st.sampled_from(["on-failure", "always", "never"]),
    scope=st.sampled_from(["group", "worker"]),
    max_restarts=st.sampled_from([-1, 0, 1, 3]),
    window=st.sampled_from([0.0, 20.0]),
    backoff=backoffs,
    reset_after=st.sampled_from([0.0, 10.0]),
    fatal_exit_codes=st.sampled_from([frozenset(), frozenset({3})]),
    success_exit_codes=st.sampled_from([frozenset({0}), frozenset({4})]),
    max_unavailable=st.sampled_from([1, 1, 2]),
    drain=st.sampled_from([0.0, 3.0]),
)
ladders = st.sampled_from(
    [
        (Rung(9, 5.0),),
        (Rung(15, 30.0), Rung(9, 10.0)),
        (Rung(15, 0.0), Rung(9, 0.0)),
        (Rung(2, 1.0), Rung(15, 5.0), Rung(6, 2.0), Rung(9, 5.0)),
    ]
)


@st.composite
def plans(draw: st.DrawFn) -> DaemonPlan:
    groups: dict[str, GroupPlan] = {}
    for name in NAMES[: draw(st.integers(1, 3))]:
        conditions: st.SearchStrategy[Condition] = st.sampled_from(["started", "ready", "succeeded"])
        groups[name] = GroupPlan(
            name=name,
            command=("job",),
            workers=draw(st.integers(1, 4)),
            role=name,
            logs=LogRules("/logs"),
            depends_on={other: draw(conditions) for other in groups if draw(st.booleans())},
            required=draw(st.booleans()),
            restart=draw(restart_rules),
            stop=StopRules(draw(ladders), draw(st.sampled_from(["tree", "group", "leader"]))),
            probe=draw(st.sampled_from([None, Probe("http://h"), Probe("http://h", liveness=True)])),
            ready_after=draw(st.sampled_from([0.0, 2.0])),
            watchdog=WatchdogRules(start_timeout=draw(st.sampled_from([0.0, 60.0]))),
        )
    return DaemonPlan(
        "rankd", "host", "run", "/state", "/run", groups,
        when_done=draw(st.sampled_from(["exit", "stay"])), drain_delay=draw(st.sampled_from([0.0, 3.0])),
    )  # fmt: skip


pick = st.integers(0, 50)
rarely = st.integers(0, 7).map(lambda number: number == 5)
statuses = st.sampled_from(
    [*(ExitStatus(code) for code in (0, 0, 1, 3, 4)), *(ExitStatus(None, signal) for signal in (9, 11, 15))]
)


class Histories(RuleBasedStateMachine):
    """DESIGN.md's invariants as far as they are the core's, each by its name."""

    @initialize(plan=plans(), in_flight=st.booleans(), ends_at_once=st.booleans())
    def the_daemon_is_up(self, plan: DaemonPlan, in_flight: bool, ends_at_once: bool) -> None:
        self.host = Host(plan, in_flight)
        self.ends_at_once = ends_at_once
        self.restarts: dict[str, list[float]] = {name: [] for name in plan.groups}
        self.asked_for: set[str] = set()  # what somebody wished is charged otherwise: see the stories
        self.read = 0
        self.first_failed: str | None = None
        self.host.arrive(Begun())

    def groups(self) -> list[Group]:
        return list(self.host.state.groups.values())

    # ---- the host answers

    @precondition(lambda self: self.host.worlds)
    @rule(refused=rarely)
    def a_world_is_answered(self, refused: bool) -> None:
        self.host.answer_world("no free port" if refused else "")

    @precondition(lambda self: self.host.asked)
    @rule(obeys=st.sampled_from(["anything", "anything", "SIGKILL", "nothing"]), leaves_strays=st.booleans())
    def a_worker_starts(self, obeys: Obeys, leaves_strays: bool) -> None:
        self.host.answer_start(obeys=obeys, leaves_strays=leaves_strays)

    @precondition(lambda self: self.host.asked or self.host.worlds)
    @rule(leaves_strays=st.booleans())
    def all_workers_start(self, leaves_strays: bool) -> None:
        while self.host.worlds or self.host.asked:
            if self.host.worlds:
                self.host.answer_world()
            else:
                self.host.answer_start(leaves_strays=leaves_strays)

    @precondition(lambda self: self.host.asked)
    @rule(permanent=rarely)
    def a_worker_cannot_start(self, permanent: bool) -> None:
        self.host.refuse_start("permanent" if permanent else "transient")

    @precondition(lambda self: self.host.leaders())
    @rule(which=pick, status=statuses, then=st.sampled_from(["gone", "strays", "nothing yet"]))
    def a_worker_exits(self, which: int, status: ExitStatus, then: str) -> None:
        keys = self.host.leaders()
        key = keys[which % len(keys)]
        self.host.exit(key, status)
        if then == "gone":
            self.host.vanish(key)
        elif then == "strays":
            self.host.find_strays(key)

    @precondition(lambda self: self.host.leaders())
    @rule(which=pick, ready=st.booleans(), source=st.sampled_from(["probe", "probe", "notify"]))
    def a_worker_is_found_ready_or_not(self, which: int, ready: bool, source: Source) -> None:
        keys = self.host.leaders()
        name, rank = keys[which % len(keys)]
        worker = self.host.trees[name, rank].worker
        self.host.post(name, WorkerReady(worker, source) if ready else WorkerUnready(worker, source, "503"))

    @precondition(lambda self: self.host.leaders())
    @rule(which=pick, how=st.sampled_from([("heartbeat", 9), ("timer", 15), ("timer", 10)]))
    def a_worker_is_found_silent(self, which: int, how: tuple[SilentBy, int]) -> None:
        keys = self.host.leaders()
        name, rank = keys[which % len(keys)]
        by, number = how
        self.host.post(name, WorkerSilent(self.host.trees[name, rank].worker, by, "has said nothing", number))

    @precondition(lambda self: self.host.leaders())
    @rule(gone=st.booleans())
    def a_group_ends_well(self, gone: bool) -> None:
        (name, _), *_ = self.host.leaders()
        code = min(self.host.state.groups[name].plan.restart.success_exit_codes)
        for key in [key for key in self.host.leaders() if key[0] == name]:
            self.host.exit(key, ExitStatus(code))
            if gone:
                self.host.vanish(key)

    @precondition(lambda self: any(tree.leader_lives and tree.must_end for tree in self.host.trees.values()))
    @rule(gone=st.booleans())
    def all_obey(self, gone: bool) -> None:
        for key in [key for key in self.host.leaders() if self.host.trees[key].must_end]:
            self.host.exit(key, ExitStatus(None, self.host.trees[key].signal))
            if gone:
                self.host.vanish(key)

    @precondition(lambda self: any(not self.host.trees[key].strays_told for key in self.host.remains()))
    @rule(which=pick)
    def strays_are_found(self, which: int) -> None:
        keys = [key for key in self.host.remains() if not self.host.trees[key].strays_told]
        self.host.find_strays(keys[which % len(keys)])

    @precondition(lambda self: self.host.remains())
    @rule(which=pick)
    def a_tree_is_gone(self, which: int) -> None:
        keys = self.host.remains()
        self.host.vanish(keys[which % len(keys)])

    # ---- time

    @rule(seconds=st.sampled_from([0.001, 0.5, 7.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.host.now += seconds

    @precondition(lambda self: self.host.timers)
    @rule(late=st.sampled_from([0.0, 0.0, 0.01, 3.0]))
    def a_timer_fires(self, late: float) -> None:
        self.host.fire(late=late)

    # ---- people

    @rule(name=st.sampled_from(NAMES), hurry=st.booleans(), really=rarely)
    def somebody_stops_a_group(self, name: str, hurry: bool, really: bool) -> None:
        if really:
            self.host.post(name, StopRequested("operator", hurry))

    @rule(name=st.sampled_from(NAMES))
    def somebody_starts_a_group(self, name: str) -> None:
        before = self.host.state.groups.get(name)
        self.host.post(name, StartRequested())
        if before is not None and before.attempt != self.host.state.groups[name].attempt:
            self.restarts[name] = []  # a fresh budget

    @rule(name=st.sampled_from(NAMES), really=st.booleans())
    def somebody_has_a_group_restarted(self, name: str, really: bool) -> None:
        if really:
            self.host.post(name, RunRequested("operator", anew=True))
            self.asked_for.add(name)

    @rule(name=st.sampled_from(NAMES), rank=st.integers(0, 3), anew=st.booleans(), really=st.booleans())
    def somebody_has_a_rank_restarted(self, name: str, rank: int, anew: bool, really: bool) -> None:
        if really:
            self.host.post(name, RankRequested(rank, "operator", anew))
            self.asked_for.add(name)

    @rule(hurry=st.booleans(), really=rarely)
    def the_daemon_is_told_to_stop(self, hurry: bool, really: bool) -> None:
        if really:
            self.asked_to_end(hurry)

    def asked_to_end(self, hurry: bool = False) -> None:
        """What fails from here on counts for the exit code; what failed before has been told."""
        self.read_events()
        if self.host.state.stage in ("starting", "running"):
            self.first_failed = None
        self.host.arrive(EndRequested("SIGTERM", hurry))

    # ---- what comes too late

    @precondition(lambda self: self.host.past)
    @rule(which=pick, kind=st.integers(0, 8))
    def a_late_report_of_an_earlier_attempt_changes_nothing(self, which: int, kind: int) -> None:
        """Invariant 1, its second half."""
        name, worker = self.host.past[which % len(self.host.past)]
        inputs = (
            WorkerStarted(worker, 1),
            WorkerNotStarted(worker, "transient", "late"),
            WorkerExited(worker, ExitStatus(1)),
            StraysFound(worker, ("1 sh",)),
            WorkerGone(worker),
            WorldRefused(worker.attempt - 1, "late"),
            WorkerReady(worker, "probe"),
            WorkerUnready(worker, "probe", "late"),
            TimerFired("ladder", self.host.now - 1000.0),
        )
        before = self.host.state
        assert self.host.post(name, inputs[kind]) == []
        assert self.host.state is before

    # ---- what must hold

    @invariant()
    def stopped_means_gone_and_the_unkillable_are_named(self) -> None:
        """Invariant 2: a group that has finished has nothing left but what it has named."""
        for group in self.groups():
            named = group.unkillable
            assert named <= set(group.live)
            if group.phase is Phase.FINISHED:
                assert set(group.live) == named
                assert not named or (group.verdict is not None and group.verdict.outcome == "failed")

    @invariant()
    def what_the_group_knows_is_what_the_host_has(self) -> None:
        """Every worker that was asked for is accounted for until it is gone."""
        for name, group in self.host.state.groups.items():
            asked = {worker.rank: worker for owner, worker in self.host.asked if owner == name}
            trees = {rank: tree.worker for (owner, rank), tree in self.host.trees.items() if owner == name}
            assert {rank: slot.worker for rank, slot in group.live.items()} == asked | trees
            assert {rank for rank, slot in group.live.items() if slot.pid is None} == set(asked)
            assert group.awaited == len(asked)

    @invariant()
    def every_wait_has_a_deadline_or_an_answer_to_come(self) -> None:
        """Invariant 3; and no timer is left set that nobody waits for."""
        wanted: dict[tuple[str | None, str], float] = {}
        for name, group in self.host.state.groups.items():
            match group.phase:
                case Phase.STARTING if group.world is None:
                    assert (name, group.attempt) in self.host.worlds
                case Phase.STARTING:
                    assert group.awaited or group.pauses
                case Phase.RUNNING:
                    assert group.live or group.pauses
                case Phase.STOPPING:
                    assert group.live
                    assert group.climb is not None
                    wanted[name, "ladder"] = group.climb.at
                case Phase.BACKING_OFF:
                    assert group.resume_at is not None
                    wanted[name, "backoff"] = group.resume_at
            for rank, at in group.pauses.items():
                if rank not in group.live:
                    wanted[name, f"restart:{rank}"] = at
            for rank, climb in group.strays.items():
                assert rank in group.live
                wanted[name, f"strays:{rank}"] = climb.at
            if group.roll is not None:
                assert group.phase in (Phase.STARTING, Phase.RUNNING)
                if group.roll.settles_at is not None:
                    wanted[name, "roll"] = group.roll.settles_at
            for rank, slot in group.live.items():
                climbs = slot.condemned is not None and rank not in group.unkillable
                if slot.condemned is not None and climbs and group.phase in (Phase.STARTING, Phase.RUNNING):
                    wanted[name, f"condemned:{rank}"] = slot.condemned.at
        drained_at = self.host.state.drained_at
        if drained_at is not None:
            wanted[None, "drain"] = drained_at
        assert self.host.timers == wanted

    @invariant()
    def counts_count_what_there_is(self) -> None:
        for group in self.groups():
            runs = [slot.worker.rank for slot in group.live.values() if slot.pid is not None and slot.status is None]
            active = group.phase in (Phase.STARTING, Phase.RUNNING)
            ready = [slot.worker.rank for slot in group.live.values() if slot.is_ready]
            assert set(ready) <= set(runs)
            assert group.ready == (len(ready) if active else 0)
            away = set(range(group.plan.workers)).difference(runs, group.pauses)
            well = [rank for rank in away if (end := group.ended.get(rank)) is not None and end.success]
            if active and not group.awaited:
                assert group.well == len(well)
            taken = group.roll.taken if group.roll is not None else frozenset()
            serve = {rank for rank in range(group.plan.workers) if rank in ready or group.has_ended_well(rank)}
            assert group.is_ready is (
                group.phase is Phase.RUNNING and group.ready > 0 and serve | taken >= set(range(group.plan.workers))
            )

    def read_events(self) -> None:
        for event in self.host.told[self.read :]:
            json.dumps(dict(event.fields), allow_nan=False)
            assert event.message
            if event.name == "group.restarting" and event.group is not None:
                self.restarts[event.group].append(event.at)
            if event.name == "group.failed" and event.group is not None and self.host.plan.groups[event.group].required:
                self.first_failed = self.first_failed or event.group
        self.read = len(self.host.told)

    @invariant()
    def a_failure_is_counted_once_and_has_one_root_cause(self) -> None:
        """Invariant 5."""
        self.read_events()
        causes: Counter[tuple[str, int, int]] = Counter()
        for event in self.host.told:
            if event.name == "worker.failed" and event.fields["root_cause"] and event.group is not None:
                alone = self.host.plan.groups[event.group].restart.scope == "worker"
                causes[event.group, event.fields["attempt"], event.fields["rank"] if alone else -1] += 1
        assert all(count == 1 for count in causes.values()), causes
        for name, group in self.host.state.groups.items():
            assert group.history.used == len(self.restarts[name]) or name in self.asked_for

    @invariant()
    def restarts_stay_within_the_budget(self) -> None:
        for name, group in self.host.state.groups.items():
            rules, times = group.plan.restart, self.restarts[name]
            if name in self.asked_for:
                continue
            if rules.max_restarts >= 0 and not rules.window:
                assert len(times) <= rules.max_restarts
            elif rules.max_restarts >= 0 and not rules.reset_after:
                later = times[rules.max_restarts :]
                assert all(after - before >= rules.window for before, after in zip(times, later, strict=False))

    @invariant()
    def the_exit_code_is_that_of_the_first_required_group_that_failed(self) -> None:
        for group in self.groups():
            if group.verdict is not None:
                assert (group.verdict.exit_code != 0) is (group.verdict.outcome == "failed")
        verdict = self.host.state.groups[self.first_failed].verdict if self.first_failed is not None else None
        assert self.host.state.exit_code == (verdict.exit_code if verdict is not None else 0)

    # ---- how it ends

    def teardown(self) -> None:
        if not hasattr(self, "host"):
            return
        if not self.ends_at_once:
            self.nothing_waits_for_ever()
        self.a_stop_ends_everything_within_the_ladders_time()

    def nothing_waits_for_ever(self) -> None:
        """Invariant 3: left alone, every group comes to run, to its end, or waits for one that runs."""
        self.host.settle(until=self.host.now + 100_000.0)
        state = self.host.state
        standings = {name: standing(group) for name, group in state.groups.items()}
        for group in self.groups():
            if group.phase is Phase.WAITING:
                assert state.stage == "running"
                assert may_start(group.plan.depends_on, standings)[0] == "pending"
            else:
                assert group.phase in (Phase.RUNNING, Phase.FINISHED), group.phase
                assert not group.pauses
                assert not group.strays
        assert not self.host.timers

    def a_stop_ends_everything_within_the_ladders_time(self) -> None:
        """Invariant 4: dependents first, each group within its ladder's time."""
        plan = self.host.plan
        ladders = sum(rung.wait for group in self.groups() for rung in group.plan.stop.ladder)
        asked_at = self.host.now
        self.asked_to_end()
        self.host.settle(until=asked_at + plan.drain_delay + ladders)
        assert self.host.state.over
        assert not self.host.timers
        self.stopped_means_gone_and_the_unkillable_are_named()
        self.what_the_group_knows_is_what_the_host_has()
        self.a_failure_is_counted_once_and_has_one_root_cause()
        self.the_exit_code_is_that_of_the_first_required_group_that_failed()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=50, derandomize=True)
