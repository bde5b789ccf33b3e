"""A plan goes through JSON and comes back as it was; what is no plan is refused."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.plan import (
    Backoff,
    Condition,
    DaemonPlan,
    GroupPlan,
    Limit,
    LogRules,
    Policy,
    Probe,
    Resources,
    RestartRules,
    Rung,
    StopRules,
    Streams,
)
from supervisor.plan_json import plan_from_json, plan_to_json

PLAN = DaemonPlan(
    name="rankd",
    node_id="n",
    run_id="r",
    state_dir="/s",
    runtime_dir="/r",
    groups={
        "g": GroupPlan("g", ("true",), 2, "g", LogRules("/s/logs", Streams(0, {1: 3})), depends_on={"h": "ready"}),
        "a": GroupPlan("a", ("true", "\udcff\0"), 1, "a", LogRules("/s/logs", local_ranks_filter=frozenset({9, 10}))),
    },
)


SECONDS = st.floats(0, allow_nan=False, allow_infinity=False)
CODES = st.frozensets(st.integers(0, 255), max_size=3)
STREAMS = st.builds(Streams, st.integers(0, 3), st.dictionaries(st.integers(0, 10**6), st.integers(0, 3), max_size=3))
LIMITS = st.none() | st.integers(-1, 2**63 - 1)
GROUPS = st.builds(
    GroupPlan,
    command=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    env=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    logs=st.builds(LogRules, redirects=STREAMS, tee=STREAMS, local_ranks_filter=CODES),
    depends_on=st.dictionaries(st.text(max_size=3), st.sampled_from(get_args(Condition)), max_size=3),
    restart=st.builds(
        RestartRules,
        policy=st.sampled_from(get_args(Policy)),
        window=SECONDS,
        backoff=st.builds(Backoff, SECONDS, SECONDS, SECONDS, SECONDS),
        reset_after=SECONDS,
        fatal_exit_codes=CODES,
    ),
    resources=st.builds(
        Resources,
        nice=st.none() | st.integers(-20, 19),
        rlimits=st.dictionaries(st.text(max_size=3), st.builds(Limit, LIMITS, LIMITS), max_size=3),
        cpus=st.lists(CODES, max_size=3).map(tuple),
    ),
    probe=st.none() | st.builds(Probe, exec=st.lists(st.text(max_size=3), max_size=3).map(tuple), interval=SECONDS),
    stop=st.builds(StopRules, st.lists(st.builds(Rung, st.integers(1, 64), SECONDS), max_size=3).map(tuple)),
)
PLANS = st.builds(
    DaemonPlan,
    groups=st.dictionaries(st.text(max_size=3), GROUPS, max_size=3),
    drain_delay=SECONDS,
    listen=st.lists(st.text(max_size=3), max_size=3).map(tuple),
)


@given(PLANS)
def test_every_plan_comes_back_as_it_was(plan: DaemonPlan) -> None:
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan), allow_nan=False))) == plan


def test_the_order_of_groups_comes_back_as_well() -> None:
    back = plan_from_json(json.loads(json.dumps(plan_to_json(PLAN))))
    assert back == PLAN
    assert list(back.groups) == ["g", "a"]


def with_value(at: list[str | int], value: object) -> Any:
    """The plan's JSON with another value somewhere; ``...`` takes it out."""
    written: Any = json.loads(json.dumps(plan_to_json(PLAN)))
    node = written
    for part in at[:-1]:
        node = node[part]
    if value is ...:
        del node[at[-1]]
    else:
        node[at[-1]] = value
    return written


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (["name"], 3, "plan.name: 3 is not of type str"),
        (["name"], ..., r"plan: \['name'\] missing or unknown"),
        (["colour"], "red", r"plan: \['colour'\] missing or unknown"),
        (["when_done"], "never", "plan.when_done: 'never' is none of"),
        (["groups"], [], r"plan.groups: \[\] is not of type dict"),
        (["groups", "g", "workers"], True, "plan.groups.g.workers: True is not of type int"),
        (["groups", "g", "workers"], 1.0, "plan.groups.g.workers: 1.0 is not of type int"),
        (["groups", "g", "command", 0], None, "plan.groups.g.command: None is not of type str"),
        (["groups", "g", "logs", "redirects", "of", "x"], 1, "'x' is not a number"),
        (["groups", "g", "depends_on", "h"], "done", "plan.groups.g.depends_on.h: 'done' is none of"),
        (["groups", "g", "restart", "window"], "0", "plan.groups.g.restart.window: '0' is not of type float"),
    ],
)
def test_what_is_no_plan_is_refused(at: list[str | int], value: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_from_json(with_value(at, value))
