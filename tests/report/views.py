"""Snapshots as the health listener is given them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor import clock
from supervisor.core.health import FailureView, GroupView, HostView, Only, RendezvousView, Snapshot, WorkerView


def group(name: str = "trainer", *, ready: bool = True, size: int = 2, **changes: Any) -> GroupView:
    """A running group, ready or not."""
    now = clock.now()
    view = GroupView(
        name=name,
        phase="running",
        since=now - 10,
        ready_workers=size if ready else 0,
        size=size,
        attempt=0,
        restarts=0,
        restarts_left=3,
        required=True,
        ready=ready,
        was_ready=ready,
        succeeded=False,
        why="every worker is ready" if ready else "every worker has started",
        workers=tuple(
            WorkerView(rank, rank, "ready" if ready else "starting", now - 10, 1000 + rank, 0) for rank in range(size)
        ),
    )
    return replace(view, **changes)


FAILED_ONCE = FailureView(at=0.0, attempt=0, rank=1, reason="rank 1 exited with code 3", exit_code=3)

LEADS = RendezvousView(
    3, "formed", "running", 1, 2, "host-a", None,
    (
        HostView("host-a", "running", "10.0.0.1", 8, 0, 0),
        HostView("host-b", "running", "10.0.0.2", 4, 1, 8),
        HostView("host-c", "spare", "10.0.0.3", 8),
    ),
)  # fmt: skip
"""Of the host that leads; of another one it would be without ``hosts``."""


class Standing:
    """What the listener sees; a test changes ``stage``, ``why`` and ``groups`` as it goes."""

    def __init__(self, *groups: GroupView) -> None:
        self.stage: Any = "running"
        self.why = ""
        self.behind = 0.0
        self.groups = {view.name: view for view in groups or (group(),)}
        self.looks: list[bool | Only] = []

    def __call__(self, *, workers: bool | Only = True) -> Snapshot:
        self.looks.append(workers)
        groups = {name: replace(view, workers=_rows(view, workers)) for name, view in self.groups.items()}
        return Snapshot(clock.now(), self.stage, groups, self.why, self.behind)

    def put(self, *groups: GroupView) -> None:
        self.groups |= {view.name: view for view in groups}


def _rows(view: GroupView, workers: bool | Only) -> tuple[WorkerView, ...]:
    if isinstance(workers, bool):
        return view.workers if workers else ()
    return tuple(row for row in view.workers if (view.name, row.local_rank) == workers)
