"""How those who answer questions see everything: they ask for a snapshot, and never touch the machine."""

from __future__ import annotations

from typing import Protocol

from supervisor.core.health import Snapshot


class Look(Protocol):
    """How everything stands at this instant; without ``workers`` the rows of single workers are left out."""

    def __call__(self, *, workers: bool = True) -> Snapshot: ...
