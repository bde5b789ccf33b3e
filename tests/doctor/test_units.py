"""The service's settings against what rankd needs, with a systemctl that says what it is told to."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.doctor import units
from supervisor.doctor.units import Unit, findings, journal, longest_stop, span
from supervisor.plan import DaemonPlan, GroupPlan, LogRules, Rung, StopRules

GOOD = {
    "LoadState": "loaded", "ExecStart": "{ path=/opt/rankd ; argv[]=/opt/rankd run /etc/r.toml ; pid=0 }",
    "User": "root", "Type": "notify", "NotifyAccess": "main", "WatchdogUSec": "30s", "TimeoutStopUSec": "1min",
    "KillMode": "mixed", "Delegate": "yes", "OOMPolicy": "continue",
}  # fmt: skip


def unit(**properties: str) -> Unit:
    return Unit("rankd.service", GOOD | properties)


def plan(**waits: tuple[float, list[str]]) -> DaemonPlan:
    """Groups by name, each with its ladder's time and what it depends on."""
    groups = {
        name: GroupPlan(
            name, ("x",), 1, name, LogRules("/x"),
            depends_on=dict.fromkeys(others, "ready"), stop=StopRules((Rung(15, wait), Rung(9, 0.0))),
        )
        for name, (wait, others) in waits.items()
    }  # fmt: skip
    return DaemonPlan("", "", "", "/x", "/x", groups, drain_delay=5.0)


def test_a_stop_takes_the_slowest_chain_of_dependents_after_the_drain() -> None:
    assert longest_stop(plan(a=(10, []), b=(20, []))) == 25
    assert longest_stop(plan(cache=(10, []), job=(30, ["cache"]), side=(1, ["cache"]), last=(2, ["job"]))) == 47
    chain = {f"g{n}": (1.0, [f"g{n - 1}"] if n else []) for n in range(3000)}
    assert longest_stop(plan(**chain)) == 3005


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1min 30s", 90), ("infinity", float("inf")), ("0", 0), ("1d 2h", 93600), ("500ms", 0.5), ("", 0), ("2.5s", 2.5)],
)
def test_time_spans_are_read_as_systemctl_writes_them(text: str, seconds: float) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize(
    ("properties", "wait", "verdict", "words"),
    [
        ({}, 54, "ok", "TimeoutStopSec=1min; a stop takes at most 59 s, dependents first"),
        ({}, 55, "warning", "may take 60 s: rankd asks systemd for more, which only works while it is well"),
        ({"Type": "exec"}, 55, "failed", "systemd would kill workers in the midst of their ladder"),
        ({"NotifyAccess": "none"}, 55, "failed", "systemd would kill workers in the midst of their ladder"),
        ({"TimeoutStopUSec": "infinity"}, 9999, "ok", "TimeoutStopSec=infinity; a stop takes at most 10004 s"),
    ],
)
def test_systemd_has_to_wait_longer_than_a_stop_takes(
    properties: dict[str, str], wait: float, verdict: str, words: str
) -> None:
    _, told, _ = findings(unit(**properties), plan(job=(wait, [])))
    assert told.verdict == verdict
    assert words in told.found
    assert verdict == "ok" or told.advice == "TimeoutStopSec=70 in the unit"


@pytest.mark.parametrize(
    ("setting", "value", "advice"),
    [
        ("Type", "exec", "Type=notify"),
        ("NotifyAccess", "none", "NotifyAccess=main"),
        ("WatchdogUSec", "0", "WatchdogSec=30"),
        ("KillMode", "control-group", "KillMode=mixed"),
        ("Delegate", "no", "Delegate=yes"),
        ("OOMPolicy", "stop", "OOMPolicy=continue"),
    ],
)
def test_each_setting_that_costs_something_is_named_with_the_one_to_write(
    setting: str, value: str, advice: str
) -> None:
    assert next(findings(unit(), None)).verdict == "ok"
    told = next(findings(unit(**{setting: value}), None))
    assert (told.verdict, told.advice) == ("warning", f"in the unit: {advice}")


def test_a_unit_whose_user_does_not_exist_will_not_start() -> None:
    told = next(findings(unit(User="no-such-user"), None))
    assert (told.verdict, told.advice) == ("failed", "systemd-sysusers")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that prints this file's text; returns the file."""
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\nexec cat "{tmp_path}/said"\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "said"


def test_the_unit_is_ours_if_it_runs_the_configuration_or_was_named(systemctl: Path, tmp_path: Path) -> None:
    systemctl.write_text("".join(f"{name}={value}\n" for name, value in GOOD.items()))
    booted = str(tmp_path)
    assert units.find(None, "/etc/r.toml", booted) == (unit(), [])
    assert units.find(None, None, booted) == (unit(), [])
    assert units.find("x.service", "/etc/y.toml", booted) == (replace(unit(), name="x.service"), [])
    found, (told,) = units.find(None, "/etc/y.toml", booted)
    assert found is None
    assert "rankd.service does not run /etc/y.toml" in told.found


def test_a_unit_that_is_not_there_is_a_failure_only_if_it_was_named(systemctl: Path, tmp_path: Path) -> None:
    systemctl.write_text("LoadState=not-found\n")
    for name, verdict in ((None, "ok"), ("x.service", "failed")):
        found, (told,) = units.find(name, None, str(tmp_path))
        assert (found, told.verdict) == (None, verdict)
        found, (told,) = units.find(name, None, str(tmp_path / "nothing booted"))
        assert (found, told.verdict) == (None, verdict)


def test_a_systemctl_that_fails_is_told(systemctl: Path, tmp_path: Path) -> None:
    found, (told,) = units.find(None, None, str(tmp_path))
    assert found is None
    assert told.verdict == "warning"
    assert "returned non-zero exit status" in told.found


def test_directories_are_those_that_systemd_would_give() -> None:
    given = units.environment(unit(StateDirectory="rankd:alias other", RuntimeDirectory="r"), {"A": "1"})
    assert given == {"A": "1", "STATE_DIRECTORY": "/var/lib/rankd", "RUNTIME_DIRECTORY": "/run/r"}
    assert units.environment(None, {"A": "1"}) == {"A": "1"}


def test_the_journal_is_reachable_absent_or_deaf(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert journal(None, path).found == "there is none: records go to stdout"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(path)
        told = journal(unit(LogRateLimitBurst="10000", LogRateLimitIntervalUSec="30s"), path)
        assert told.found.startswith("reachable; beyond 10000 lines in 30s it drops")
    assert journal(None, path).verdict == "warning"
