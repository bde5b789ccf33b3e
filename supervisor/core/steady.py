"""Hysteresis of readiness: a group is taken for ready, or not, only once it has been so for the time it is given.

It is about what others are told; the machine itself, its restarts and ``depends_on`` go by what is.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.core.state import Group, Phase


@dataclass(frozen=True, slots=True)
class Standing:
    """What a group is taken for. ``otherwise_since``: it has not been that any more since then."""

    ready: bool = False
    otherwise_since: float | None = None


def observe(standing: Standing, group: Group, now: float) -> Standing:
    """What the group is taken for at the instant ``now``; due whenever it changes and at ``settles_at``."""
    actual = group.is_ready
    if actual == standing.ready:
        return Standing(actual)
    since = group.ready_at if actual else standing.otherwise_since
    doubted = Standing(standing.ready, now if since is None else since)
    due_at = settles_at(doubted, group)
    return doubted if due_at is not None and now < due_at else Standing(actual)


def settles_at(standing: Standing, group: Group) -> float | None:
    """When the group will be taken for what it is, if it stays so; None: it is already.

    A group that stops or starts anew is not ready from that instant on: ``unready_after`` is for single workers.
    """
    if standing.otherwise_since is None:
        return None
    if not standing.ready:
        return standing.otherwise_since + group.plan.ready_after
    return standing.otherwise_since + (group.plan.unready_after if group.phase is Phase.RUNNING else 0.0)
