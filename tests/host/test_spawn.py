"""What keeps a program from being started is one clear sentence, and whether another try may help."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.host.spawn import Identity, NotStarted, Spawner, find_program, make_directory, not_started
from supervisor.plan import LogRules, WorkerPlan

ROOT = Path(__file__).parents[2]
PLAN = WorkerPlan(("true",), {"PATH": "/usr/local/bin:/usr/bin:/bin"}, "", "/", LogRules("/"), 0, {})


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd
    os.close(fd)


def run(plan: WorkerPlan, *fds: int) -> int:
    with closing(Spawner(lambda pid: None)) as spawner:
        pid = spawner.spawn(plan, plan.env, Identity.of(plan), *fds)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refusal(plan: WorkerPlan, null: int) -> tuple[str, str, int]:
    with pytest.raises(NotStarted) as caught:
        run(plan, null, null, null)
    return caught.value.fault, caught.value.reason, caught.value.exit_code


def program(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


Way = dict[str, Any]
ways = pytest.mark.parametrize(
    "way", [{}, {"cwd": "/"}, {"umask": 0o022}], ids=["posix_spawn", "from its directory", "fork server"]
)


@ways
def test_a_command_that_is_in_no_directory_of_path(null: int, way: Way) -> None:
    plan = replace(PLAN, argv=("no-such-command", "secret"), **way)
    reason = "command not found: 'no-such-command' is not in the worker's PATH"
    assert refusal(plan, null) == ("permanent", reason, 127)


@ways
def test_a_path_that_does_not_exist(null: int, way: Way) -> None:
    reason = "command not found: '/no/such/file' does not exist"
    assert refusal(replace(PLAN, argv=("/no/such/file",), **way), null) == ("permanent", reason, 127)


@ways
def test_a_path_through_a_file(null: int, way: Way) -> None:
    reason = "command not found: '/etc/passwd/x' does not exist"
    assert refusal(replace(PLAN, argv=("/etc/passwd/x",), **way), null) == ("permanent", reason, 127)


@ways
def test_a_file_that_is_not_executable(null: int, tmp_path: Path, way: Way) -> None:
    file = program(tmp_path / "tool", "#!/bin/sh\n", 0o644)
    expected = ("permanent", f"'{file}' is not executable", 126)
    assert refusal(replace(PLAN, argv=(file,), **way), null) == expected
    assert refusal(replace(PLAN, argv=("tool",), env={"PATH": str(tmp_path)}, **way), null) == expected


@ways
def test_a_directory(null: int, tmp_path: Path, way: Way) -> None:
    reason = f"'{tmp_path}' is a directory, not a program"
    assert refusal(replace(PLAN, argv=(str(tmp_path),), **way), null) == ("permanent", reason, 126)


@ways
def test_a_script_without_an_interpreter_line(null: int, tmp_path: Path, way: Way) -> None:
    file = program(tmp_path / "script", "echo hello\n")
    reason = f"'{file}' is neither a program for this machine nor a script that begins with #!"
    assert refusal(replace(PLAN, argv=(file,), **way), null) == ("permanent", reason, 126)


@ways
def test_a_script_whose_interpreter_does_not_exist(null: int, tmp_path: Path, way: Way) -> None:
    file = program(tmp_path / "script", "#!/no/such/python\n")
    reason = f"'{file}' cannot be executed: the interpreter that it names does not exist"
    assert refusal(replace(PLAN, argv=(file,), **way), null) == ("permanent", reason, 126)


@ways
def test_a_program_that_is_just_being_written_is_worth_another_try(null: int, tmp_path: Path, way: Way) -> None:
    file = program(tmp_path / "script", Path("/bin/true").read_bytes().decode("latin1"))
    with open(file, "ab"):
        fault, reason, _ = refusal(replace(PLAN, argv=(file,), **way), null)
    assert (fault, reason) == ("transient", f"'{file}' cannot be started now: Text file busy")


@ways
def test_arguments_that_the_kernel_does_not_take(null: int, way: Way) -> None:
    fault, reason, exit_code = refusal(replace(PLAN, argv=("true", "x" * (1 << 20)), **way), null)
    assert (fault, exit_code) == ("permanent", 126)
    assert reason.endswith("true' cannot be executed: Argument list too long")


@ways
def test_a_zero_byte_in_an_argument(null: int, way: Way) -> None:
    fault, reason, _ = refusal(replace(PLAN, argv=("true", "a\0b"), **way), null)
    assert fault == "permanent"
    assert reason.endswith("true' cannot be given its arguments or environment: embedded null byte")


def test_a_working_directory_that_does_not_exist(null: int) -> None:
    reason = "the working directory '/no/such/place' does not exist"
    assert refusal(replace(PLAN, cwd="/no/such/place"), null) == ("permanent", reason, 126)


def test_a_working_directory_that_is_a_file(null: int) -> None:
    reason = "the working directory '/etc/passwd' is not a directory"
    assert refusal(replace(PLAN, cwd="/etc/passwd"), null) == ("permanent", reason, 126)


def test_users_and_groups_that_the_host_does_not_know(null: int) -> None:
    nobody = ("permanent", "there is no user 'no-such-user' on this host", 126)
    assert refusal(replace(PLAN, user="no-such-user"), null) == nobody
    none = ("permanent", "there is no group 'no-such-group' on this host", 126)
    assert refusal(replace(PLAN, group="no-such-group"), null) == none
    assert refusal(replace(PLAN, user="4294960000"), null)[1] == "there is no user '4294960000' on this host"


MAY_NOT = """
import os
from supervisor.host.spawn import Identity, NotStarted, Spawner
from supervisor.plan import LogRules, WorkerPlan

plan = WorkerPlan(("/bin/true",), {}, "", "/", LogRules("/"), 0, {}, user="root", group="daemon")
spawner = Spawner(lambda pid: None)
try:
    spawner.spawn(plan, {}, Identity.of(plan), 0, 1, 2)
except NotStarted as why:
    print(why.fault, why.exit_code, why.reason)
spawner.close()
try:
    print(os.wait())
except ChildProcessError:
    print("no child")
"""


def test_a_user_that_we_may_not_become() -> None:
    command = [sys.executable, "tests/powerless.py", sys.executable, "-c", MAY_NOT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    reason = "the daemon is not permitted to run a worker as user 'root' and group 'daemon'"
    assert (done.stdout, done.stderr) == (f"permanent 126 {reason}\nno child\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root to see users switched")
def test_a_program_that_only_another_user_may_run(null: int, tmp_path: Path) -> None:
    file = program(tmp_path / "tool", "#!/bin/sh\n", 0o700)
    reason = f"'{file}' is not executable as user 'nobody'"
    assert refusal(replace(PLAN, argv=(file,), user="nobody"), null) == ("permanent", reason, 126)


def test_being_oneself_needs_no_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    monkeypatch.setattr(os, "getegid", lambda: 1)
    assert Identity.of(replace(PLAN, user="1", group="1")) == Identity()
    assert Identity.of(replace(PLAN, user="2", group="1")) == Identity(2, 1, tuple(os.getgrouplist("bin", 1)))


def test_a_number_without_an_account_needs_a_group() -> None:
    assert Identity.of(replace(PLAN, user="4294960000", group="4294960000")) == Identity(
        4294960000, 4294960000, (4294960000,)
    )


def test_the_command_is_looked_for_where_the_worker_would_look(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "directory-first" / "tool").mkdir(parents=True)
    tool = program(tmp_path / "bin" / "tool", "#!/bin/sh\n")
    for argv, env in (
        ("tool", {"PATH": f"/nowhere:{tmp_path}/directory-first:{tmp_path}/bin"}),
        ("tool", {"PATH": "bin"}),
        ("bin/tool", {}),
        (tool, {}),
    ):
        assert find_program(replace(PLAN, argv=(argv,), env=env, cwd=str(tmp_path))) == tool
    assert find_program(replace(PLAN, argv=("sh",), env={})) == "/bin/sh"


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (errno.EAGAIN, "transient"), (errno.EMFILE, "transient"), (errno.ENFILE, "transient"),
        (errno.ENOMEM, "transient"), (errno.ENOSPC, "transient"), (errno.EROFS, "permanent"),
        (errno.EACCES, "permanent"), (errno.ENAMETOOLONG, "permanent"),
    ],
)  # fmt: skip
def test_what_another_try_may_not_meet_is_transient(number: int, fault: str) -> None:
    why = not_started("cannot make it", OSError(number, os.strerror(number), "/x"))
    assert (why.fault, why.reason) == (fault, f"cannot make it: {os.strerror(number)}")


def test_a_directory_is_made_with_all_above_it_and_may_be_there_already(tmp_path: Path) -> None:
    path = tmp_path / "group" / "attempt_1" / "0"
    make_directory(str(path), Identity())
    make_directory(str(path), Identity())
    assert path.is_dir()


def test_a_directory_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotStarted) as caught:
        make_directory(f"{tmp_path}/file/0", Identity())
    assert caught.value.reason == f"cannot make the worker's directory '{tmp_path}/file/0': Not a directory"
    assert caught.value.fault == "permanent"


@ways
@pytest.mark.parametrize("swap", [False, True], ids=["in order", "crossed"])
def test_streams_reach_the_child_whatever_their_numbers_are(tmp_path: Path, way: Way, swap: bool) -> None:
    """In a process of its own, so that 0 to 2 can be anything: also each other's."""
    out, err = tmp_path / "out", tmp_path / "err"
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        try:
            first, second = (err, out) if swap else (out, err)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(os.open(first, os.O_WRONLY | os.O_CREAT), 1)
            os.dup2(os.open(second, os.O_WRONLY | os.O_CREAT), 2)
            plan = replace(PLAN, argv=("sh", "-c", "echo to-out; echo to-err >&2"), **way)
            os._exit(run(plan, null, *((2, 1) if swap else (1, 2))))
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (out.read_text(), err.read_text()) == ("to-out\n", "to-err\n")


@ways
def test_a_worker_leads_its_own_session(null: int, way: Way) -> None:
    plan = replace(PLAN, argv=("sleep", "100"), **way)
    with closing(Spawner(lambda pid: None)) as spawner:
        pid = spawner.spawn(plan, plan.env, Identity(), null, null, null)
    assert os.getsid(pid) == os.getpgid(pid) == pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
