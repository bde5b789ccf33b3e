"""``rankd check`` and ``rankd schema``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from supervisor.cli import check, schema


def run_check(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    return check.main(parser.parse_args(arguments))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rankd.toml"
    path.write_text('[groups.trainer]\ncommand = ["true"]\nworkers = 4\n')
    path.chmod(0o644)
    return path


def test_a_right_file_is_told_in_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check("rankd.toml") == 0
    assert capsys.readouterr() == ("rankd.toml: ok: 1 group (trainer: 4 workers), health on 127.0.0.1:8080\n", "")
    file.write_text('groups = { a = { command = ["x"] }, b = { command = ["x"], workers = 2 } }\nhealth.listen = []')
    assert run_check("rankd.toml") == 0
    assert capsys.readouterr().out == "rankd.toml: ok: 2 groups (a: 1 worker, b: 2 workers), no health listener\n"


def test_every_mistake_is_a_line_on_stderr(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("[groups.trainer]\nworkers = 0\n")
    assert run_check("rankd.toml") == 78
    assert capsys.readouterr() == (
        "",
        "rankd.toml:1: groups.trainer.command: is missing\nrankd.toml:2: groups.trainer.workers: must be at least 1\n",
    )


def test_with_json_programs_can_read_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check("--json", "rankd.toml") == 0
    right = {"ok": True, "groups": {"trainer": {"workers": 4}}, "listen": ["127.0.0.1:8080"]}
    assert json.loads(capsys.readouterr().out) == right
    file.write_text("[groups.trainer]\ncommand = ['x']\nworkers = 0\n")
    assert run_check("--json", "rankd.toml") == 78
    told = capsys.readouterr()
    mistake = {"file": "rankd.toml", "line": 3, "key": "groups.trainer.workers", "what": "must be at least 1"}
    assert (json.loads(told.out), told.err) == ({"ok": False, "mistakes": [mistake]}, "")


def test_the_schema_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    schema.add_arguments(parser)
    assert schema.main(parser.parse_args([])) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed["title"] == "rankd"
    assert list(printed["properties"]) == ["daemon", "log", "health", "control", "rendezvous", "hooks", "groups"]
