"""What follows from the containment that workers would have is said in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.doctor import Finding
from supervisor.doctor.containment import finding, judged
from supervisor.doctor.units import Unit
from supervisor.host import cgroup
from supervisor.host.cgroup import Delegated, NotDelegated

ALL = frozenset({"cpu", "memory", "pids", "cpuset"})


def test_a_group_with_all_controllers_is_ok(tmp_path: Path) -> None:
    (tmp_path / "cgroup.kill").write_text("")
    told = judged(Delegated(str(tmp_path), ALL))
    assert told.verdict == "ok"
    assert told.found.endswith("is ours to divide; cgroup.kill ends it at once; controllers: cpu cpuset memory pids")
    assert not told.advice


def test_a_controller_that_is_lacking_is_named(tmp_path: Path) -> None:
    told = judged(Delegated(str(tmp_path), ALL - {"pids"}))
    assert told.verdict == "warning"
    assert "no cgroup.kill (Linux 5.14)" in told.found
    assert told.advice.startswith("pids cannot limit workers here")


def test_without_a_group_of_ours_it_says_why_and_how_to_get_one() -> None:
    told = judged(NotDelegated("others live in /a, too"))
    assert told.verdict == "warning"
    assert told.found.startswith("session and subreaper: others live in /a, too; memory and CPU")
    assert "Delegate=yes" in told.advice


def test_it_asks_what_the_daemon_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = Delegated(str(tmp_path), ALL)
    monkeypatch.setattr(cgroup, "available", lambda: found)
    assert finding(None) == judged(found)


def test_of_a_unit_it_is_that_units_control_group_or_the_one_that_it_will_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    monkeypatch.setattr(cgroup, "folder", {"/system.slice/r.service": str(tmp_path), "/gone": f"{tmp_path}/gone"}.get)

    def of(delegate: str, group: str) -> Finding:
        return finding(Unit("r.service", {"Delegate": delegate, "ControlGroup": group}))

    assert of("yes", "/system.slice/r.service") == judged(Delegated(str(tmp_path), frozenset({"cpu", "pids"})))
    assert of("yes", "").verdict == "ok"
    assert "r.service is not delegated" in of("no", "").found
    assert "No such file" in of("yes", "/gone").found
    assert "no control group of version 2" in of("yes", "/elsewhere").found
