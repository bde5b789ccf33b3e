"""A snapshot of all groups, and the three questions asked of it: live, started, ready; each answer says why.

Everything that people and machines are told between events (the health listener, ``status``, systemd's STATUS line,
the gauges) is read from a ``Snapshot``, never from the machine itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["starting", "running", "draining", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker.

    ``state``: pending, starting, ready, unready, stopping, stopped, backing_off, exited, succeeded, failed, unkillable.
    ``since`` is when it came into that state; ``exit`` how its last process ended, in words ("" while the first runs);
    ``why`` what a worker that runs is not ready for.
    """

    rank: int
    local_rank: int
    state: str
    since: float
    pid: int | None = None
    attempt: int = -1
    exit: str = ""
    why: str = ""


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
class GroupView:
    """One group. ``next`` is what happens next, in words, and ``next_at`` when (both None: nothing is scheduled).

    ``restarts_left`` is None for no limit; ``why`` says how the group came into its phase.
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
    last_failure: FailureView | None = None
    workers: tuple[WorkerView, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All groups at the instant ``at``, in the order of the configuration; ``why`` says why it drains or stops."""

    at: float
    stage: Stage
    groups: Mapping[str, GroupView] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """``ok``, or the reasons why not, a sentence each."""

    ok: bool
    reasons: tuple[str, ...] = ()


def live() -> Answer:
    """The daemon's own loop turns: whoever runs this line has shown it."""
    return Answer(True)


def started(snapshot: Snapshot) -> Answer:
    """Every required group has been ready once."""
    return _all(
        f"group {view.name} has not been ready yet: {view.phase}, {view.ready_workers}/{view.size} workers ready"
        for view in snapshot.groups.values()
        if view.required and not view.was_ready
    )


def ready(snapshot: Snapshot) -> Answer:
    """The daemon neither drains nor stops, and every required group is ready, or has succeeded while another is."""
    if snapshot.stage in ("draining", "stopping", "stopped"):
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
    if snapshot.stage in ("draining", "stopping", "stopped"):
        return Answer(False, (f"{snapshot.stage}: {snapshot.why}" if snapshot.why else snapshot.stage,))
    return Answer(True) if view.ready else Answer(False, (_why_not(view),))


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
