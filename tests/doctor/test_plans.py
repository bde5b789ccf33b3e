"""What a configuration asks of this host, on real directories, sockets and processes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from supervisor.doctor import Finding
from supervisor.doctor.plans import control, holder_of, listener, listening_ports, runtime_dir, state_dir, workers
from supervisor.host.state import hold
from supervisor.plan import DaemonPlan, GroupPlan, LogRules

ME = os.geteuid()
NOBODY = 65534


def test_a_runtime_directory_is_ours_alone_or_will_be_made(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert runtime_dir(str(path), ME).found == f"{path}: made at start"
    path.mkdir(mode=0o700)
    assert runtime_dir(str(path), ME).verdict == "ok"
    path.chmod(0o750)
    told = runtime_dir(str(path), ME)
    assert (told.verdict, told.advice) == ("warning", f"chmod 0700 {path}")
    assert f"belongs to uid {ME}, not to {ME + 1}" in runtime_dir(str(path), ME + 1).found
    (path / "file").touch()
    assert runtime_dir(str(path / "file"), ME).found.endswith("is no directory")


def test_a_control_socket_needs_a_path_that_is_not_too_long() -> None:
    assert control(f"/{'x' * 106}").verdict == "ok"
    assert control(f"/{'x' * 107}").verdict == "warning"


def test_a_directory_that_the_daemon_may_not_make_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert runtime_dir(str(tmp_path / "x/run"), NOBODY).verdict == "failed"
    assert state_dir(str(tmp_path / "x/state"), NOBODY, 0).verdict == "failed"
    assert state_dir(str(tmp_path / "x/state"), 0, 0).verdict == "ok"


@pytest.mark.parametrize(
    ("free", "inodes", "verdict"),
    [(1 << 31, 9, "ok"), (1 << 29, 9, "warning"), (1 << 20, 9, "failed"), (1 << 31, 0, "failed")],
)
def test_a_state_directory_needs_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, inodes: int, verdict: str
) -> None:
    room = os.statvfs_result((4096, 4096, 1 << 30, 0, free // 4096, 100, inodes, inodes, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    assert state_dir(str(tmp_path), ME, 0).verdict == verdict


def test_who_holds_a_state_directory_is_seen_without_touching_its_lock(tmp_path: Path) -> None:
    assert holder_of(str(tmp_path)) == 0
    lock = hold(str(tmp_path))
    assert isinstance(lock, int)
    assert holder_of(str(tmp_path)) == os.getpid()
    assert f"held by the rankd that runs (pid {os.getpid()})" in state_dir(str(tmp_path), ME, os.getpid()).found
    os.close(lock)
    assert holder_of(str(tmp_path)) == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_address_is_free_or_ours_or_somebody_elses(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
    with socket.socket(family, socket.SOCK_STREAM) as other:
        other.bind((host.strip("[]"), 0))
        port = other.getsockname()[1]
        other.listen()
        address = f"{host}:{port}"
        ports = listening_ports(os.getpid())
        assert ports is not None
        assert port in ports
        assert (
            listener(address, os.getpid()).found == f"{address}: the rankd that runs listens there (pid {os.getpid()})"
        )
        unseen = listener(address, 2**22 + 1)  # a number that no process has: nothing of it can be seen
        assert (unseen.verdict, "only root can see whether by the rankd that runs" in unseen.found) == ("warning", True)
        taken = listener(address, 0)
        assert (taken.verdict, taken.found) == ("failed", f"{address}: Address already in use")
        assert taken.advice == f"ss -ltnp 'sport = {port}' says who has it"
    assert listener(address, 0).found == f"{address}: free"


def test_a_unix_address_leaves_no_file_behind(tmp_path: Path) -> None:
    assert listener(f"unix:{tmp_path}/h", 0).verdict == "ok"
    assert not list(tmp_path.iterdir())
    assert listener(f"unix:{tmp_path}/later/h", 0).found.endswith("its directory is not there yet")


def told_of(uid: int = ME, *, command: str = "sh", **keys: str) -> Finding:
    group = GroupPlan("job", (command, "${RANK}"), 3, "job", LogRules("/x"), **keys)  # type: ignore[arg-type]
    plan = DaemonPlan("", "", "", "/x", "/x", {"job": group})
    return workers(plan, group, os.environ, uid)


def test_a_groups_program_directory_and_user_are_looked_for() -> None:
    told = told_of()
    assert told.verdict == "ok"
    assert told.found.startswith("3 workers of /")
    assert told_of(command="/no/such").verdict == "failed"
    assert "is not in the worker's PATH" in told_of(command="no-such").found
    assert told_of(cwd="/no/such").advice == "mkdir -p /no/such"
    assert told_of(user="no-such").found == "there is no user 'no-such' on this host"
    assert "as nobody (uid 65534; groups " in told_of(user="nobody").found
    assert told_of(ME + 7, user="nobody").verdict == "warning"
