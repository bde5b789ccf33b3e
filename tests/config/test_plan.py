"""What a right configuration means: the plan it becomes, and what is found out where it says nothing."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import pytest

from supervisor.config import defaults, load
from supervisor.plan import (
    Backoff,
    DaemonPlan,
    GroupPlan,
    Limit,
    LogRules,
    Probe,
    Resources,
    RestartRules,
    Rotation,
    Rung,
    StopRules,
    Streams,
)

ENVIRON = {"STATE_DIRECTORY": "/state", "RUNTIME_DIRECTORY": "/run/x"}


def plan(path: Path, text: str) -> DaemonPlan:
    path.write_text(text)
    path.chmod(0o644)
    return load(str(path), ENVIRON)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rankd.toml"


def test_defaults_are_those_of_the_plan_itself(file: Path) -> None:
    found = plan(file, '[daemon]\nnode_id = "n"\nrun_id = "r"\n[groups.g]\ncommand = ["true"]')
    group = GroupPlan(name="g", command=("true",), workers=1, role="g", logs=LogRules("/state/logs"))
    assert found == DaemonPlan(
        name="rankd", node_id="n", run_id="r", state_dir="/state", runtime_dir="/run/x", groups={"g": group},
        control="/run/x/control.sock",
    )  # fmt: skip


def test_every_key_reaches_the_plan(file: Path, tmp_path: Path) -> None:
    (tmp_path / "one.env").write_text("A=one\nB='one two'\n; no\n  C = x=y  \n")
    cpu = min(os.sched_getaffinity(0))
    (tmp_path / "two.env").write_text('B="two"\r\nD=\r\n')
    found = plan(
        file,
        f"""
        [daemon]
        name = "n"
        node_id = "host"
        run_id = "job"
        state_dir = "state"
        runtime_dir = "/r"
        when_done = "stay"
        drain_delay = "1.5s"
        [log]
        level = "debug"
        format = "json"
        [health]
        listen = ["[::1]:1", "unix:/x", "h:0", "h:0", ":9"]
        drain_status = 404
        [control]
        socket = "sub/../c.sock"
        allow_users = ["root", 4711, "0"]
        [groups.z]
        command = ["echo", "${{RANK}}"]
        args = ["a", ""]
        workers = 12
        role = "r"
        cwd = "../job"
        user = {os.geteuid()}
        group = "{os.getegid()}"
        umask = "0027"
        env = {{ A = "mine", E = "" }}
        env_files = ["one.env", "{tmp_path}/two.env"]
        inherit_env = false
        depends_on = {{ a = "succeeded" }}
        required = false
        virtual_local_rank = true
        master_port = 29500
        restart.policy = "always"
        restart.scope = "worker"
        restart.max_restarts = 7
        restart.max_unavailable = "25%"
        restart.drain = "3s"
        restart.window = "1h"
        restart.backoff = {{ initial = 1, factor = 3, max = "2m", jitter = 0 }}
        restart.reset_after = 0
        restart.fatal_exit_codes = [3, 4]
        restart.success_exit_codes = [0, 143]
        stop.ladder = [{{ signal = "INT", wait = "2s" }}, {{ signal = 9, wait = 0 }}]
        stop.scope = "leader"
        probe.exec = ["healthy", "${{RANK}}"]
        probe.interval = "2s"
        probe.timeout = "500ms"
        probe.rise = 2
        probe.fall = 4
        probe.liveness = true
        logs.dir = "/logs"
        logs.redirects = "0:1,11:2"
        logs.tee = "0"
        logs.prefix = ""
        logs.local_ranks_filter = [0, 11]
        logs.duplicate_stdout_filters = ["loss", "a, b"]
        logs.duplicate_stderr_filters = ["NaN"]
        logs.rotate = {{ max_bytes = "10MB", keep = 3 }}
        logs.journal = true
        logs.when_full = "block"
        resources.nice = 19
        resources.oom_score_adj = 1000
        resources.cpu_affinity = "{cpu}"
        resources.numa = "none"
        resources.rlimits = {{ nofile = 64, as = {{ soft = "1KiB" }}, cpu = {{ soft = 1, hard = "2m" }}, core = "0" }}
        [groups.a]
        command = ["true"]
        cwd = "${{HOME}}/job"
        """,
    )
    me = pwd.getpwuid(os.geteuid())
    account = {"HOME": me.pw_dir, "USER": me.pw_name, "LOGNAME": me.pw_name, "SHELL": me.pw_shell or "/bin/sh"}
    z = GroupPlan(
        name="z",
        command=("echo", "${RANK}", "a", ""),
        workers=12,
        role="r",
        logs=LogRules(
            "/logs",
            Streams(0, {0: 1, 11: 2}),
            Streams(0),
            "",
            frozenset({0, 11}),
            ("loss", "a, b"),
            ("NaN",),
            Rotation(10_000_000, 3),
            journal=True,
            when_full="block",
        ),
        cwd=os.path.normpath(tmp_path / "../job"),
        user=str(os.geteuid()),
        group=str(os.getegid()),
        umask=0o027,
        env=account | {"A": "mine", "B": "two", "C": "x=y", "D": "", "E": ""},
        inherit_env=False,
        depends_on={"a": "succeeded"},
        required=False,
        virtual_local_rank=True,
        master_port=29500,
        restart=RestartRules(
            "always",
            "worker",
            7,
            3600.0,
            Backoff(1.0, 3.0, 120.0, 0.0),
            0.0,
            frozenset({3, 4}),
            frozenset({0, 143}),
            max_unavailable=3,
            drain=3.0,
        ),
        stop=StopRules((Rung(2, 2.0), Rung(9, 1.0)), "leader"),
        probe=Probe("", "", ("healthy", "${RANK}"), 2.0, 0.5, 2, 4, liveness=True),
        resources=Resources(
            19,
            1000,
            {"nofile": Limit(64, 64), "core": Limit(0, 0), "as": Limit(1024), "cpu": Limit(1, 120)},
            (frozenset({cpu}),),
        ),
    )
    a = GroupPlan(
        name="a", command=("true",), workers=1, role="a", cwd="${HOME}/job", logs=LogRules(f"{tmp_path}/state/logs")
    )
    assert found == DaemonPlan(
        name="n",
        node_id="host",
        run_id="job",
        state_dir=f"{tmp_path}/state",
        runtime_dir="/r",
        groups={"z": z, "a": a},
        when_done="stay",
        drain_delay=1.5,
        log_level="debug",
        log_format="json",
        listen=("[::1]:1", "unix:/x", "h:0", "h:0", ":9"),
        drain_status=404,
        control="/r/c.sock",
        control_users=(0, 4711),
    )
    assert list(found.groups) == ["z", "a"]


@pytest.mark.parametrize(
    ("rules", "initial"),
    [
        ("max_restarts = -1", 1.0),
        ('max_restarts = -1\nbackoff = { max = "500ms" }', 0.5),
        ("max_restarts = -1\nbackoff = { initial = 0 }", 0.0),
        ("max_restarts = 5", 0.0),
    ],
)
def test_an_endless_loop_pauses_unless_told_otherwise(file: Path, rules: str, initial: float) -> None:
    found = plan(file, f'[groups.g]\ncommand = ["true"]\n[groups.g.restart]\n{rules}')
    assert found.groups["g"].restart.backoff.initial == initial


def test_workers_can_be_counted_by_the_machine(file: Path) -> None:
    found = plan(file, '[groups.g]\ncommand = ["true"]\nworkers = "cpu"')
    assert found.groups["g"].workers == len(os.sched_getaffinity(0))


def test_paths_are_below_the_files_folder_wherever_it_is_read_from(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = '[groups.g]\ncommand = ["true"]\ncwd = "."'
    plan(file, text)
    monkeypatch.chdir("/")
    assert load(os.path.relpath(file), ENVIRON).groups["g"].cwd == str(tmp_path)


@pytest.mark.parametrize(
    ("environ", "state", "runtime"),
    [
        ({"STATE_DIRECTORY": "/a:/b", "RUNTIME_DIRECTORY": "/c:/d", "XDG_STATE_HOME": "/x"}, "/a", "/c"),
        ({"XDG_STATE_HOME": "/x", "XDG_RUNTIME_DIR": "/y"}, "/x/rankd", "/y/rankd"),
        ({"XDG_STATE_HOME": "x", "XDG_RUNTIME_DIR": "y", "HOME": "/h"}, "/h/.local/state/rankd", "/tmp/rankd-1234"),
        ({"HOME": "/h", "TMPDIR": "/t"}, "/h/.local/state/rankd", "/t/rankd-1234"),
    ],
)
def test_directories_are_systemds_else_the_users(
    environ: dict[str, str], state: str, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert (defaults.state_dir(environ), defaults.runtime_dir(environ)) == (state, runtime)


@pytest.mark.parametrize(
    ("named", "environ", "common"),
    [
        ("", {}, True),
        ("", {"STATE_DIRECTORY": "/state"}, False),
        ('state_dir = "state"', {}, False),
    ],
)
def test_a_state_directory_that_nobody_named_is_known_to_be_common(
    file: Path, named: str, environ: dict[str, str], common: bool
) -> None:
    file.write_text(f'[daemon]\n{named}\n[groups.g]\ncommand = ["true"]\n')
    assert load(str(file), {"HOME": "/h", **environ}).state_dir_is_common is common


def test_root_keeps_its_sockets_in_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert defaults.runtime_dir({}) == "/run/rankd"
    assert defaults.state_dir({}).endswith("/.local/state/rankd")


def test_who_has_no_home_has_to_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    with pytest.raises(ValueError, match="no home directory"):
        defaults.state_dir({})


def test_every_run_has_another_id(file: Path) -> None:
    text = '[groups.g]\ncommand = ["true"]'
    first, second = plan(file, text), plan(file, text)
    assert re.fullmatch("[0-9a-f]{12}", first.run_id)
    assert first.run_id != second.run_id


def test_a_worker_with_a_user_is_told_whose_home_it_has_unless_env_says_otherwise(file: Path) -> None:
    env = plan(file, '[groups.g]\ncommand = ["true"]\nuser = "root"\nenv = { HOME = "/h" }').groups["g"].env
    assert env == {"HOME": "/h", "USER": "root", "LOGNAME": "root", "SHELL": pwd.getpwnam("root").pw_shell}
    nameless = plan(file, '[groups.g]\ncommand = ["true"]\nuser = 4000000000\ngroup = 0').groups["g"].env
    assert nameless == {"HOME": "/", "USER": "4000000000", "LOGNAME": "4000000000", "SHELL": "/bin/sh"}


def test_numa_gives_each_worker_cpus_of_its_own(file: Path) -> None:
    cpus = plan(file, '[groups.g]\ncommand = ["true"]\nworkers = 3\nresources.numa = "node"').groups["g"].resources.cpus
    assert len(cpus) == 3
    assert all(one and one <= os.sched_getaffinity(0) for one in cpus)
