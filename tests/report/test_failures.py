"""Failures are kept in a file, one record a failure, and told to people when a group gives up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor.core import events
from supervisor.core.events import Event, Who
from supervisor.core.messages import ErrorReport, ExitStatus
from supervisor.core.state import Failure, Group, Verdict
from supervisor.plan import DaemonPlan, GroupPlan, LogRules
from supervisor.report import failures
from supervisor.report.failures import Failures


class Daemon:
    """What ``Failures`` works for: a loop whose next turn comes on request, and everybody who is told."""

    def __init__(self, folder: Path) -> None:
        job = GroupPlan("job", ("job",), 2, "job", LogRules(str(folder)))
        self.plan = DaemonPlan("rankd", "host-a", "run-7", str(folder), str(folder), {"job": job})
        self.groups = {"job": Group(job, 1, attempt=0)}
        self.told: list[Event] = []
        self.shown: list[bytes] = []
        self.turns: list[Callable[[], None]] = []
        self.file = folder / "job/run-7/failures.jsonl"
        self.failures = Failures(
            self.plan,
            lambda: self.groups,
            tell=self.told.append,
            show=self.shown.append,
            soon=self.turns.append,
            apart=self._at_once,
        )

    def _at_once(self, _place: str, job: Callable[[], None], done: Callable[[OSError | None], object]) -> None:
        try:
            job()
        except OSError as error:
            done(error)
        else:
            done(None)

    def fail(self, rank: int = 0, *, root_cause: bool = True, reason: str = "ended", **more: Any) -> Event:
        event = events.worker_failed(
            5.0, Who("job", rank, rank, 0), reason, root_cause=root_cause, pid=4711, status=ExitStatus(3), exit_code=3,
            **more,
        )  # fmt: skip
        self.failures.observe(event)
        return event

    def give_up(self) -> None:
        self.groups["job"] = self.groups["job"]._replace(
            failure=Failure(5.0, 0, 0, "rank 0 ended", 3), verdict=Verdict("failed", 3, "it is enough")
        )
        self.failures.observe(events.group_failed(6.0, "job", 0, "it is enough", 3))

    def turn(self) -> None:
        """The loop goes on."""
        turns, self.turns[:] = list(self.turns), []
        for callback in turns:
            callback()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()]


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path)


def test_a_failure_is_one_record_in_the_file_of_its_run(daemon: Daemon) -> None:
    event = daemon.fail(1, error=ErrorReport("ValueError: no", "Traceback ...", 7))
    assert not daemon.file.exists(), "the event was told first, the file is written in the loop's next turn"
    daemon.turn()
    (record,) = daemon.records
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        **event.fields, "host": "host-a", "run_id": "run-7", "group": "job",
        "directory": str(daemon.file.parent / "attempt_0/1"),
    }  # fmt: skip
    assert (record["error"], record["traceback"], record["exit_code"]) == ("ValueError: no", "Traceback ...", 3)


def test_failures_of_one_turn_are_written_at_once_and_later_ones_behind_them(daemon: Daemon) -> None:
    daemon.fail(0)
    daemon.fail(1, root_cause=False)
    assert len(daemon.turns) == 1
    daemon.turn()
    daemon.fail(0)
    daemon.turn()
    assert [(record["rank"], record["root_cause"]) for record in daemon.records] == [(0, True), (1, False), (0, True)]


def test_what_is_no_failure_is_passed_over(daemon: Daemon) -> None:
    daemon.failures.observe(events.daemon_stopping(1.0, "SIGTERM"))
    daemon.failures.observe(events.group_ready(1.0, "job", 0, 0.1))
    assert (daemon.turns, daemon.shown, daemon.told) == ([], [], [])


def test_a_group_that_gives_up_is_explained_in_lines_that_a_terminal_can_take(daemon: Daemon) -> None:
    daemon.fail(0, error=ErrorReport("ValueError: \x1b[2Jno\x07", "one\n\ttwo\udc80\rthree"))
    daemon.give_up()
    (shown,) = daemon.shown
    text = shown.decode()
    assert "group job FAILED: it is enough\n" in text
    assert "ValueError: \\e[2Jno\\u0007\n" in text
    assert text.endswith("=\n")
    assert not [char for char in text if char != "\n" and not char.isprintable()]


def test_a_group_that_fails_without_a_workers_fault_is_not_explained(daemon: Daemon) -> None:
    daemon.give_up()
    assert daemon.shown == []
    assert daemon.failures.root_cause("job") is None


def test_the_root_cause_is_remembered_however_many_fail_after_it(daemon: Daemon) -> None:
    root = daemon.fail(0, reason="the first")
    for _ in range(1000):
        daemon.fail(1, root_cause=False, reason="a later one")
    daemon.give_up()
    assert daemon.failures.root_cause("job") is root
    assert daemon.failures.directory(root) == str(daemon.file.parent / "attempt_0/0")
    assert b"the first" in daemon.shown[0]
    assert len(daemon.shown[0]) < 10_000


def test_who_has_failed_while_the_one_that_hangs_was_looked_at_is_named_as_another_failure(daemon: Daemon) -> None:
    daemon.fail(1, root_cause=False, reason="was killed by SIGABRT")
    daemon.fail(0)
    daemon.give_up()
    (text,) = daemon.shown
    assert b"Other failures:\n  attempt 0, rank 1: was killed by SIGABRT\n" in text


def test_a_disk_that_takes_nothing_is_told_once_and_again_after_it_did(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(failures, "_append", lambda *_: os.stat(daemon.file / "not here"))
        for _ in range(3):
            daemon.fail()
            daemon.turn()
    assert [event.name for event in daemon.told] == ["group.failures_unwritten"]
    assert str(daemon.file) in daemon.told[0].message
    daemon.fail(1)
    daemon.turn()
    assert [record["rank"] for record in daemon.records] == [1]
    assert len(daemon.told) == 1


def test_a_file_that_grows_makes_room_for_the_next(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "LIMIT", 1000)
    for _ in range(40):
        daemon.fail()
        daemon.turn()
    older = daemon.file.with_name("failures.jsonl.1")
    assert 0 < daemon.file.stat().st_size <= 1000
    assert 0 < older.stat().st_size <= 1000
    assert sorted(os.listdir(daemon.file.parent)) == [daemon.file.name, older.name]
    assert daemon.told == []


@pytest.mark.parametrize("put", ["pipe", "link", "directory"])
def test_what_was_put_in_the_files_place_is_left_alone(daemon: Daemon, put: str, tmp_path: Path) -> None:
    daemon.file.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    match put:
        case "pipe":
            os.mkfifo(daemon.file)
        case "link":
            daemon.file.symlink_to(elsewhere)
        case _:
            daemon.file.mkdir()
    daemon.fail()
    daemon.turn()
    assert [event.name for event in daemon.told] == ["group.failures_unwritten"]
    assert elsewhere.read_text() == ""
