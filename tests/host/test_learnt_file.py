"""What was learnt survives the daemon: it is written later, whole or not at all, and believed only if it is ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from supervisor.host import learnt_file
from supervisor.host.learnt_file import LearntFile
from tests.host.observing import until


class Kept:
    """A file, what is to be in it, and what was told of it."""

    def __init__(self, directory: Path) -> None:
        self.groups: dict[str, Any] = {"job": {"step": 1}}
        self.trouble: list[str] = []
        self.file = LearntFile(str(directory), lambda: self.groups, self.trouble.append)


async def test_what_was_learnt_is_read_by_the_next_and_nothing_is_written_where_nothing_was(tmp_path: Path) -> None:
    first = Kept(tmp_path)
    assert first.file.read() == {}
    first.file.close()
    assert os.listdir(tmp_path) == []
    first.file.changed()
    first.file.changed()
    (tmp_path / "learnt.json.new").write_text("of one that was killed")
    first.file.close()
    first.file.close()
    assert Kept(tmp_path).file.read() == first.groups
    assert os.listdir(tmp_path) == ["learnt.json"]
    assert (tmp_path / "learnt.json").stat().st_mode & 0o777 == 0o600


async def test_it_is_written_while_the_daemon_runs_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learnt_file, "EVERY", 0.01)
    kept = Kept(tmp_path)
    kept.file.changed()
    await until((tmp_path / "learnt.json").exists)
    assert kept.file.read() == kept.groups


async def test_that_it_cannot_be_written_is_told_once_and_again_after_it_could(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    kept = Kept(directory)
    for _ in range(2):
        kept.file.changed()
        kept.file.close()
    assert kept.trouble == ["No such file or directory"]
    directory.mkdir()
    kept.file.changed()
    kept.file.close()
    (directory / "learnt.json").unlink()
    (directory / "learnt.json").mkdir()
    kept.file.changed()
    kept.file.close()
    assert kept.trouble[1:] == ["Is a directory"]
    assert os.listdir(directory) == ["learnt.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff", b"[]", b"7", b"[" * 100_000, b"{}", b'{"version": 2, "groups": {}}', b'{"version": 1}',
        b'{"version": 1, "groups": []}',
    ],
)  # fmt: skip
def test_what_is_not_ours_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "learnt.json").write_bytes(text)
    with pytest.raises(ValueError, match="it "):
        Kept(tmp_path).file.read()


def test_neither_a_link_nor_more_than_can_be_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").write_text(json.dumps({"version": 1, "groups": {}}))
    (tmp_path / "learnt.json").symlink_to("real")
    with pytest.raises(OSError, match="symbolic links"):
        Kept(tmp_path).file.read()
    (tmp_path / "learnt.json").unlink()
    (tmp_path / "real").rename(tmp_path / "learnt.json")
    assert Kept(tmp_path).file.read() == {}
    monkeypatch.setattr(learnt_file, "LIMIT", 10)
    with pytest.raises(ValueError, match="too long"):
        Kept(tmp_path).file.read()
