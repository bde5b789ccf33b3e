"""Where rankd is given a control group, nothing of a worker gets out of its leaf, and nothing is left of the leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.host.proc import read_process
from tests.cgroups import Place, delegated, missing
from tests.end_to_end.configs import SLEEP, group, ladder, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import rankd_command, until

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

FORGETFUL = "(cd / && exec env -i setsid sleep 4242 </dev/null >/dev/null 2>&1 &)"
"""A shell's words for a child that has left its parent, its session and its environment."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    mount_at = tmp_path / "cgroup"
    mount_at.mkdir()
    with delegated(mount_at) as place:
        yield place


def test_the_flavour_in_use_is_said_and_each_worker_has_a_leaf(place: Place, rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=2), through=place.through())
    assert daemon.wait_for("daemon.started")["containment"].startswith("cgroup v2 (controllers: ")
    for rank in (0, 1):
        pid = daemon.wait_for("worker.started", rank=rank)["pid"]
        assert (place.path / f"rankd.worker.job.0.{rank}/cgroup.procs").read_text() == f"{pid}\n"
    assert str(daemon.process.pid) in (place.path / "rankd.daemon/cgroup.procs").read_text().split()


def test_where_others_live_in_our_group_it_is_left_as_it_is(place: Place, rankd: Start) -> None:
    beside = [*place.through(), "sh", "-c", 'sleep 1000 >/dev/null 2>&1 & "$@"; code=$?; kill $!; exit $code', "sh"]
    daemon = rankd(group("job", ["/bin/true"]), through=beside)
    assert "others live in" in daemon.wait_for("daemon.started")["containment"]
    assert daemon.wait() == 0
    assert place.groups() == set()


def test_a_child_that_hides_from_everybody_dies_with_its_worker(place: Place, rankd: Start) -> None:
    script = f"{FORGETFUL}; echo up; exec sleep 1000"
    daemon = rankd(group("job", ["/bin/sh", "-c", script], stop=ladder("5s")), through=place.through())
    daemon.wait_for_line("up")
    assert daemon.stop() == 0
    assert place.processes() == []


def test_nothing_is_left_of_the_leaves_after_a_stop(place: Place, rankd: Start) -> None:
    daemon = rankd(group("job", SLEEP, workers=5), through=place.through())
    daemon.wait_for("daemon.ready")
    daemon.stop()
    assert place.groups() == set()


def test_a_worker_that_ends_and_starts_again_has_a_leaf_of_its_own_each_time(place: Place, rankd: Start) -> None:
    script = '[ "$TORCHELASTIC_RESTART_COUNT" = 2 ] || exit 9; exec sleep 1000'
    daemon = rankd(group("job", ["/bin/sh", "-c", script]), through=place.through())
    daemon.wait_for("worker.started", attempt=2)
    daemon.wait_for("group.ready", attempt=2)
    assert {one for one in place.groups() if "worker" in one} == {"rankd.worker.job.2.0"}


def test_a_probes_command_has_a_leaf_of_its_own_and_what_hides_from_everybody_dies_with_it(
    place: Place, rankd: Start
) -> None:
    script = f"{FORGETFUL}; cat /proc/self/cgroup; exit 1"
    probe = {"exec": ["sh", "-c", script], "interval": "100ms", "timeout": "10s", "fall": 3}
    daemon = rankd(group("job", SLEEP, probe=probe), through=place.through())
    assert "/rankd.worker.job+probe." in daemon.wait_for("worker.unready")["output"]
    pid = daemon.wait_for("worker.started")["pid"]
    assert (place.path / "rankd.worker.job.0.0/cgroup.procs").read_text() == f"{pid}\n"
    assert daemon.stop() == 0
    assert place.processes() == []
    assert place.groups() == set()


def test_a_fork_bomb_does_not_outrun_the_stop(place: Place, rankd: Start) -> None:
    """Eight chains of processes that fork, found a session and end: whoever is looked for has gone by then."""
    bomb = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if all(os.fork() for _ in range(8)):\n"
        "    print('up')\n"
        "    while True: signal.pause()\n"
        "while not os.fork(): os.setsid()\n"
        "os._exit(0)\n"
    )
    daemon = rankd(group("job", python(bomb), stop=ladder("200ms")), through=place.through())
    daemon.wait_for_line("up")
    daemon.stop()
    assert place.processes() == []
    assert not daemon.all("worker.unkillable")


def test_who_has_forgotten_its_parent_dies_with_the_daemon_all_the_same(place: Place, rankd: Start) -> None:
    script = f"{FORGETFUL}; echo up; exec sleep 1000"
    daemon = rankd(group("job", ["/bin/sh", "-c", script]), through=place.through())
    daemon.wait_for_line("up")
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: not place.processes(), "end of the daemon's workers, and of its guardian")


def test_what_outlived_daemon_and_guardian_is_ended_by_the_next_daemon(place: Place, rankd: Start) -> None:
    script = f"{FORGETFUL}; echo up; exec sleep 1000"
    daemon = rankd(group("job", ["/bin/sh", "-c", script]), through=place.through())
    daemon.wait_for_line("up")

    def guardian() -> int | None:
        named = (read_process(pid) for pid in place.processes())
        return next((process.pid for process in named if process is not None and process.name == "guardian"), None)

    pid = until(guardian, "guardian")
    daemon.signal(signal.SIGSTOP)  # lest it starts another one
    os.kill(pid, signal.SIGKILL)
    daemon.signal(signal.SIGKILL)
    daemon.wait()

    following = rankd(group("job", SLEEP), through=place.through())
    killed = following.wait_for("worker.orphan_killed")
    assert any(process.endswith(" sleep") for process in killed["processes"])
    following.wait_for("daemon.ready")
    assert {one for one in place.groups() if "worker" in one} == {"rankd.worker.job.0.0"}
    following.stop()
    assert place.groups() == set()


def test_a_limit_that_cannot_be_had_is_told_and_the_workers_run(place: Place, rankd: Start) -> None:
    job = group("job", SLEEP) + "\n" + table("groups.job.resources", memory_max="64MiB", pids_max=10)
    daemon = rankd(job, through=place.through())
    told = daemon.wait_for("group.unlimited")
    controllers = (place.path / "cgroup.controllers").read_text().split()
    assert told["resources"] == [key for key in ("memory_max", "pids_max") if key.partition("_")[0] not in controllers]
    daemon.wait_for("group.ready")


def test_check_notes_what_a_daemon_started_from_here_could_not_limit(tmp_path: Path) -> None:
    path = tmp_path / "rankd.toml"
    path.write_text(group("job", SLEEP) + "\n" + table("groups.job.resources", memory_high="1GiB"))
    checked = rankd_command("check", str(path))
    assert checked.returncode == 0
    assert "note: job: memory_high: limited only where cgroup v2 is delegated to rankd" in checked.stdout
