"""The configuration as a child process reads it for the daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor import config_reader
from supervisor.config import load
from supervisor.config_reader import read_apart
from supervisor.errors import ConfigError, SupervisorBug

ROOT = Path(__file__).resolve().parents[2]
TEXT = '[daemon]\nrun_id = "r"\n[groups.g]\ncommand = ["true"]\nworkers = 3\nenv = { A = "ä" }\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rankd.toml"
    path.write_text(TEXT)
    path.chmod(0o644)
    return path


def test_the_child_reads_what_we_would_read(file: Path) -> None:
    with read_apart(str(file)) as reading:
        assert reading.result() == load(str(file), os.environ)


def test_the_child_has_our_environment_and_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert read_apart("rankd.toml").result() == replace(load(str(file), os.environ), state_dir=str(tmp_path / "state"))


def test_somebody_may_say_how_many_workers_a_group_has_whatever_the_file_says(file: Path) -> None:
    assert read_apart(str(file), workers={"g": 7, "unknown": 2}).result().groups["g"].workers == 7
    with pytest.raises(ConfigError) as wrong:
        read_apart(str(file), workers={"g": -1}).result()
    assert wrong.value.mistakes[0].key == "groups.g.workers"


def test_every_mistake_comes_back(file: Path) -> None:
    file.write_text("[groups.g]\nworkers = 0\nx = 1\n")
    with pytest.raises(ConfigError) as here:
        load(str(file), os.environ)
    with pytest.raises(ConfigError) as there:
        read_apart(str(file)).result()
    assert there.value.mistakes == here.value.mistakes
    assert len(here.value.mistakes) == 3


def test_the_directory_we_are_in_cannot_slip_in_a_module(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("json", "pydantic", "supervisor"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('not what you wanted')")
    monkeypatch.chdir(tmp_path)
    assert read_apart("rankd.toml").result().groups["g"].workers == 3


def test_a_child_that_dies_otherwise_is_our_bug_and_its_last_words_are_told(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_reader, "_PROGRAM", "import sys; sys.exit('something broke')")
    with pytest.raises(SupervisorBug, match="ended with 1 and no plan .*: something broke"):
        read_apart(str(file)).result()
    monkeypatch.setattr(config_reader, "_PROGRAM", "print('{\"plan\": {}}')")
    with pytest.raises(SupervisorBug, match="ended with 0 and no plan"):
        read_apart(str(file)).result()


def test_a_child_that_says_nothing_is_given_up_and_gone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_reader, "_PROGRAM", "import signal; signal.pause()")
    with pytest.raises(SupervisorBug, match=r"longer than 0\.1 s"):
        read_apart(str(file)).result(timeout=0.1)
    with read_apart(str(file)):
        pass  # nobody asked: it is gone all the same, or the check for children left behind would say so


def test_the_daemons_side_carries_none_of_what_the_child_needs() -> None:
    program = (
        "import sys; from supervisor.config_reader import read_apart; "
        "assert not {'pydantic', 'tomllib', 'asyncio', 'difflib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)


def test_python_m_supervisor_config_prints_the_plan(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.config", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('{"plan": {"name": "rankd", ')
    file.write_text("x = 1")
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.config", str(file)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (78, "")
    assert done.stdout.startswith(f'{{"mistakes": [["{file}", 1, "')
