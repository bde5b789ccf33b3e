"""Who may start and who may stop, from how their neighbours stand."""

from __future__ import annotations

import pytest

from supervisor.core.order import Prospect, Standing, may_start, may_stop, prospect
from supervisor.plan import Condition, GroupPlan, LogRules

NOT_YET = Standing()
READY = Standing(was_started=True, ready=True, was_ready=True)
DEGRADED = Standing(was_started=True, was_ready=True)
SUCCEEDED = Standing(was_started=True, was_ready=True, finished=True, succeeded=True)
SUCCEEDED_UNREADY = Standing(was_started=True, finished=True, succeeded=True)
FAILED = Standing(was_started=True, was_ready=True, finished=True)
NEVER_RAN = Standing(finished=True)


@pytest.mark.parametrize(
    ("standing", "started", "ready", "succeeded"),
    [
        (NOT_YET, "pending", "pending", "pending"),
        (READY, "met", "met", "pending"),
        (DEGRADED, "met", "pending", "pending"),
        (SUCCEEDED, "met", "met", "met"),
        (SUCCEEDED_UNREADY, "met", "lost", "met"),
        (FAILED, "met", "lost", "lost"),
        (NEVER_RAN, "lost", "lost", "lost"),
    ],
)
def test_what_is_waited_for_is_there_or_may_come_or_never_will(
    standing: Standing, started: Prospect, ready: Prospect, succeeded: Prospect
) -> None:
    assert prospect("started", standing) == started
    assert prospect("ready", standing) == ready
    assert prospect("succeeded", standing) == succeeded


@pytest.mark.parametrize(
    ("depends_on", "verdict"),
    [
        ({}, ("met", "")),
        ({"ready": "ready", "done": "succeeded"}, ("met", "")),
        ({"ready": "ready", "starting": "ready", "waiting": "started"}, ("pending", "starting")),
        ({"starting": "ready", "failed": "ready"}, ("lost", "failed")),
        ({"failed": "ready", "starting": "ready"}, ("lost", "failed")),
    ],
)
def test_a_group_may_start_when_all_is_met_and_never_when_one_is_lost(
    depends_on: dict[str, Condition], verdict: tuple[Prospect, str]
) -> None:
    standings = {"ready": READY, "done": SUCCEEDED, "starting": NOT_YET, "waiting": NOT_YET, "failed": FAILED}
    assert may_start(depends_on, standings) == verdict


def plan(name: str, *depends_on: str) -> GroupPlan:
    return GroupPlan(name, ("x",), 1, name, LogRules("/"), depends_on=dict.fromkeys(depends_on, "started"))


def test_a_group_may_stop_when_everybody_who_depends_on_it_has_finished() -> None:
    plans = [plan("db"), plan("cache", "db"), plan("web", "db", "cache")]
    standings = {"db": READY, "cache": READY, "web": READY}
    assert [may_stop(one.name, plans, standings) for one in plans] == [False, False, True]
    standings["web"] = FAILED
    assert [may_stop(one.name, plans, standings) for one in plans] == [False, True, True]
    standings["cache"] = NEVER_RAN
    assert may_stop("db", plans, standings)
