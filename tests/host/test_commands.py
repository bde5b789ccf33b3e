"""Commands that are asked: their answer, their last lines, and that nothing of them outlives the question."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.host import commands as under_test
from supervisor.host.ask import Answer
from supervisor.host.commands import Commands
from supervisor.host.containment import Sessions, become_subreaper
from supervisor.host.proc import read_process
from supervisor.host.spawn import Spawner
from supervisor.plan import LogRules, Probe, WorkerPlan

PATH = "/usr/local/bin:/usr/bin:/bin"


class Asking:
    """Commands under test, in the place of a daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._containment = Sessions(adopts=True, unclaimed=lambda _: None)
        self._spawner = Spawner(self._containment.leave_alone)
        self.commands = Commands(self._containment, self._spawner)

    def plan(self, *argv: str, within: float = 20.0, **env: str) -> WorkerPlan:
        return WorkerPlan(
            ("worker",), {"PATH": PATH, **env}, str(self.directory), f"{self.directory}/worker", LogRules("/"), 3, {},
            probe=Probe(exec=argv, timeout=within),
        )  # fmt: skip

    async def ask(self, *argv: str, within: float = 20.0, **env: str) -> Answer:
        return await self.commands.ask("g", self.plan(*argv, within=within, **env))

    def close(self) -> None:
        self.commands.close()
        self._spawner.close()


def ask(directory: Path, *argv: str, **options: Any) -> Answer:
    """The answer of one command, in a loop of its own; nothing of it is left open."""

    async def main() -> Answer:
        asking = Asking(directory)
        try:
            return await asking.ask(*argv, **options)
        finally:
            asking.close()

    before = len(os.listdir("/proc/self/fd"))
    answer = asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) == before
    return answer


def is_gone(pid: int) -> bool:
    process = read_process(pid)
    return process is None or process.dead


@pytest.fixture(autouse=True)
def orphans_come_to_us() -> None:
    become_subreaper()


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        ("exit 0", Answer(True, "exited with code 0")),
        ("echo fine; exit 0", Answer(True, "exited with code 0", "fine")),
        ("echo one; echo two >&2; exit 3", Answer(False, "exited with code 3", "one\ntwo")),
        ("kill -SEGV $$", Answer(False, "was killed by SIGSEGV")),
        ("cat; exit 4", Answer(False, "exited with code 4")),
    ],
)
def test_exit_code_0_is_well_and_the_last_lines_are_kept(tmp_path: Path, script: str, answer: Answer) -> None:
    found = ask(tmp_path, "sh", "-c", f"ulimit -c 0; {script}")
    assert found._replace(reason=found.reason.partition(" (")[0]) == answer


def test_it_runs_as_the_worker_does_but_its_failure_is_not_the_workers(tmp_path: Path) -> None:
    script = 'echo "$(pwd) $RANK ${TORCHELASTIC_ERROR_FILE-none}"; exit 1'
    found = ask(tmp_path, "sh", "-c", script, RANK="7", TORCHELASTIC_ERROR_FILE=str(tmp_path / "error.json"))
    assert found.output == f"{tmp_path} 7 none"
    assert not (tmp_path / "worker").exists()


def test_what_cannot_be_started_is_a_bad_answer(tmp_path: Path) -> None:
    found = ask(tmp_path, "no-such-command")
    assert found == Answer(False, "command not found: 'no-such-command' is not in the worker's PATH")


def test_of_a_flood_only_the_end_is_kept(tmp_path: Path) -> None:
    script = "print('y\\n' * 500000 + 'end'); raise SystemExit(1)"
    found = ask(tmp_path, sys.executable, "-S", "-c", script)
    assert found.output.endswith("y\nend")
    assert len(found.output) < 20 * 1024


def test_at_the_timeout_it_is_killed_with_all_its_children(tmp_path: Path) -> None:
    """One that ignores SIGTERM, one in a session of its own, and one that has lost its parent."""
    script = """
    trap "" TERM
    setsid sh -c 'echo $$ >> pids; sleep 600' &
    sh -c 'sh -c "echo \\$\\$ >> pids; sleep 600" &'
    echo $$ >> pids
    echo at work
    sleep 600
    """
    found = ask(tmp_path, "sh", "-c", script, within=1.0)
    assert found == Answer(False, "no answer within 1 s", "at work")
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert all(map(is_gone, pids))


def test_what_it_leaves_behind_is_killed_and_does_not_change_its_answer(tmp_path: Path) -> None:
    found = ask(tmp_path, "sh", "-c", "sleep 600 & echo $! > pid; exit 0")
    assert found.passed
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_who_does_not_wait_for_the_answer_any_more_leaves_nothing_running(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")

    async def main() -> None:
        asking = Asking(tmp_path)
        started = asyncio.Event()
        reader = os.open(tmp_path / "started", os.O_RDONLY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(reader, started.set)
        task = asyncio.create_task(asking.ask("sh", "-c", "echo $$ > pid; echo > started; sleep 600"))
        await asyncio.wait_for(started.wait(), 10)
        asyncio.get_running_loop().remove_reader(reader)
        os.close(reader)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_gone(int((tmp_path / "pid").read_text()))
        asking.close()

    asyncio.run(main())


def test_over_one_that_cannot_be_killed_no_other_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "DIES_WITHIN", 0.1)

    async def main() -> None:
        asking = Asking(tmp_path)
        kill = asking.commands._kill
        monkeypatch.setattr(asking.commands, "_kill", lambda _: None)
        first = await asking.ask("sh", "-c", "echo $$ > pid; exec sleep 600", within=0.5)
        assert first.reason == "no answer within 0.5 s"
        second = await asking.ask("true")
        assert second.reason == "the command that was asked last cannot be killed"
        assert second.output.startswith(f"{(tmp_path / 'pid').read_text().strip()} sleep (state S")
        (run,) = asking.commands._runs.values()
        kill(run)
        await asyncio.wait_for(run.gone.wait(), 10)
        assert (await asking.ask("true")).passed
        asking.close()

    asyncio.run(main())


def test_when_we_are_short_of_something_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", short)
    assert ask(tmp_path, "true").passed is None
