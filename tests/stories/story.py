"""What a story is told with: rows of an instant, what happens, what is done, and what is said.

    story.tell(
        (1.0, exited(0, code=1), "SIGTERM tree 1#0; timer ladder 31", "worker.exited; worker.failed exit_code=1", ...),
        (1.1, gone(0)),
    )

Effects are written as in ``effect_in_words``, events by their names and as many of their fields as matter; what is said
may go on through further columns. A row must name all effects and all events, in order. A worker is written
``rank#attempt``. With more than one group, a group's name stands before its effects, and in ``of=``.
"""

from __future__ import annotations

import json
import signal as signals
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never, cast

from supervisor.core import groups, health, view
from supervisor.core.events import Event, signal_name
from supervisor.core.groups import Arrival, Begun, DrainOver, EndRequested, Groups, Of, ReloadRequested
from supervisor.core.messages import (
    AbandonStarts,
    Because,
    CancelTimer,
    Effect,
    ErrorReport,
    EvidenceTaken,
    ExitStatus,
    Fault,
    FormWorld,
    HowItEnded,
    Input,
    JobEnded,
    LeaveWorld,
    PeersAwaited,
    PeersFound,
    PeersLost,
    PlanChanged,
    RankRequested,
    ReportFailure,
    ReportSuccess,
    RunRequested,
    SetTimer,
    SignalWorkers,
    SilentBy,
    StartRequested,
    StartWorkers,
    StopRequested,
    StraysFound,
    TakeEvidence,
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
from supervisor.core.state import Group, Phase
from supervisor.plan import (
    Backoff,
    Condition,
    DaemonPlan,
    GroupPlan,
    LogRules,
    Probe,
    RendezvousRules,
    RestartRules,
    Rung,
    Source,
    StopRules,
    WatchdogRules,
    fixed_world,
    single_host_world,
)

LADDER = (Rung(signals.SIGTERM, 30.0), Rung(signals.SIGKILL, 10.0))
NO_PAUSE = Backoff(initial=0.0)


def job(
    name: str = "job", workers: int = 1, *, restart: RestartRules | None = None, stop: StopRules | None = None,
    depends_on: Mapping[str, Condition] | None = None, required: bool = True, watchdog: WatchdogRules | None = None,
    probe: Probe | None = None, rendezvous: RendezvousRules | None = None,
) -> GroupPlan:  # fmt: skip
    """A group with three restarts at once and a ladder of SIGTERM, 30 s, SIGKILL, 10 s, unless said otherwise."""
    return GroupPlan(
        name=name, command=("job",), workers=workers, role=name, logs=LogRules("/logs"), depends_on=depends_on or {},
        required=required, restart=restart or RestartRules(), stop=stop or StopRules(LADDER),
        watchdog=watchdog or WatchdogRules(), probe=probe, rendezvous=rendezvous or RendezvousRules(),
    )  # fmt: skip


# ---- what happens


@dataclass(frozen=True)
class Happening:
    """Something that happens to a group; what it is in full depends on which start of the worker runs just then."""

    of: str
    make: Callable[[Story, str], Input]


def _about(of: str, rank: int, attempt: int | None, make: Callable[[Worker], Input]) -> Happening:
    return Happening(of, lambda story, group: make(story.worker(group, rank, attempt)))


def formed(of: str = "") -> Happening:
    return Happening(
        of, lambda story, name: WorldFormed(story[name].attempt, single_host_world(story[name].plan, 0, "127.0.0.1", 1))
    )


def refused(reason: str, of: str = "") -> Happening:
    return Happening(of, lambda story, name: WorldRefused(story[name].attempt, reason))


def met(round: int, restarts: int = 0) -> Happening:
    """This host is the second of two alike; the job has used so many restarts."""

    def make(story: Story, name: str) -> Input:
        plan = story[name].plan
        world = fixed_world(replace(plan, rendezvous=RendezvousRules("static", 2, 1)), round, 1)
        return WorldFormed(story[name].attempt, world, restarts)

    return Happening("", make)


def world_lost(reason: str, because: str, host: str, *, restarts: int | None = None, last: bool = False) -> Happening:
    """``restarts``: how many all have used by then; ``last``: no other world will come."""
    return Happening(
        "",
        lambda story, name: WorldLost(story[name].attempt, reason, cast("Because", because), host, restarts, last),
    )


def job_ended(why: str, exit_code: int = 0, how: HowItEnded = "closed") -> Happening:
    return Happening("", lambda *_: JobEnded("failed" if exit_code else "succeeded", why, exit_code, how))


def awaited(reason: str) -> Happening:
    """The group's host says what it waits for."""
    return Happening("", lambda story, name: PeersAwaited(story.state.groups[name].attempt, reason))


def cut_off(reason: str) -> Happening:
    return Happening("", lambda *_: PeersLost(reason))


def heard_again() -> Happening:
    return Happening("", lambda *_: PeersFound())


def started(rank: int, attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, lambda worker: WorkerStarted(worker, 1000 + rank))


def ready(rank: int, source: Source = "probe", attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, lambda worker: WorkerReady(worker, source))


def unready(rank: int, reason: str, source: Source = "probe", attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, lambda worker: WorkerUnready(worker, source, reason))


def not_started(rank: int, fault: Fault, reason: str = "no", exit_code: int = 126, of: str = "") -> Happening:
    return _about(of, rank, None, lambda worker: WorkerNotStarted(worker, fault, reason, exit_code))


def exited(
    rank: int, code: int = 0, attempt: int | None = None, of: str = "", *,
    unasked: bool = False, error: ErrorReport | None = None,
) -> Happening:  # fmt: skip
    return _about(
        of, rank, attempt, lambda worker: WorkerExited(worker, ExitStatus(code), unasked=unasked, error=error)
    )


def killed(
    rank: int, signal: int, *, core_dumped: bool = False, sent: int | None = None,
    attempt: int | None = None, of: str = "",
) -> Happening:  # fmt: skip
    return _about(
        of, rank, attempt, lambda worker: WorkerExited(worker, ExitStatus(None, signal, core_dumped), sent=sent)
    )


def said_ready(rank: int, attempt: int | None = None, of: str = "") -> Happening:
    return ready(rank, "notify", attempt, of)


def silent(
    rank: int, reason: str = "has sent no heartbeat for 5 s", by: SilentBy = "heartbeat", signal: int = 9,
    attempt: int | None = None, of: str = "", name: str = "",
) -> Happening:  # fmt: skip
    return _about(of, rank, attempt, lambda worker: WorkerSilent(worker, by, reason, signal, name=name))


def seen(rank: int, path: str = "/logs/evidence", attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, lambda worker: EvidenceTaken(worker, path))


def held(rank: int, details: str = "pid 1000 in nfs_wait", attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, lambda worker: WorkerHeld(worker, 1000 + rank, 60.0, details))


def let_go(rank: int, attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, WorkerLetGo)


def strays(rank: int, *processes: str, of: str = "") -> Happening:
    return _about(of, rank, None, lambda worker: StraysFound(worker, processes))


def gone(rank: int, attempt: int | None = None, of: str = "") -> Happening:
    return _about(of, rank, attempt, WorkerGone)


def due(timer: str, of: str = "") -> Happening:
    """The timer of that name, which must be set for the row's instant or an earlier one."""
    return Happening(of, lambda story, group: TimerFired(timer, story.due_at(group, timer)))


def fired(timer: str, at: float, of: str = "") -> Happening:
    """A timer that was set for ``at`` reports, cancelled or not: it was on its way already."""
    return Happening(of, lambda *_: TimerFired(timer, at))


def asked_to_start(of: str = "") -> Happening:
    return Happening(of, lambda *_: StartRequested())


def asked_to_stop(reason: str = "operator", *, hurry: bool = False, by: str = "", of: str = "") -> Happening:
    return Happening(of, lambda *_: StopRequested(reason, hurry, by))


def asked_to_run(reason: str = "asked by root", *, anew: bool = False, of: str = "") -> Happening:
    return Happening(of, lambda *_: RunRequested(reason, anew))


def rank_asked_for(rank: int, *, anew: bool = True, reason: str = "asked by root", of: str = "") -> Happening:
    return Happening(of, lambda *_: RankRequested(rank, reason, anew))


def replanned(plan: GroupPlan, *, restart: bool, wanted: bool = False) -> Happening:
    """The group alone is given another plan."""
    return Happening("", lambda *_: PlanChanged(plan, restart, wanted))


def asked_to_roll(reason: str = "operator", of: str = "") -> Happening:
    return Happening(of, lambda *_: RunRequested(reason, anew=True))


def read_anew(*jobs: GroupPlan, **options: Any) -> Arrival:
    """The configuration has these groups now; ``options`` are keys of the daemon."""
    names = [one.name for one in jobs]
    plan = DaemonPlan("rankd", "host", "run", "/state", "/run", {one.name: one for one in jobs}, **options)
    return ReloadRequested(plan, dict.fromkeys(names, 1), dict.fromkeys(names, -1))


def up() -> Arrival:
    return Begun()


def end(reason: str = "SIGTERM", *, hurry: bool = False, forward: int | None = None) -> Arrival:
    """The whole daemon is told to stop."""
    return EndRequested(reason, hurry, forward)


Row = tuple[float, Happening | Arrival, *tuple[str, ...]]


# ---- the story


class Story:
    """The state so far. ``done`` and ``said``: what the last row led to.

    ``timers``: those that are set. ``instants``: those for which any was ever set.
    """

    def __init__(
        self, *jobs: GroupPlan, seed: int = 1, drain_delay: float = 0.0, when_done: str = "exit", attempt: int = -1
    ) -> None:
        plan = DaemonPlan(
            "rankd", "host", "run", "/state", "/run", {one.name: one for one in jobs},
            drain_delay=drain_delay, when_done="stay" if when_done == "stay" else "exit",
        )  # fmt: skip
        names = [one.name for one in jobs]
        self.state: Groups = groups.begin(plan, dict.fromkeys(names, seed), dict.fromkeys(names, attempt), 0.0)
        self.now = 0.0
        self.timers: dict[tuple[str | None, str], float] = {}
        self.instants: set[float] = set()
        self.done: list[tuple[str | None, Effect]] = []
        self.said: list[Event] = []

    def __getitem__(self, group: str) -> Group:
        return self.state.groups[group]

    @property
    def group(self) -> Group:
        """The first group, or the only one."""
        return next(iter(self.state.groups.values()))

    def phase_of(self, group: str = "") -> Phase:
        return (self[group] if group else self.group).phase

    def over(self) -> bool:
        """Whether the daemon may exit."""
        return self.state.over

    @property
    def view(self) -> health.GroupView:
        return view.group_view(self.group, self.now)

    @property
    def ready(self) -> health.Answer:
        """What ``/readyz`` answers."""
        return health.ready(view.snapshot(self.state, self.now))

    def worker(self, group: str, rank: int, attempt: int | None) -> Worker:
        if attempt is not None:
            return Worker(rank, attempt)
        slot = self[group].live.get(rank)
        assert slot is not None, f"rank {rank} of {group} is not live"
        return slot.worker

    def due_at(self, group: str | None, timer: str) -> float:
        assert (group, timer) in self.timers, f"no timer {timer} in {self.timers}"
        at = self.timers.pop((group, timer))
        assert at <= self.now, f"{timer} is due at {at:g}, not at {self.now:g} yet"
        return at

    def happen(self, at: float, what: Happening | Arrival) -> None:
        """Let one thing happen, and note what follows."""
        assert at >= self.now
        self.now = at
        match what:
            case Happening(of, make):
                name = of or self.group.plan.name
                arrival: Arrival = Of(name, make(self, name))
            case _:
                arrival = what
        result = groups.advance(self.state, arrival, at)
        self.state, self.done, self.said = result.groups, list(result.effects), list(result.events)
        for group, effect in self.done:
            match effect:
                case SetTimer(name, due):
                    self.timers[group, name] = due
                    self.instants.add(due)
                case CancelTimer(name):
                    self.timers.pop((group, name), None)
        for event in self.said:
            json.dumps(dict(event.fields), allow_nan=False)

    def tell(self, *rows: Row) -> Story:
        """Let the rows happen, one after the other; each must lead to just what it says."""
        alone = len(self.state.groups) == 1
        for at, what, *columns in rows:
            self.happen(at, what)
            row = f"the row at {at:g}"
            done = [effect_in_words(effect, "" if alone else group or "") for group, effect in self.done]
            assert done == _parts(*columns[:1]), row
            wanted = [_event_wanted(text) for text in _parts(*columns[1:])]
            assert [event.name for event in self.said] == [name for name, _ in wanted], row
            for event, (_, fields) in zip(self.said, wanted, strict=True):
                assert {name: event.fields.get(name) for name in fields} == fields, f"{row}: {event.name}"
        return self

    @property
    def words(self) -> list[str]:
        """What was done upon the last thing that happened."""
        return [effect_in_words(effect) for _, effect in self.done]

    def drain_over(self) -> Arrival:
        return DrainOver(self.due_at(None, "drain"))

    def runs(self, at: float = 0.0) -> Story:
        """Skip the beginning: every group that may start has started, a millisecond after ``at``."""
        if self.state.stage == "starting":
            self.happen(at, up())
        while waiting := [name for name, group in self.state.groups.items() if group.phase is Phase.STARTING]:
            for name in waiting:
                if self[name].world is None:
                    self.happen(self.now, formed(of=name))
                for rank in self[name].live:
                    self.happen(max(at + 0.001, self.now), started(rank, of=name))
        return self

    def ends(self, at: float, *ranks: int, code: int = 0, of: str = "") -> Story:
        """These workers exit with ``code`` and are gone, one after the other."""
        for rank in ranks:
            self.happen(at, exited(rank, code, of=of))
            self.happen(at, gone(rank, of=of))
        return self


def running(*jobs: GroupPlan, **options: Any) -> Story:
    """All groups have started: at the instant 0 they were asked for, a millisecond later they ran."""
    return Story(*jobs, **options).runs()


# ---- in words


def effect_in_words(effect: Effect, group: str = "") -> str:
    words = _in_words(effect)
    return f"{group}: {words}" if group else words


def _in_words(effect: Effect) -> str:
    match effect:
        case FormWorld(attempt):
            return f"form world {attempt}"
        case StartWorkers(workers, _, restarts):
            return f"start {_names(workers)}" + (f" after {restarts}" if restarts else "")
        case AbandonStarts():
            return "abandon starts"
        case SignalWorkers(workers, signal, reach):
            return f"{signal_name(signal)} {reach} {_names(workers)}"
        case ReportFailure(_, exit_code, final):
            return f"report {'final ' * final}failure {exit_code}"
        case ReportSuccess():
            return "report success"
        case LeaveWorld(_, exit_code):
            return f"leave with {exit_code}" if exit_code else "leave"
        case TakeEvidence(worker):
            return f"look at {_names((worker,))}"
        case SetTimer(name, at):
            return f"timer {name} {at:g}"
        case CancelTimer(name):
            return f"no timer {name}"
        case _:
            assert_never(effect)


def _names(workers: tuple[Worker, ...]) -> str:
    return " ".join(f"{worker.rank}#{worker.attempt}" for worker in workers)


def _parts(*columns: str) -> list[str]:
    return [part.strip() for column in columns for part in column.split(";") if part.strip()]


def _event_wanted(text: str) -> tuple[str, dict[str, Any]]:
    """``name field=value ...``: a value is JSON, or text without spaces."""
    name, *pairs = text.split()
    return name, {key: _value(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
