"""How those who answer questions see everything: they ask for a snapshot, and never touch the machine."""

from __future__ import annotations

from typing import Protocol

from supervisor.core.health import Only, Snapshot


class Look(Protocol):
    """How everything stands at this instant; the rows of single workers can be left out, all or all but one."""

    def __call__(self, *, workers: bool | Only = True) -> Snapshot: ...
