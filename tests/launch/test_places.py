"""Where a launch keeps what it has, and what it leaves."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest

from supervisor.launch.places import places
from supervisor.launch.refused import WrongUsage


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files, empty."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


def test_a_run_has_a_directory_of_its_own_in_log_dir(tmp_path: Path, temporary: Path) -> None:
    logs = tmp_path / "not/there/yet"
    with places(str(logs), "job") as found, places(str(logs), "job") as other:
        assert re.fullmatch(rf"{logs}/job_\w+", found.run_dir)
        assert found.run_dir != other.run_dir
        assert found.state_dir != other.state_dir
        assert Path(found.state_dir).is_relative_to(temporary)
        assert os.stat(found.state_dir).st_mode & 0o777 == 0o700
        (Path(found.state_dir) / "lock").touch()
    assert Path(found.run_dir).is_dir(), "what was asked for is kept, empty or not"
    assert list(temporary.iterdir()) == []


def test_a_relative_log_dir_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with places("logs", "job") as found:
        assert Path(found.run_dir).parent == tmp_path / "logs"


def test_a_temporary_directory_is_removed_when_there_is_no_file_in_it(temporary: Path) -> None:
    with places(None, "job") as found:
        os.makedirs(f"{found.run_dir}/attempt_0/0")
        assert re.fullmatch(rf"{temporary}/torchelastic_\w+/job_\w+", found.run_dir)
    assert list(temporary.iterdir()) == []


def test_a_temporary_directory_with_a_file_in_it_is_kept_without_the_empty_ones() -> None:
    with places("", "job") as found:
        for rank in (0, 1):
            os.makedirs(f"{found.run_dir}/attempt_0/{rank}")
        Path(f"{found.run_dir}/attempt_0/1/error.json").write_text("{}")
    assert os.listdir(f"{found.run_dir}/attempt_0") == ["1"]
    assert not os.path.exists(found.state_dir)


def test_of_dev_null_nothing_is_left(temporary: Path) -> None:
    with places("/dev/null", "job") as found:
        os.makedirs(f"{found.run_dir}/attempt_0/0")
        Path(f"{found.run_dir}/attempt_0/0/error.json").write_text("{}")
    assert list(temporary.iterdir()) == []


def test_a_log_dir_that_is_a_file_is_wrong_usage(tmp_path: Path, temporary: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(WrongUsage, match=f"--log-dir {file}: cannot make a directory there"), places(str(file), "job"):
        pass
    assert list(temporary.iterdir()) == []
