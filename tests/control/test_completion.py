"""Completion in a real shell: what is offered for a line that has been begun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli.completion import bash, fish
from supervisor.cli.words import VERBS, parser_of
from tests.end_to_end.rankd import ROOT

VERBS_OF = parser_of(VERBS)[1]
OFFER = """
rankd() { echo trainer; echo cache; }
source /dev/stdin
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_rankd
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(*words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last of these words."""
    argv = ["bash", "-c", OFFER, "bash", *words]
    done = subprocess.run(
        argv, input=bash(VERBS_OF, zsh=False), capture_output=True, text=True, check=True, timeout=45, cwd=cwd
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_a_verb_is_completed() -> None:
    assert offered("rankd", "re") == ["restart", "reload"]
    assert set(VERBS) == set(offered("rankd", ""))


def test_an_option_is_one_of_its_verb() -> None:
    assert offered("rankd", "status", "--j") == ["--json"]
    assert offered("rankd", "check", "--w") == []
    assert "--nproc-per-node" in offered("rankd", "launch", "--nproc")


def test_the_names_of_groups_are_asked_for() -> None:
    assert offered("rankd", "stop", "tr") == ["trainer"]
    assert offered("rankd", "logs", "") == ["trainer", "cache"]


def test_a_configuration_is_a_toml_file(tmp_path: Path) -> None:
    for name in ("rankd.toml", "other.txt"):
        (tmp_path / name).touch()
    assert offered("rankd", "check", "", cwd=tmp_path) == ["rankd.toml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        assert "complete" in (bash(VERBS_OF, zsh=True) if shell == "zsh" else fish(VERBS_OF))
        return
    script = tmp_path / "script"
    script.write_text(fish(VERBS_OF) if shell == "fish" else bash(VERBS_OF, zsh=True))
    subprocess.run([shell, "-n", script], check=True, timeout=45)


def test_without_a_daemon_there_are_no_names_and_no_words() -> None:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RUNTIME_DIRECTORY": "/nonexistent",
        "XDG_RUNTIME_DIR": "/nonexistent",
    }
    argv = [sys.executable, "-m", "supervisor", "completion"]
    done = subprocess.run([*argv, "groups"], env=env, capture_output=True, text=True, check=True, timeout=45)
    assert done.stderr == ""
    script = subprocess.run([*argv, "bash"], env=env, capture_output=True, text=True, check=True, timeout=45).stdout
    assert "complete -o filenames -F _rankd rankd" in script
