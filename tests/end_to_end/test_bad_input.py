"""What cannot work is refused with words and the right exit code, or fails once and clearly."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.end_to_end.configs import SLEEP, group, python, table
from tests.end_to_end.conftest import Start
from tests.end_to_end.rankd import rankd_command

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (group("job", SLEEP, workers=2, wokers=3), ["rankd.toml:4: groups.job.wokers:", "workers"]),
        (group("job", SLEEP, workers="many"), ["rankd.toml:3: groups.job.workers:"]),
        (group("job", SLEEP, workers=0), ["rankd.toml:3: groups.job.workers:"]),
        (group("job", SLEEP, restart={"policy": "sometimes"}), ["groups.job.restart.policy:", "on-failure"]),
        (
            group("a", SLEEP, depends_on={"b": "ready"}) + group("b", SLEEP, depends_on={"a": "ready"}),
            ["depends_on", "a", "b"],
        ),
        (group("a", SLEEP, depends_on={"nobody": "ready"}), ["groups.a.depends_on", "nobody"]),
        ("[groups.job\n", ["rankd.toml:1:"]),
        ("", ["rankd.toml:"]),
    ],
    ids=["unknown key", "wrong type", "no workers", "wrong word", "cycle", "unknown group", "syntax", "no group"],
)
def test_a_wrong_configuration_ends_with_78_and_the_place(rankd: Start, config: str, words: list[str]) -> None:
    daemon = rankd(config)
    assert daemon.wait() == 78
    said = "\n".join(daemon.console)
    for word in words:
        assert word in said
    assert daemon.records == []


def test_check_names_every_mistake_at_once(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(group("job", SLEEP, workers=0, wokers=3, restart={"max_restarts": "three"}))
    done = rankd_command("check", str(path))
    assert done.returncode == 78
    said = done.stdout + done.stderr
    for key in ("groups.job.workers", "groups.job.wokers", "groups.job.restart.max_restarts"):
        assert key in said
    assert said.count(f"{path}:") == 3


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["run"], ["run", "--frobnicate", "x.toml"]])
def test_wrong_usage_ends_with_64(arguments: list[str]) -> None:
    done = rankd_command(*arguments)
    assert done.returncode == 64
    assert "usage" in done.stderr.lower()


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    done = rankd_command("run", str(tmp_path / "nowhere.toml"))
    assert done.returncode == 78
    assert "nowhere.toml" in done.stderr


def test_a_health_port_that_is_taken_ends_with_69_before_any_worker_starts(rankd: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        mark = tmp_path / "ran"
        daemon = rankd(table("health", listen=[address]) + group("job", ["/bin/touch", str(mark)]))
        assert daemon.wait() == 69
    assert address in "\n".join(daemon.console) + daemon.story()
    assert not daemon.all("worker.started")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("command", "keys", "exit_code", "word"),
    [
        (["no-such-command-anywhere"], {}, 127, "no-such-command-anywhere"),
        (["${FOLDER}/nowhere/program"], {}, 127, "program"),
        (["${FOLDER}/plain-file"], {}, 126, "plain-file"),
        (SLEEP, {"cwd": "${FOLDER}/nowhere"}, 126, "nowhere"),
        (SLEEP, {"user": "no-such-user"}, 126, "no-such-user"),
    ],
    ids=["not on PATH", "no such file", "not executable", "no such cwd", "no such user"],
)
def test_what_can_never_start_fails_once_and_is_not_retried(
    rankd: Start, tmp_path: Path, command: list[str], keys: dict[str, str], exit_code: int, word: str
) -> None:
    (tmp_path / "plain-file").write_text("#!/bin/sh\n")
    daemon = rankd(group("job", command, workers=2, env={"FOLDER": str(tmp_path)}, **keys))
    code = daemon.wait()
    if code == 78:  # a user that does not exist may be found out before anything is tried
        assert word in "\n".join(daemon.console)
        return
    assert code == exit_code
    failure = daemon.wait_for("worker.failed")
    assert word in failure["reason"]
    assert failure["root_cause"] is True
    assert len(daemon.all("worker.failed")) == 1
    assert not daemon.all("worker.started")
    assert not daemon.all("group.restarting")
    assert not daemon.all("group.backing_off")


def test_a_missing_interpreter_is_told_from_a_missing_script(rankd: Start, tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    daemon = rankd(group("job", [str(script)]))
    assert daemon.wait() in (126, 127)
    assert not daemon.all("group.restarting")
    assert len(daemon.all("worker.failed")) == 1


def test_one_rank_that_cannot_start_takes_the_others_down(rankd: Start, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    daemon = rankd(group("job", SLEEP, workers=2, cwd=str(tmp_path / "${RANK}")))
    assert daemon.wait() == 126
    assert daemon.wait_for("worker.failed")["rank"] == 1
    assert len(daemon.all("worker.started")) == len(daemon.all("worker.exited"))


def test_an_unwritable_state_directory_is_said(rankd: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    daemon = rankd(group("job", python("pass")), env={"STATE_DIRECTORY": str(tmp_path / "file" / "below")})
    assert daemon.wait() != 0
    assert "file/below" in daemon.story()


def test_a_runtime_directory_that_others_may_write_to_is_refused(rankd: Start, tmp_path: Path) -> None:
    open_to_all = tmp_path / "run"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    daemon = rankd(group("a", SLEEP), env={"RUNTIME_DIRECTORY": str(open_to_all)})
    assert daemon.wait() == 78
    assert "mode 0777" in daemon.wait_for_line("nobody else may write to it")
    assert not daemon.all("worker.started")
