"""Which group may start or stop now: dependencies start first and stop last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, assert_never

from supervisor.plan import Condition, GroupPlan


class Standing(NamedTuple):
    """As much of a group as its neighbours need to know. ``finished`` includes a group that never ran.

    ``held``: a person has stopped it, so that it may run again.
    """

    was_started: bool = False
    ready: bool = False
    was_ready: bool = False
    finished: bool = False
    succeeded: bool = False
    held: bool = False


Prospect = Literal["met", "pending", "lost"]


def prospect(condition: Condition, standing: Standing) -> Prospect:
    """Whether what is waited for is there, may still come, or never will.

    ``started``: every worker of it has run once. ``ready``: it is ready now, or was and has succeeded since.
    """
    met: bool
    match condition:
        case "started":
            met = standing.was_started
        case "ready":
            met = standing.ready or (standing.succeeded and standing.was_ready)
        case "succeeded":
            met = standing.succeeded
        case _:
            assert_never(condition)
    if met:
        return "met"
    return "lost" if standing.finished and not standing.held else "pending"


def may_start(depends_on: Mapping[str, Condition], standings: Mapping[str, Standing]) -> tuple[Prospect, str]:
    """``met`` when all conditions are; else what decides: a dependency that is lost, or one still pending, by name."""
    verdict: tuple[Prospect, str] = ("met", "")
    for name, condition in depends_on.items():
        one = prospect(condition, standings[name])
        if one == "lost":
            return one, name
        if one == "pending" and verdict[0] == "met":
            verdict = (one, name)
    return verdict


def may_stop(name: str, plans: Iterable[GroupPlan], standings: Mapping[str, Standing]) -> bool:
    """Whether everybody who depends on the group has finished."""
    return all(standings[plan.name].finished for plan in plans if name in plan.depends_on)
