"""A snapshot of all groups, and the three questions asked of it: live, started, ready; each answer says why.

Everything that people and machines are told between events (the health listener, ``status``, systemd's STATUS line,
the gauges) is read from a ``Snapshot``, never from the machine itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Stage = Literal["starting", "running", "draining", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker.

    ``state``: pending, starting, ready, unready, uninterruptible, draining, stopping, stopped, backing_off, exited,
    succeeded, failed, unkillable. ``since`` is when it came into that state; ``exit`` how its last process ended, in
    words ("" while the first runs); ``why`` what a worker that runs is not ready for. ``status``, ``progress`` and the
    open ``sections`` (name, since when) are what the worker says of itself.
    """

    rank: int
    local_rank: int
    state: str
    since: float
    pid: int | None = None
    attempt: int = -1
    exit: str = ""
    why: str = ""
    status: str = ""
    progress: int | None = None
    sections: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class FailureView:
    """The root cause of the group's last failure. ``rank`` is global; -1 when no worker is to blame."""

    at: float
    attempt: int
    rank: int
    reason: str
    exit_code: int | None = None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class RollView:
    """A rolling restart: so many workers are new; ``halted`` says why it goes no further, if so."""

    replaced: int
    halted: str = ""


HostState = Literal["running", "succeeded", "stopping", "waiting", "spare", "gone"]
"""``waiting``: for a round, or for a place in the one that runs; ``spare``: that has as many hosts as there may be."""


LISTED = 1_000
"""Hosts of a job that are told of one by one. All are counted."""


@dataclass(frozen=True, slots=True)
class HostView:
    """A host of a job. ``group_rank`` and ``base_rank`` are those of its seat; None: it has none that counts."""

    name: str
    state: HostState
    addr: str = ""
    workers: int = 0
    group_rank: int | None = None
    base_rank: int | None = None


@dataclass(frozen=True, slots=True)
class RendezvousView:
    """A group's rendezvous with other hosts, as this one knows it; its own ``state`` is since ``waiting_since``.

    ``phase`` is that of ``round`` ("" and 0: there is none yet), ``waiting_since`` None while workers run. ``leader``
    forms the rounds ("": nobody just now), and there alone it is known how all ``hosts`` stand; None elsewhere.
    """

    round: int
    phase: str
    state: HostState
    min_hosts: int
    max_hosts: int
    leader: str = ""
    waiting_since: float | None = None
    hosts: tuple[HostView, ...] | None = None

    @property
    def states(self) -> Mapping[HostState, int] | None:
        """How many hosts there are in each state."""
        return None if self.hosts is None else Counter(host.state for host in self.hosts)

    @property
    def listed(self) -> tuple[HostView, ...] | None:
        """As many hosts as people can read: of more, those first that do not do what they should."""
        if self.hosts is None or len(self.hosts) <= LISTED:
            return self.hosts
        return tuple(sorted(self.hosts, key=lambda host: host.state in ("running", "succeeded"))[:LISTED])


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group. ``next`` is what happens next, in words, and ``next_at`` when (both None: nothing is scheduled).

    ``ready`` is what the group is taken for (see ``steady``), ``gang`` that none of its workers is of use alone.
    ``restarts_left`` is None for no limit; ``why`` says how the group came into its phase. ``returned``: what its
    functions have returned (see ``core.returned``). ``learnt``: the limits of sections that are learnt, and why they
    are what they are (see ``core.learning``). ``failed``: for good. ``stopped_by``: the
    person who had it stopped. ``roll``: a rolling restart, under way or halted. ``hosts``: how many make its world;
    ``cut_off``: why nothing is heard of the others. ``shared``: they meet in a store,
    and how is their ``rendezvous`` (None as well before they first ask for a world).
    """

    name: str
    phase: str
    since: float
    ready_workers: int
    size: int
    attempt: int
    restarts: int
    restarts_left: int | None
    required: bool
    ready: bool
    was_ready: bool
    succeeded: bool
    why: str
    next: str | None = None
    next_at: float | None = None
    round: int = 0
    gang: bool = True
    last_failure: FailureView | None = None
    workers: tuple[WorkerView, ...] = ()
    hosts: int = 1
    cut_off: str = ""
    shared: bool = False
    returned: Mapping[str, Any] = field(default_factory=dict)
    learnt: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    stopped_by: str = ""
    roll: RollView | None = None
    rendezvous: RendezvousView | None = None


class Only(NamedTuple):
    """The one worker whose row is wanted."""

    group: str
    local_rank: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All groups at the instant ``at``, in the order of the configuration; ``why`` says why it drains or stops.

    ``behind``: for how many seconds the core has left undone what it was to do: nothing here is younger than that.
    """

    at: float
    stage: Stage
    groups: Mapping[str, GroupView] = field(default_factory=dict)
    why: str = ""
    behind: float = 0.0


STALE = 5.0
"""Seconds behind which the core counts as stuck. Far above what any turn of the loop takes on a busy machine."""

LEAVING: frozenset[Stage] = frozenset({"draining", "stopping", "stopped"})
"""The daemon's stages in which clients should go elsewhere."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``ok``, or the reasons why not, a sentence each."""

    ok: bool
    reasons: tuple[str, ...] = ()


def live(snapshot: Snapshot) -> Answer:
    """The loop turns (whoever runs this line has shown it) and the core keeps up with what happens."""
    if snapshot.behind < STALE:
        return Answer(True)
    return Answer(False, (f"the core is stuck: it is {snapshot.behind:.1f} s behind",))


def started(snapshot: Snapshot) -> Answer:
    """Every required group has been ready once."""
    return _all(
        f"group {view.name} has not been ready yet: {view.phase}, {view.ready_workers}/{view.size} workers ready"
        for view in snapshot.groups.values()
        if view.required and not view.was_ready
    )


def ready(snapshot: Snapshot) -> Answer:
    """The daemon neither drains nor stops, and every required group is ready, or has succeeded while another is."""
    if snapshot.stage in LEAVING:
        return Answer(False, (f"{snapshot.stage}: {snapshot.why}" if snapshot.why else snapshot.stage,))
    required = [view for view in snapshot.groups.values() if view.required]
    if required and all(view.succeeded for view in required):
        return Answer(False, ("every required group has succeeded: nothing is left to serve",))
    return _all(_why_not(view) for view in required if not view.ready and not view.succeeded)


def group_ready(snapshot: Snapshot, name: str) -> Answer | None:
    """Whether that group is ready; None when there is no such group."""
    view = snapshot.groups.get(name)
    if view is None:
        return None
    if snapshot.stage in LEAVING:
        return Answer(False, (f"{snapshot.stage}: {snapshot.why}" if snapshot.why else snapshot.stage,))
    return Answer(True) if view.ready else Answer(False, (_why_not(view),))


def worker_ready(snapshot: Snapshot, name: str, local_rank: int) -> Answer | None:
    """Whether that one worker is ready; None when there is none such (in the rows that the snapshot has)."""
    view = snapshot.groups.get(name)
    worker = next((row for row in view.workers if row.local_rank == local_rank), None) if view is not None else None
    if worker is None:
        return None
    if snapshot.stage in LEAVING:
        return Answer(False, (f"{snapshot.stage}: {snapshot.why}" if snapshot.why else snapshot.stage,))
    if worker.state == "ready":
        return Answer(True)
    text = f"rank {worker.rank} of group {name} is {worker.state}"
    return Answer(False, (f"{text}: {worker.why}" if worker.why else text,))


def weight(snapshot: Snapshot) -> int:
    """How much of its usual load the daemon can take, in percent: the share of ready workers in its worst group.

    Of the required groups that have not succeeded. A gang can take all or nothing; 0 wherever ``ready`` says no,
    but for groups whose workers serve each for itself: there the ready ones go on.
    """
    serving = [view for view in snapshot.groups.values() if view.required and not view.succeeded]
    if snapshot.stage in LEAVING or (not serving and not ready(snapshot).ok):
        return 0
    return min((_share(view) for view in serving), default=100)


def _share(view: GroupView) -> int:
    serves = view.ready or (not view.gang and view.phase == "running")
    return -(-100 * view.ready_workers // view.size) if serves else 0  # rounded up: 1 of 1,000 is not nothing


def _why_not(view: GroupView) -> str:
    text = f"group {view.name} is {view.phase}, {view.ready_workers}/{view.size} workers ready"
    return f"{text}: {view.why}" if view.why else text


def _all(reasons: Iterable[str]) -> Answer:
    found = tuple(reasons)
    return Answer(not found, found)


def one_line(snapshot: Snapshot) -> str:
    """All groups in one line, as systemd's STATUS shows it: ``trainer running 4/4; cache backing_off 0/1``."""
    parts = [
        f"{view.name} {view.phase} {view.ready_workers}/{view.size}"
        + (f", {view.restarts} restart{'s' if view.restarts != 1 else ''}" if view.restarts else "")
        for view in snapshot.groups.values()
    ]
    prefix = f"{snapshot.stage} ({snapshot.why}): " if snapshot.stage in ("draining", "stopping") else ""
    return prefix + "; ".join(parts)
