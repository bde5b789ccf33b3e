"""``rankd doctor`` as people and programs run it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli.doctor import table
from supervisor.doctor import Finding, kernel
from tests.end_to_end.rankd import rankd_command

FINDINGS = [
    Finding("kernel", "ok", "fine"),
    Finding("cgroup", "warning", "not so"),
    Finding("files", "failed", "a b c", "d e"),
]


def test_a_real_run_says_what_is_here(tmp_path: Path) -> None:
    """Everything that rankd cannot do without is there, or no other test would pass."""
    ran = rankd_command("doctor", "--json")
    told = json.loads(ran.stdout)
    verdicts = {check["check"]: check["verdict"] for check in told["checks"]}
    assert [verdicts[name] for name in ("kernel", "python", "subreaper")] == ["ok"] * 3
    assert ran.returncode == (0 if told["ok"] else 1)
    assert told["ok"] == ("failed" not in verdicts.values())
    assert f"Linux {os.uname().release}" in told["checks"][0]["found"]


def test_a_configuration_that_fits_is_well_and_one_that_does_not_is_a_failure(tmp_path: Path) -> None:
    config = tmp_path / "rankd.toml"
    config.write_text(
        f'daemon.state_dir = "{tmp_path}/state"\ndaemon.runtime_dir = "{tmp_path}/run"\n'
        'health.listen = ["127.0.0.1:0"]\n'
        '[groups.job]\ncommand = ["sleep", "1"]\nworkers = 2\n'
    )
    ran = rankd_command("doctor", str(config))
    assert ran.returncode == 0
    lines = {line[9:].split("  ")[0]: line for line in ran.stdout.splitlines()}
    assert lines["configuration"].endswith(f"{config}: job with 2 workers")
    assert "GiB free, made at start" in lines["state_dir"]
    assert lines["group job"].endswith("/sleep")
    assert list(tmp_path.iterdir()) == [config]  # it has changed nothing
    config.write_text("[groups.job]\nworkers = 0\n")
    ran = rankd_command("doctor", str(config))
    assert ran.returncode == 1
    assert f"{config}:1: groups.job.command: is missing (and 1 more)" in ran.stdout
    assert ran.stdout.splitlines()[-1].split(": ", 1)[1].startswith("1 failed (configuration)")


def test_the_table_has_a_line_a_check_what_to_do_and_the_sum() -> None:
    assert table(FINDINGS, 0, colour=False) == (
        "ok       kernel  fine\n"
        "warning  cgroup  not so\n"
        "failed   files   a b c\n"
        "                 -> d e\n"
        "\n"
        "3 checks: 1 failed (files); 1 to watch (cgroup)\n"
    )
    assert table(FINDINGS[:1], 0, colour=True) == "\033[32mok     \033[0m  kernel  fine\n\n1 checks: all is well\n"


def test_on_a_terminal_long_words_are_folded_under_their_column() -> None:
    finding = Finding("x", "ok", "word " * 12)
    assert table([finding], 43, colour=False).splitlines()[:3] == [
        "ok       x  word word word word word word",
        "            word word word word word word",
        "",
    ]


def test_a_kernel_without_pidfds_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused)
    told = kernel.kernel()
    assert (told.verdict, told.found.partition("; ")[2]) == ("failed", "pidfds do not work: Function not implemented")


def test_an_old_python_is_a_failure() -> None:
    assert kernel.python((3, 10)).verdict == "failed"
    assert kernel.python((3, 11)).verdict == "ok"


def test_orphans_that_do_not_come_to_us_are_a_failure() -> None:
    script = """if True:
        from supervisor.doctor import kernel
        kernel.become_subreaper = lambda: None
        print(kernel.subreaper().verdict)
    """
    out = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    assert out == "failed\n"
