"""Every (phase, input) pair has an answer: real states of every phase, each stepped with every kind of input.

The states come from histories; the inputs are about the present attempt, earlier and later ones, ranks that do not
exist, and timers of any name and instant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest

from supervisor.core.group import step
from supervisor.core.messages import (
    DependencyLost,
    EvidenceTaken,
    ExitStatus,
    Input,
    JobEnded,
    PeersAwaited,
    PeersFound,
    PeersLost,
    PlanChanged,
    RankRequested,
    RunRequested,
    StartRequested,
    StopRequested,
    StraysFound,
    TimerFired,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerHeld,
    WorkerLetGo,
    WorkerNotStarted,
    WorkerReady,
    WorkerSilent,
    WorkerStarted,
    WorkerUnready,
    WorldFormed,
    WorldLost,
    WorldRefused,
)
from supervisor.core.state import TRANSITIONS, Group, Phase
from supervisor.plan import (
    Backoff,
    Policy,
    Probe,
    RendezvousRules,
    RestartRules,
    Rung,
    Scope,
    StopRules,
    WatchdogRules,
    single_host_world,
)
from tests.stories.story import (
    Story,
    asked_to_roll,
    asked_to_stop,
    cut_off,
    due,
    exited,
    formed,
    gone,
    held,
    job,
    killed,
    met,
    not_started,
    ready,
    refused,
    replanned,
    running,
    silent,
    started,
    strays,
    unready,
    up,
)

AT_ONCE = Backoff(initial=0.0, jitter=0.0)
PAUSED = Backoff(initial=5.0, jitter=0.0)


def rules(
    scope: Scope = "group", policy: Policy = "on-failure", backoff: Backoff = AT_ONCE, budget: int = 3
) -> RestartRules:
    return RestartRules(
        scope=scope, policy=policy, backoff=backoff, max_restarts=budget, fatal_exit_codes=frozenset({78})
    )


def told(story: Story, *happenings: object) -> Story:
    for happening in happenings:
        story.happen(story.now + 0.125, happening)  # type: ignore[arg-type]
    return story


def begun(workers: int = 2, restart: RestartRules | None = None) -> Story:
    return told(Story(job(workers=workers, restart=restart)), up())


def runs(workers: int = 2, restart: RestartRules | None = None) -> Story:
    return running(job(workers=workers, restart=restart))


def unkillable() -> Story:
    story = told(runs(), asked_to_stop(hurry=True))
    story.now = story.timers["job", "ladder"]
    return told(story, due("ladder"))


def strays_beyond_the_last_rung(story: Story) -> Story:
    """The ladder of what rank 0 has left behind stands on its last rung."""
    told(story, exited(0), strays(0, "1 sh"))
    story.now = story.timers["job", "strays:0"]
    return told(story, due("strays:0"))


def probed(workers: int = 2, restart: RestartRules | None = None, *, liveness: bool = True) -> Story:
    """Every worker runs, and rank 0 is ready."""
    plan = job(workers=workers, restart=restart, probe=Probe("http://h", liveness=liveness))
    return told(running(plan), ready(0))


def condemned_on_the_last_rung(story: Story) -> Story:
    told(story, unready(0, "503"))
    story.now = story.timers["job", "condemned:0"]
    return told(story, due("condemned:0"))


def half_up() -> Story:
    return told(begun(restart=rules("worker", backoff=PAUSED)), formed(), started(0), not_started(1, "transient"))


def rolled(drain: float = 5.0) -> Story:
    """Rank 0 is taken out of service."""
    restart = replace(rules("worker"), drain=drain)
    return told(running(replace(job(workers=2, restart=restart), ready_after=5.0)), asked_to_roll())


def condemned_for_a_replacement() -> Story:
    story = rolled(0.0)
    story.now = story.timers["job", "condemned:0"]
    return told(story, due("condemned:0"))


def never_gone() -> Story:
    story = condemned_for_a_replacement()
    story.now = story.timers["job", "condemned:0"]
    return told(story, due("condemned:0"))


def paused() -> Story:
    """The pause before the second attempt is over."""
    story = told(runs(1, rules(backoff=PAUSED)), exited(0, 1), gone(0))
    story.now = story.timers["job", "backoff"]
    return story


def shared(workers: int = 2, restart: RestartRules | None = None) -> Story:
    """In a world with another host, all workers of which are here run."""
    rendezvous = RendezvousRules("etcd", 2, min_hosts=1, exit_barrier_timeout=60.0)
    story = told(Story(job(workers=workers, restart=restart, rendezvous=rendezvous)), up(), met(1))
    return told(story, *(started(rank) for rank in range(workers)))


STATES: dict[str, Callable[[], Story]] = {
    "waiting": lambda: Story(job(workers=2)),
    "starting, no world yet": begun,
    "starting, no world yet, no restarts": lambda: begun(restart=rules(budget=0)),
    "starting, nobody has started": lambda: told(begun(), formed()),
    "starting, one has started": lambda: told(begun(), formed(), started(0)),
    "starting, one has come and gone": lambda: told(begun(), formed(), started(0), exited(0), gone(0)),
    "starting, one has left strays": lambda: strays_beyond_the_last_rung(told(begun(), formed(), started(0))),
    "starting, the only worker": lambda: told(begun(1), formed()),
    "starting, the only worker, no restarts": lambda: told(begun(1, rules(budget=0)), formed()),
    "starting, all but one pause": lambda: told(
        begun(restart=rules("worker", backoff=PAUSED)), formed(), started(0), exited(0, 1), gone(0)
    ),
    "starting, every rank pauses": lambda: told(
        begun(restart=rules("worker", backoff=PAUSED)),
        formed(),
        not_started(0, "transient"),
        not_started(1, "transient"),
    ),
    "running": runs,
    "running, one has ended well": lambda: told(runs(), exited(0)),
    "running, the last is about to go": lambda: told(runs(1), exited(0)),
    "running, the last is about to go, always": lambda: told(runs(1, rules(policy="always")), exited(0)),
    "running, the last is about to go, always, paused": lambda: told(
        runs(1, rules(policy="always", backoff=PAUSED)), exited(0)
    ),
    "starting, one is ready": lambda: told(
        Story(job(workers=2, probe=Probe("http://h"))), up(), formed(), started(0), ready(0)
    ),
    "starting, one is condemned": lambda: condemned_on_the_last_rung(
        told(Story(job(workers=2, probe=Probe("http://h", liveness=True))), up(), formed(), started(0), ready(0))
    ),
    "running, one is ready": probed,
    "running, all are ready": lambda: told(probed(), ready(1)),
    "running, one is not ready any more": lambda: told(probed(liveness=False), ready(1), unready(0, "503")),
    "running, one is condemned": lambda: told(probed(), unready(0, "503")),
    "running, one is condemned and on the last rung": lambda: condemned_on_the_last_rung(probed()),
    "running, the only one is condemned, scope worker": lambda: told(probed(1, rules("worker")), unready(0, "503")),
    "stopping, one is condemned": lambda: told(probed(), unready(0, "503"), asked_to_stop()),
    "running, one has left strays": lambda: strays_beyond_the_last_rung(runs()),
    "running, one is silent": lambda: told(runs(), silent(0)),
    "running, one is silent and has been sent something mild": lambda: told(runs(), silent(0, signal=15)),
    "starting, one is silent": lambda: told(begun(), formed(), started(0), silent(0)),
    "running, one is held": lambda: told(runs(), held(0)),
    "running, nobody has said that it is ready": lambda: running(
        job(workers=2, watchdog=WatchdogRules(start_timeout=60.0))
    ),
    "running, one pauses": lambda: told(runs(restart=rules("worker", backoff=PAUSED)), exited(1, 1), gone(1)),
    "running, one is to restart when it is gone": lambda: told(runs(restart=rules("worker")), exited(1, 1)),
    "running, the only rank pauses": lambda: told(runs(1, rules("worker", backoff=PAUSED)), exited(0, 1), gone(0)),
    "running, one is being started again": lambda: told(runs(restart=rules("worker")), exited(1, 1), gone(1)),
    "running, the only rank is being started again": lambda: told(runs(1, rules("worker")), exited(0, 1), gone(0)),
    "starting, one serves and one pauses": half_up,
    "starting, one serves and one is being replaced": lambda: told(half_up(), asked_to_roll()),
    "running, one is drained": rolled,
    "running, one is being replaced": lambda: told(rolled(0.0), killed(0, 15)),
    "running, a replacement starts": lambda: told(rolled(0.0), killed(0, 15), gone(0)),
    "running, a replacement settles": lambda: told(rolled(0.0), killed(0, 15), gone(0), started(0)),
    "running, one that is to be replaced is on the last rung": condemned_for_a_replacement,
    "running, a roll has halted": lambda: told(rolled(0.0), killed(0, 15), gone(0), not_started(0, "permanent")),
    "running, who was to be replaced cannot be killed": never_gone,
    "stopping, one was being replaced": lambda: told(rolled(0.0), asked_to_stop()),
    "stopping for good": lambda: told(runs(), asked_to_stop()),
    "stopping for good, on the last rung": lambda: told(runs(), asked_to_stop(hurry=True)),
    "stopping, the last is about to go": lambda: told(runs(1), asked_to_stop(), exited(0)),
    "stopping before a restart": lambda: told(runs(), exited(0, 1), gone(0), exited(1)),
    "stopping before a pause": lambda: told(runs(1, rules(backoff=PAUSED)), exited(0, 1)),
    "stopping before a failure": lambda: told(runs(1, rules(budget=0)), exited(0, 1)),
    "stopping before a restart by another plan": lambda: told(runs(), replanned(job(workers=1), restart=True)),
    "stopping, a start is past recall": lambda: told(begun(1), formed(), asked_to_stop()),
    "stopping before a restart, a start is past recall": lambda: told(
        begun(), formed(), started(0), exited(0, 1), gone(0)
    ),
    "stopping before a pause, a start is past recall": lambda: told(
        begun(restart=rules(backoff=PAUSED)), formed(), started(0), exited(0, 1), gone(0)
    ),
    "backing off": lambda: told(runs(1, rules(backoff=PAUSED)), exited(0, 1), gone(0)),
    "starting after a pause": lambda: told(paused(), due("backoff"), formed()),
    "stopping after a pause": lambda: told(paused(), due("backoff"), formed(), started(0), asked_to_stop()),
    "stopped in a pause": lambda: told(paused(), asked_to_stop()),
    "backing off, no world": lambda: told(begun(), refused("no port")),
    "shared, no world yet": lambda: told(
        Story(job(workers=2, rendezvous=RendezvousRules("etcd", 2, min_hosts=1))), up()
    ),
    "shared, nobody has started": lambda: told(
        Story(job(workers=2, rendezvous=RendezvousRules("etcd", 2, min_hosts=1))), up(), met(1)
    ),
    "shared, running": shared,
    "shared, running, no restarts": lambda: shared(restart=rules(budget=0)),
    "shared, cut off": lambda: told(shared(), cut_off("no route")),
    "shared, stopping before a restart": lambda: told(shared(), exited(0, 1), gone(0)),
    "shared, stopping, nobody may restart": lambda: told(shared(restart=rules(budget=0)), exited(0, 1), gone(0)),
    "shared, stopping for good": lambda: told(shared(), asked_to_stop()),
    "shared, backing off": lambda: told(shared(1, rules(backoff=PAUSED)), exited(0, 1), gone(0)),
    "shared, at the barrier": lambda: told(shared(1), exited(0), gone(0)),
    "succeeded": lambda: runs(1).ends(1.0, 0),
    "failed": lambda: runs(1, rules(budget=0)).ends(1.0, 0, code=1),
    "stopped": lambda: told(begun(), asked_to_stop()),
    "stopping, as a person wants it": lambda: told(runs(), asked_to_stop(by="root")),
    "stopped by a person": lambda: told(begun(), asked_to_stop(by="root")),
    "unkillable": unkillable,
    "unkillable, with another plan": lambda: told(unkillable(), replanned(job(workers=1), restart=True)),
    "unkillable, one of them has ended after all": lambda: told(unkillable(), exited(0)),
}

TIMERS = (
    "backoff", "ladder", "restart:0", "restart:1", "strays:0", "strays:1", "restart:5", "drain", "", ":", "restart:",
    "restart:x", "strays:x", "strays:", "restart:-1", "restart:0:0", "strays:\u00b2", "restart:" + "9" * 5000,
    "ladder:0", "backoff:", "barrier", "barrier:",
    "strays", "restart", "condemned:0", "condemned:1", "condemned:x", "condemned", "roll", "roll:0",
)  # fmt: skip


def inputs(story: Story) -> Iterator[Input]:
    """At least one of every kind, about everything that is and much that is not, or not any more."""
    group = story.group
    yield StartRequested()
    yield DependencyLost("other", "has failed")
    yield StopRequested("operator")
    yield StopRequested("operator", hurry=True)
    yield StopRequested("stopped by root", by="root")
    yield RunRequested("asked by root")
    yield RunRequested("asked by root", anew=True)
    for rank, anew in product((0, 1, 2, -1, 10**9), (False, True)):
        yield RankRequested(rank, "asked by root", anew)
    other = replace(group.plan, command=("other",), workers=3, stop=StopRules((Rung(9, 5.0),)))
    for restart, wanted in product((False, True), (False, True)):
        yield PlanChanged(other, restart, wanted)
    for size in (1, 3):
        yield PlanChanged(replace(other, workers=size, restart=replace(group.plan.restart, drain=2.0)), restart=True)
    for attempt in range(-1, group.attempt + 2):
        yield WorldFormed(attempt, single_host_world(group.plan, 0, "127.0.0.1", 1))
        yield WorldFormed(attempt, single_host_world(group.plan, 0, "127.0.0.1", 1), restarts=2)
        yield WorldRefused(attempt, "no port")
        yield WorldLost(attempt, "host b has left", "left", "b")
        yield WorldLost(attempt, "rank 1 has failed", "failed", "b")
        yield PeersAwaited(attempt, "waits for round 2")
    for code in (0, 3):
        yield JobEnded("failed" if code else "succeeded", "all say so", code)
    yield PeersLost("no route")
    yield PeersFound()
    for rank, attempt in product((0, 1, 7, -1, 10**9), range(-1, group.attempt + 2)):
        worker = Worker(rank, attempt)
        yield WorkerStarted(worker, 4711)
        yield WorkerNotStarted(worker, "permanent", "no such file", 127)
        yield WorkerNotStarted(worker, "transient", "EAGAIN")
        yield WorkerNotStarted(worker, "abandoned", "called off")
        for status in (ExitStatus(0), ExitStatus(1), ExitStatus(78), ExitStatus(None, 9), ExitStatus(None, 11, True)):
            yield WorkerExited(worker, status)
        yield WorkerReady(worker, "probe")
        yield WorkerReady(worker, "notify")
        yield WorkerUnready(worker, "probe", "503")
        yield WorkerUnready(worker, "notify", "503")
        yield StraysFound(worker, ("1 sh", "2 sh"))
        yield WorkerSilent(worker, "timer", "did not release a timer", 15)
        yield WorkerSilent(worker, "heartbeat", "has sent no heartbeat", 9)
        yield EvidenceTaken(worker, "/logs/evidence")
        yield WorkerHeld(worker, 4711, 60.0, "in nfs_wait")
        yield WorkerLetGo(worker)
        yield WorkerGone(worker)
    for name, at in product(TIMERS, (*story.instants, -1.0, float("nan"), float("inf"))):
        yield TimerFired(name, at)


def is_old_news(group: Group, input: Input) -> bool:
    """Whether the input is about an attempt, a rank or a timer that is not, or not any more."""
    match input:
        case WorldFormed(attempt) | WorldRefused(attempt):
            return attempt != group.attempt or group.world is not None
        case PeersAwaited(attempt):
            return attempt != group.attempt or group.world is not None or group.phase is not Phase.STARTING
        case WorldLost(attempt):
            return attempt != group.attempt or group.world is None or not group.plan.rendezvous.is_elastic
        case PeersFound():
            return not group.cut_off
        case (
            WorkerStarted(worker)
            | WorkerNotStarted(worker)
            | WorkerReady(worker)
            | WorkerUnready(worker)
            | WorkerExited(worker)
            | StraysFound(worker)
            | WorkerSilent(worker)
            | EvidenceTaken(worker)
            | WorkerHeld(worker)
            | WorkerLetGo(worker)
            | WorkerGone(worker)
        ):
            slot = group.live.get(worker.rank)
            return slot is None or slot.worker != worker
        case TimerFired(name, at):
            due_at: dict[str, float | None] = {}
            if group.phase is Phase.BACKING_OFF:
                due_at["backoff"] = group.resume_at
            if group.phase is Phase.STOPPING and group.climb is not None:
                due_at["ladder"] = group.climb.at
            due_at["barrier"] = group.barrier_at
            due_at |= {f"restart:{rank}": at for rank, at in group.pauses.items()}
            due_at |= {f"strays:{rank}": climb.at for rank, climb in group.strays.items()}
            due_at["roll"] = group.roll.settles_at if group.roll is not None else None
            if group.phase in (Phase.STARTING, Phase.RUNNING):
                condemned = {rank: slot.condemned for rank, slot in group.live.items() if slot.condemned is not None}
                due_at |= {f"condemned:{rank}": one.at for rank, one in condemned.items()}
            return due_at.get(name) != at
        case _:
            return False


@pytest.mark.parametrize("state", STATES)
def test_every_input_has_an_answer_and_old_news_changes_nothing(state: str) -> None:
    story = STATES[state]()
    group = story.group
    before = repr(group)
    for input, late in product(inputs(story), (0.0, 1000.0)):
        outcome = step(group, input, story.now + late)
        assert repr(group) == before, f"{input} has changed the state itself"
        phase = outcome.group.phase
        assert phase is group.phase or type(input) in TRANSITIONS[group.phase][phase], f"{input}: -> {phase}"
        for event in outcome.events:
            json.dumps(dict(event.fields), allow_nan=False)
        if is_old_news(group, input):
            assert outcome.group is group, input
            assert outcome.effects == ()
            assert outcome.events == ()


def test_every_kind_of_input_is_among_them_and_every_phase() -> None:
    assert {type(input) for input in inputs(runs())} == set(get_args(Input))
    assert {make().group.phase for make in STATES.values()} == set(Phase)


def test_every_transition_happens_upon_every_input_that_it_names() -> None:
    """And upon no other: ``TRANSITIONS`` says all that there is."""
    seen: dict[Phase, dict[Phase, set[type[Input]]]] = {phase: {} for phase in Phase}
    for make in STATES.values():
        story = make()
        group = story.group
        for input in inputs(story):
            after = step(group, input, story.now).group
            if after.phase is not group.phase or (after.attempt != group.attempt and after.world is None):
                seen[group.phase].setdefault(after.phase, set()).add(type(input))
    named = {phase: {other: set(kinds) for other, kinds in row.items()} for phase, row in TRANSITIONS.items()}
    assert seen == named
