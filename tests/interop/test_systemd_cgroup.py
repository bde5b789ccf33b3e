"""rankd in the control group that a real systemd has delegated to it, as the system user and as root."""

from __future__ import annotations

import pytest

from tests.end_to_end.configs import SLEEP, group, ladder, table
from tests.interop.booted import Machine, missing
from tests.interop.test_systemd import TO_JOURNAL, configure, drop_in, machine, said_by_systemd, wait_for

__all__ = ["machine"]

pytestmark = [
    pytest.mark.booted,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

FORGETFUL = "(cd / && exec env -i setsid sleep 4242 </dev/null >/dev/null 2>&1 &)"


def leaves(machine: Machine) -> list[str]:
    listed = machine.run(
        "find", "/sys/fs/cgroup/system.slice/rankd.service", "-mindepth", "1", "-type", "d", check=False
    )
    return sorted(path.rpartition("/")[2] for path in listed.stdout.split())


@pytest.mark.parametrize("user", ["rankd", "root"])
def test_each_worker_has_a_leaf_and_what_hides_from_everybody_is_stopped_with_it(machine: Machine, user: str) -> None:
    script = f"{FORGETFUL}; echo up; exec sleep 4444"
    configure(machine, group("job", ["/bin/sh", "-c", script], workers=2, stop=ladder("5s"), logs=TO_JOURNAL))
    drop_in(machine, User=user, Group=user)
    machine.run("systemctl", "start", "rankd")
    assert wait_for(machine, "daemon.started")["containment"].startswith("cgroup v2")
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "up", "worker that is up", count=2)
    assert leaves(machine) == ["rankd.daemon", "rankd.worker.job.0.0", "rankd.worker.job.0.1"]

    machine.run("systemctl", "stop", "rankd")
    assert not [command for command in machine.processes("-.slice").values() if command.startswith("sleep 4")]
    assert not said_by_systemd(machine, "Killing process"), "rankd left that to systemd"
    assert leaves(machine) == []
    assert machine.show("rankd", "Result") == "success"


def test_without_delegation_it_does_without_and_says_why(machine: Machine) -> None:
    configure(machine, group("job", SLEEP) + "\n" + table("groups.job.resources", pids_max=100))
    drop_in(machine, Delegate="no", User="root", Group="root")
    machine.run("systemctl", "start", "rankd")
    assert "Delegate=yes" in wait_for(machine, "daemon.started")["containment"]
    assert wait_for(machine, "group.unlimited")["resources"] == ["pids_max"]
    assert leaves(machine) == []


def test_the_next_daemon_ends_what_a_killed_one_has_left_in_its_leaves(machine: Machine) -> None:
    """KillMode=process: systemd itself touches nobody but the daemon."""
    script = f"{FORGETFUL}; echo up; exec sleep 4444"
    configure(machine, group("job", ["/bin/sh", "-c", script], logs=TO_JOURNAL))
    drop_in(machine, KillMode="process", RestartSec="100ms")
    machine.run("systemctl", "start", "rankd")
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "up", "worker that is up")
    machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", "rankd")
    wait_for(machine, "worker.orphan_killed")
    machine.wait_for(lambda entry: entry.get("MESSAGE") == "up", "worker of the next daemon", count=2)
    sleeping = [command for command in machine.processes("rankd").values() if command.startswith("sleep")]
    assert sorted(sleeping) == ["sleep 4242", "sleep 4444"]
