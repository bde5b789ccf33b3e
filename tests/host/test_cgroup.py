"""What a control group can do for us, tried on real ones; what controllers are told, on files that stand for theirs."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.host import cgroup
from supervisor.host.cgroup import Delegated, NotDelegated
from supervisor.plan import Resources
from tests.cgroups import Place, delegated, missing

real = pytest.mark.skipif(bool(missing()), reason=missing())
WANTED = Resources(
    memory_max=1 << 30, memory_high=1 << 29, cpu_max="150000 100000", pids_max=64, cpus=(frozenset({3, 1}),)
)
FILES = ("memory.max", "memory.high", "memory.oom.group", "cpu.max", "pids.max", "cpuset.cpus")
CHAIN = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile not os.fork(): os.setsid()\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with delegated(tmp_path) as place:
        yield place


@pytest.fixture
def fake(tmp_path: Path) -> str:
    for name in FILES:
        (tmp_path / name).write_text("")
    return str(tmp_path)


def run(place: Place, *argv: str) -> subprocess.Popen[bytes]:
    """A process in the group, which is in there when this returns."""
    child = subprocess.Popen(
        [*place.through(), "sh", "-c", 'echo; exec "$@"', "sh", *argv], stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout
    child.stdout.readline()
    return child


def until_empty(group: str) -> None:
    while (events := cgroup.watch(group)) is not None:
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            assert poll.poll(20_000), "nobody tells that the group is empty"
        finally:
            os.close(events)


# ---- real groups


@real
@pytest.mark.parametrize("has_kill", [True, False], ids=["cgroup.kill", "one by one"])
def test_a_kill_reaches_all_however_fast_they_fork(
    place: Place, monkeypatch: pytest.MonkeyPatch, has_kill: bool
) -> None:
    group = str(place.path)
    if not has_kill:
        write = cgroup.write

        def older(path: str, value: str) -> None:
            if path.endswith("cgroup.kill"):
                raise FileNotFoundError(path)
            write(path, value)

        monkeypatch.setattr(cgroup, "write", older)
    with run(place, "/usr/bin/env", "python3", "-c", CHAIN):
        assert cgroup.is_populated(group)
        cgroup.kill(group)
        until_empty(group)
    assert not cgroup.is_populated(group)


@real
def test_a_signal_reaches_all_but_the_spared_process_group_and_they_go_on(place: Place) -> None:
    group = str(place.path)
    script = (
        "trap 'echo spared' TERM; setsid sh -c 'trap \"echo hit; exit\" TERM; echo up; while :; do sleep 0.01; done' & "
    )
    with run(place, "sh", "-c", script + "while :; do sleep 0.01; done") as child:
        assert child.stdout
        assert child.stdout.readline() == b"up\n"
        for _ in cgroup.pursue(group, signal.SIGTERM, spared=child.pid):
            pass
        assert child.stdout.readline() == b"hit\n"
        assert "frozen 0" in (place.path / "cgroup.events").read_text()
        cgroup.kill(group)


@real
def test_a_group_is_removed_with_those_below_it_when_nobody_lives_there(place: Place) -> None:
    leaf = place.path / "leaf"
    (leaf / "below" / "more").mkdir(parents=True)
    with run(place, "sleep", "1000") as child:
        (leaf / "below" / "cgroup.procs").write_text(str(child.pid))
        assert not cgroup.remove(str(leaf))
        assert [process.pid for process in cgroup.processes(str(leaf))] == [child.pid]
        cgroup.kill(str(leaf))
    assert cgroup.remove(str(leaf))
    assert not leaf.exists()
    assert cgroup.remove(str(leaf)), "gone already"
    assert not cgroup.is_populated(str(leaf))
    assert cgroup.watch(str(leaf)) is None


# ---- whether there is one for us


def mounts(tmp_path: Path, root: str = "/") -> str:
    path = tmp_path / "mountinfo"
    path.write_text(f"31 23 0:27 {root} {tmp_path / 'fs'} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n")
    return str(path)


def membership(tmp_path: Path, own: str) -> str:
    path = tmp_path / "membership"
    path.write_text(own)
    return str(path)


def test_a_mount_whose_path_has_a_blank_is_found(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_text("31 23 0:27 /a\\040b /mnt/c\\134d\\040e rw - cgroup2 cgroup2 rw\n")
    assert cgroup.folder("/a b/f", str(path)) == "/mnt/c\\d e/f"


def own_group(tmp_path: Path, *inhabitants: int) -> Path:
    group = tmp_path / "fs/a/b"
    group.mkdir(parents=True)
    for name in ("cgroup.events", "cgroup.subtree_control"):
        (group / name).touch()
    (group / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in inhabitants))
    (group / "cgroup.controllers").write_text("cpu memory\n")
    return group


def ask(tmp_path: Path, own: str = "0::/a/b\n", root: str = "/") -> Delegated | NotDelegated:
    return cgroup.available(membership(tmp_path, own), mounts(tmp_path, root), str(tmp_path / "no systemd"))


def test_a_group_of_our_own_is_ours_with_its_controllers_and_nothing_is_left_of_the_try(tmp_path: Path) -> None:
    group = own_group(tmp_path, os.getpid())
    before = sorted(os.listdir(group))
    assert ask(tmp_path) == Delegated(str(group), frozenset({"cpu", "memory"}))
    assert sorted(os.listdir(group)) == before


def test_a_group_is_found_where_only_a_part_of_the_hierarchy_is_mounted(tmp_path: Path) -> None:
    group = own_group(tmp_path, os.getpid())
    found = ask(tmp_path, "0::/outer/a/b\n", "/outer")
    assert isinstance(found, Delegated)
    assert found.path == str(group)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("3:memory:/x\n", "no control group of version 2"),
        ("0::/elsewhere/x\n", "root group"),
        ("0::/a/b\n", "others live"),
    ],
)
def test_what_is_in_the_way_is_said(tmp_path: Path, own: str, words: str) -> None:
    own_group(tmp_path, os.getpid(), 1)
    found = ask(tmp_path, own)
    assert isinstance(found, NotDelegated)
    assert words in found.reason
    assert words in cgroup.describe(found)


# ---- limits


def test_limits_are_written_in_the_kernels_words(fake: str) -> None:
    every = frozenset({"memory", "cpu", "pids", "cpuset"})
    assert list(cgroup.limit(fake, WANTED, 0, every)) == []
    written = [Path(fake, name).read_text() for name in FILES]
    assert written == ["1073741824", "536870912", "1", "150000 100000", "64", "1,3"]


def test_what_has_no_controller_is_left_out_and_named(fake: str) -> None:
    assert list(cgroup.limit(fake, WANTED, 0, frozenset({"pids"}))) == []
    assert {name for name in FILES if Path(fake, name).read_text()} == {"pids.max"}
    assert cgroup.limits_without(WANTED, frozenset({"pids"})) == ("memory_max", "memory_high", "cpu_max")
    assert cgroup.limits_without(Resources(), frozenset()) == ()


def test_what_the_kernel_refuses_is_named(fake: str) -> None:
    Path(fake, "cpu.max").unlink()
    ((key, error),) = cgroup.limit(fake, WANTED, 0, frozenset({"cpu"}))
    assert (key, type(error)) == ("cpu_max", FileNotFoundError)


def test_kills_for_memory_are_counted_by_the_group(fake: str) -> None:
    assert cgroup.oom_kills(fake) == 0
    Path(fake, "memory.events").write_text("low 0\nhigh 7\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n")
    assert cgroup.oom_kills(fake) == 2


def test_a_group_that_its_worker_has_made_unreadable_tells_nothing_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch, fake: str
) -> None:
    def refuse(path: str) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(cgroup, "_read", refuse)
    assert not cgroup.is_populated(fake)
    assert not list(cgroup.processes(fake))
    assert cgroup.oom_kills(fake) == 0
