"""What of a new configuration needs a restart, of a group or of the daemon, and what does not."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from supervisor.core.reload import Changes, GroupChange, compare
from supervisor.plan import (
    Backoff,
    DaemonPlan,
    DumpRules,
    GroupPlan,
    HookPlan,
    LogRules,
    Probe,
    Resources,
    RestartRules,
    Rotation,
    Rung,
    StopRules,
    WatchdogRules,
)

JOB = GroupPlan("a", ("job",), 2, "a", LogRules("/logs"))
PLAN = DaemonPlan("rankd", "host", "run", "/state", "/run", {"a": JOB})


def changed(**keys: Any) -> GroupChange:
    return compare(PLAN, replace(PLAN, groups={"a": replace(JOB, **keys)})).changed["a"]


def test_the_same_configuration_changes_nothing() -> None:
    assert compare(PLAN, replace(PLAN, groups={"a": replace(JOB)})) == Changes()


def test_groups_are_added_and_removed_in_the_order_of_their_files() -> None:
    old = replace(PLAN, groups={name: replace(JOB, name=name) for name in "bac"})
    new = replace(PLAN, groups={name: replace(JOB, name=name) for name in "zax"})
    assert compare(old, new) == Changes(added=("z", "x"), removed=("b", "c"))


def test_a_change_of_a_number_of_workers_alone_is_but_a_scaling() -> None:
    more = GroupChange(("workers",), ("workers",))
    other = GroupChange(("command",), ("command",))
    assert Changes().is_but_scaling("a")
    assert Changes(changed={"a": more}).is_but_scaling("a")
    for beyond in (
        Changes(changed={"a": GroupChange(("command", "workers"), ("command", "workers"))}),
        Changes(changed={"a": more, "b": other}),
        Changes(changed={"a": more}, applied=("log.level",)),
        Changes(changed={"a": more}, added=("c",)),
    ):
        assert not beyond.is_but_scaling("a")


def test_a_group_of_either_configuration_has_one_fate() -> None:
    changes = Changes(
        added=("new",),
        removed=("old",),
        changed={"live": GroupChange(("required",), ()), "anew": GroupChange(("required", "env"), ("env",))},
    )
    assert changes.of("new") == ("add", ())
    assert changes.of("old") == ("remove", ())
    assert changes.of("live") == ("apply live", ("required",))
    assert changes.of("anew") == ("restart", ("env",))
    assert changes.of("same") == ("unchanged", ())


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"required": False}, ("required",)),
        ({"depends_on": {"b": "ready"}}, ("depends_on",)),
        ({"stop": StopRules((Rung(9, 1.0),), "leader")}, ("stop.ladder", "stop.scope")),
        ({"restart": RestartRules(max_restarts=9, backoff=Backoff(5.0))}, ("restart.max_restarts", "restart.backoff")),
        (
            {"restart": RestartRules(max_unavailable=2, drain=1.0)},
            ("restart.max_unavailable", "restart.drain"),
        ),
        ({"ready_after": 1.0, "unready_after": 2.0}, ("ready_after", "unready_after")),
        ({"watchdog": WatchdogRules(sections={"step": 1.0}, stopping=9.0)}, ("watchdog.stopping", "watchdog.sections")),
        (
            {"watchdog": WatchdogRules(uninterruptible=1.0, dump=DumpRules(10))},
            ("watchdog.uninterruptible", "watchdog.dump"),
        ),
    ],
)
def test_what_is_only_looked_up_when_something_happens_is_applied_as_the_group_runs(
    keys: dict[str, Any], named: tuple[str, ...]
) -> None:
    assert changed(**keys) == GroupChange(named, ())


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"command": ("other",)}, "command"),
        ({"workers": 3}, "workers"),
        ({"env": {"A": "1"}}, "env"),
        ({"restart": RestartRules(scope="worker")}, "restart.scope"),
        ({"logs": LogRules("/logs", rotate=Rotation(10))}, "logs.rotate"),
        ({"resources": Resources(cpus=(frozenset({1}),))}, "resources.cpu_affinity"),
        ({"watchdog": WatchdogRules(heartbeat=9.0)}, "watchdog.heartbeat"),
        ({"watchdog": WatchdogRules(timer_file=False)}, "watchdog.timer_file"),
        ({"watchdog": WatchdogRules(start_timeout=9.0)}, "watchdog.start_timeout"),
        ({"probe": Probe(tcp="127.0.0.1:1")}, "probe"),
    ],
)
def test_what_a_worker_is_started_with_needs_a_restart(keys: dict[str, Any], named: str) -> None:
    assert changed(**keys, required=False) in (
        GroupChange((named, "required"), (named,)),
        GroupChange(("required", named), (named,)),
    )
    both = compare(PLAN, replace(PLAN, groups={"a": replace(JOB, **keys), "b": JOB}))
    assert both.restarted == ("a",)


def test_of_a_probe_only_whom_to_ask_needs_a_restart() -> None:
    probed = replace(JOB, probe=Probe(tcp="127.0.0.1:1"), watchdog=WatchdogRules(start_timeout=60.0))
    plan = replace(PLAN, groups={"a": probed})

    def to(probe: Probe | None, start_timeout: float = 60.0) -> GroupChange:
        new = replace(probed, probe=probe, watchdog=WatchdogRules(start_timeout=start_timeout))
        return compare(plan, replace(PLAN, groups={"a": new})).changed["a"]

    slower = to(Probe(tcp="127.0.0.1:1", interval=9.0, timeout=9.0, rise=9, fall=9, liveness=True), 90.0)
    assert (len(slower.keys), slower.restart) == (6, ())
    assert to(Probe(tcp="127.0.0.1:2", fall=9)) == GroupChange(("probe.tcp", "probe.fall"), ("probe.tcp",))
    assert to(None).restart == ("probe",)


def test_a_key_that_nobody_thought_of_needs_a_restart() -> None:
    """Of the group, whatever its table; and of the daemon."""
    known = {"depends_on", "required", "ready_after", "unready_after", "stop", "restart", "watchdog", "probe"}
    for one in fields(GroupPlan):
        if one.name not in known | {"name", "logs", "resources"}:
            assert changed(**{one.name: object()}).restart == (one.name,)


def test_what_belongs_to_the_daemons_whole_life_is_named_as_in_the_file() -> None:
    new = replace(
        PLAN, name="other", run_id="other", listen=(), log_format="json", state_dir="/s", state_dir_is_common=True,
        agent_check="127.0.0.1:1", torchelastic_events="console", torchelastic_metrics="console",
    )  # fmt: skip
    assert compare(PLAN, new).fixed == (
        "daemon.name", "daemon.run_id", "daemon.state_dir", "log.format", "health.listen", "health.agent_check",
        "log.torchelastic_events", "log.torchelastic_metrics",
    )  # fmt: skip


def test_what_the_daemon_only_looks_up_is_applied() -> None:
    hooks = {"page": HookPlan(("*",), command=("page",))}
    new = replace(PLAN, when_done="stay", drain_delay=1.0, log_level="debug", drain_status=404, hooks=hooks)
    assert compare(PLAN, new) == Changes(
        applied=("daemon.when_done", "daemon.drain_delay", "log.level", "health.drain_status", "hooks")
    )
