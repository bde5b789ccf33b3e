"""Which containment a process will have for its workers, told from control groups made of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.doctor import containment
from supervisor.doctor.containment import containment_found, finding
from supervisor.doctor.units import Unit

MOUNTS = "tmpfs /run tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"


def host(root: Path, own: str = "/system.slice/rankd.service", controllers: str = "cpu memory pids") -> Path:
    """A host whose only process is in the control group ``own``; returns that one's folder."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mounts").write_text(MOUNTS)
    (root / "proc/self/cgroup").write_text(f"3:cpu:/elsewhere\n0::{own}\n")
    folder = root / f"sys/fs/cgroup{own}"
    folder.mkdir(parents=True)
    for name, text in (("cgroup.procs", ""), ("cgroup.subtree_control", ""), ("cgroup.controllers", controllers)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def delegated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getxattr", lambda _folder, name: b"1" if name == "user.delegate" else b"0")


@pytest.mark.usefixtures("delegated")
def test_a_delegated_control_group_is_ours_with_its_controllers(tmp_path: Path) -> None:
    folder = host(tmp_path)
    found = containment_found(str(tmp_path))
    assert (found.own, found.controllers, found.kills) == (
        "/system.slice/rankd.service",
        ("cpu", "memory", "pids"),
        False,
    )
    (folder / "cgroup.kill").write_text("")
    assert containment_found(str(tmp_path)).kills


def test_what_root_may_write_but_was_not_given_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "root may write it, but it is systemd's" in containment_found(str(tmp_path)).why
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # what another user may write has been given to him
    assert containment_found(str(tmp_path)).own == "/system.slice/rankd.service"


def test_a_containers_own_root_is_ours(tmp_path: Path) -> None:
    host(tmp_path, own="/")
    assert containment_found(str(tmp_path))[::3] == ("/", True)


def test_what_we_may_not_write_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: not path.endswith("cgroup.procs"))
    assert "is not delegated: it is not ours to write" in containment_found(str(tmp_path)).why


@pytest.mark.usefixtures("delegated")
def test_without_version_2_or_its_controllers_or_our_folder_there_is_none(tmp_path: Path) -> None:
    folder = host(tmp_path, controllers="")
    assert "has no controllers" in containment_found(str(tmp_path)).why
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert "is not to be seen here" in containment_found(str(tmp_path)).why
    (tmp_path / "proc/self/mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")
    assert containment_found(str(tmp_path)).why == "no cgroup v2 is mounted"


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        (("", "no cgroup v2 is mounted"), "warning", "session and subreaper: no cgroup v2 is mounted; memory and CPU"),
        (("/a", "", ("cpu", "memory", "pids"), True), "ok", "/a is ours to divide; cgroup.kill ends it at once; contr"),
        (("/a", "", ("cpu", "memory"), False), "warning", "no cgroup.kill (Linux 5.14): ended process by process"),
    ],
)
def test_what_follows_is_said(
    monkeypatch: pytest.MonkeyPatch, found: tuple[object, ...], verdict: str, words: str
) -> None:
    monkeypatch.setattr(containment, "containment_found", lambda own: containment.Containment(*found))  # type: ignore[arg-type]
    told = finding(None)
    assert told.verdict == verdict
    assert words in told.found
    assert bool(told.advice) == (verdict != "ok")


def test_of_a_unit_it_is_that_units_control_group_or_the_one_that_it_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def found(own: str) -> containment.Containment:
        asked.append(own)
        return containment.Containment("", "because")

    monkeypatch.setattr(containment, "containment_found", found)
    running = {"Delegate": "yes", "ControlGroup": "/system.slice/r.service"}
    assert "because" in finding(Unit("r.service", running)).found
    assert finding(Unit("r.service", {"Delegate": "yes", "ControlGroup": ""})).verdict == "ok"
    assert "r.service is not delegated" in finding(Unit("r.service", {"Delegate": "no", "ControlGroup": ""})).found
    assert asked == ["/system.slice/r.service"]


@pytest.mark.usefixtures("delegated")
def test_another_control_group_is_looked_at_where_it_is(tmp_path: Path) -> None:
    host(tmp_path)
    found = containment_found(str(tmp_path), own="/no/such.service")
    assert found.why.startswith("control group /no/such.service is not to be seen here")
