"""The library: what a caller gets for what it has asked, with workers that are real."""

# ruff: noqa: ASYNC240 - the loop is ours alone, and may wait for a folder

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor import LocalElasticAgent, LogsSpecs, RunResult, WorkerSpec, WorkerState
from supervisor.agent.local import UNHEEDED
from supervisor.agent.supervision import Supervision
from supervisor.core.events import Event
from supervisor.errors import SupervisorBug
from tests.agent import jobs


def spec(entrypoint: Callable[..., Any] | str, *args: object, workers: int = 2, **otherwise: Any) -> WorkerSpec:
    settings: dict[str, Any] = {"args": args, "max_restarts": 0} | otherwise
    return WorkerSpec("trainer", workers, entrypoint=entrypoint, **settings)


async def run(what: WorkerSpec, logs: LogsSpecs | Flat | None = None, **otherwise: Any) -> RunResult:
    async with asyncio.timeout(30):
        return await LocalElasticAgent(what, logs, **otherwise).run()


async def until(found: Callable[[], bool]) -> None:
    """Workers tell of themselves by files, which nobody can wait for."""
    async with asyncio.timeout(45):
        while not found():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# ---- values


async def test_what_functions_return_is_there_by_rank() -> None:
    result = await run(spec(jobs.give, "foo", {"a": 1}, workers=3))
    assert (result.state, result.is_failed(), result.failures) == (WorkerState.SUCCEEDED, False, {})
    assert result.return_values == {rank: (rank, "foo", {"a": 1}) for rank in range(3)}


async def test_arguments_may_be_by_local_rank_and_name_it() -> None:
    result = await run(spec(jobs.give, args={0: ("a",), 1: ("b", 2)}))
    assert result.return_values == {0: (0, "a"), 1: (1, "b", 2)}
    result = await run(spec(jobs.give, "of ${local_rank} and ${RANK}"))
    assert result.return_values == {0: (0, "of 0 and ${RANK}"), 1: (1, "of 1 and ${RANK}")}


async def test_arguments_and_values_of_any_size_pass_and_are_in_no_file(tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    result = await run(spec(jobs.size, data), LogsSpecs(str(tmp_path)))
    assert result.return_values == {0: data[::-1], 1: data[::-1]}
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_ten_megabytes_from_each_of_four_are_no_deadlock() -> None:
    """Torch's own case; no worker has to wait for another to be read."""
    result = await run(spec(jobs.size, b"ab" * 5_000_000, workers=4))
    assert result.return_values == dict.fromkeys(range(4), b"ba" * 5_000_000)


async def test_a_function_that_leaves_without_a_word_has_returned_nothing() -> None:
    result = await run(spec(jobs.leave, 0))
    assert (result.state, result.return_values) == (WorkerState.SUCCEEDED, {})


async def test_a_program_has_no_values(tmp_path: Path) -> None:
    what = spec("sh", "-c", 'echo "$RANK $LOCAL_RANK ${local_rank} $WORLD_SIZE" > $0/$RANK', str(tmp_path))
    result = await run(what)
    assert (result.is_failed(), result.return_values) == (False, {})
    assert [(tmp_path / name).read_text() for name in "01"] == ["0 0 0 2\n", "1 1 1 2\n"]


def test_where_no_loop_runs_a_run_is_looked_at_like_its_result() -> None:
    results = LocalElasticAgent(spec(jobs.give, "x"), "spawn").run()
    assert not results.is_failed()
    assert results.return_values == {0: (0, "x"), 1: (1, "x")}
    assert (results.state, results.failures) == (WorkerState.SUCCEEDED, {})
    assert asyncio.run(LocalElasticAgent(spec(jobs.give)).run()).return_values == {0: (0,), 1: (1,)}
    assert LocalElasticAgent(spec(jobs.give)).run_sync().return_values == {0: (0,), 1: (1,)}


# ---- failures


async def test_an_exception_is_told_with_its_traceback_and_stopped_peers_are_not(tmp_path: Path) -> None:
    result = await run(spec(jobs.fail, "no luck", 1, workers=3), LogsSpecs(str(tmp_path)))
    assert result.is_failed()
    assert (list(result.failures), result.return_values) == ([1], {})
    failure = result.failures[1]
    assert (failure.local_rank, failure.exitcode, failure.signal_name()) == (1, 1, "<N/A>")
    assert failure.message.startswith("Traceback")
    assert failure.message.endswith("ValueError: no luck\n")
    assert Path(failure.error_file).is_file()
    assert Path(failure.error_file).is_relative_to(tmp_path)
    assert result.reason.startswith("rank 1 exited with code 1 after ")


async def test_a_crash_is_told_by_its_signal() -> None:
    failure = (await run(spec(jobs.crash, 0))).failures[0]
    assert (failure.exitcode, failure.signal_name()) == (-signal.SIGSEGV, "SIGSEGV")
    assert failure.message == f"Signal 11 (SIGSEGV) received by PID {failure.pid}"
    assert failure.error_file == "<N/A>"


@pytest.mark.parametrize(("code", "failed"), [(0, False), (3, True)])
async def test_a_function_may_exit_and_has_no_error_file_then(code: int, failed: bool, tmp_path: Path) -> None:
    result = await run(spec(jobs.leave_in_order, code, workers=1), LogsSpecs(str(tmp_path)))
    assert result.is_failed() is failed
    assert [(one.exitcode, one.error_file) for one in result.failures.values()] == ([(3, "<N/A>")] if failed else [])
    assert list(tmp_path.rglob("error.json")) == []


async def test_restarts_that_help_nothing_are_all_used_and_then_it_has_failed(tmp_path: Path) -> None:
    """Torch's ``run_bipolar_function``: half of the ranks fail in each of three attempts."""
    agent = LocalElasticAgent(spec(jobs.fail_by_half, workers=4, max_restarts=2), LogsSpecs(str(tmp_path)))
    async with asyncio.timeout(30):
        result = await agent.run()
    assert (result.state, result.return_values) == (WorkerState.FAILED, {})
    assert set(result.failures) <= {1, 3}
    assert "all 2 restarts are used" in result.reason
    assert sorted(path.name for path in tmp_path.rglob("attempt_*")) == ["attempt_0", "attempt_1", "attempt_2"]
    assert agent.get_worker_group().state is WorkerState.FAILED


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    failure = (await run(spec("/no/such/program", workers=1, max_restarts=3))).failures[0]
    assert (failure.pid, failure.exitcode) == (-1, 127)
    assert "command not found" in failure.message


async def test_a_value_that_cannot_be_pickled_is_a_failure_of_the_worker() -> None:
    result = await run(spec(jobs.give_a_lambda, workers=1))
    assert "pickle" in result.failures[0].message


async def test_a_value_that_cannot_be_unpickled_is_raised() -> None:
    with pytest.raises(RuntimeError, match="what local rank 0 has returned cannot be unpickled"):
        await run(spec(jobs.give_untouchable, workers=1))


async def test_a_function_that_cannot_be_pickled_is_raised_before_anything_starts() -> None:
    with pytest.raises((AttributeError, TypeError), match="lambda|pickle"):
        await run(spec(lambda: None))


async def test_what_a_failed_worker_has_left_stays_and_an_empty_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    await run(spec(jobs.give))
    assert list(tmp_path.iterdir()) == []
    result = await run(spec(jobs.fail, "no", 0))
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == [result.failures[0].error_file]


# ---- how it stands meanwhile


async def test_a_group_is_told_as_it_stands(tmp_path: Path) -> None:
    agent = LocalElasticAgent(spec(jobs.second_time, str(tmp_path), max_restarts=1))
    assert agent.get_worker_group().state is WorkerState.INIT
    task = asyncio.create_task(agent.run())
    await until(lambda: (tmp_path / "up1").exists() and (tmp_path / "up0").exists())
    group = agent.get_worker_group()
    assert (group.state, WorkerState.is_running(group.state)) == (WorkerState.HEALTHY, True)
    assert (group.group_rank, group.group_world_size, group.master_addr) == (0, 1, "127.0.0.1")
    assert [(one.global_rank, one.role_rank, one.world_size) for one in group.workers] == [(0, 0, 2), (1, 1, 2)]
    for one in group.workers:
        assert one.id is not None
        os.kill(one.id, 0)
    (tmp_path / "up_and_seen").touch()
    result = await task
    assert result.return_values == {0: "1", 1: "1"}
    after = agent.get_worker_group()
    assert (after.state, [one.id for one in after.workers]) == (WorkerState.SUCCEEDED, [None, None])
    assert group.state is WorkerState.HEALTHY


async def test_an_agent_may_run_again_but_not_twice_at_once(tmp_path: Path) -> None:
    agent = LocalElasticAgent(spec(jobs.give))
    first = asyncio.create_task(agent.run())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="runs already"):
        await agent.run()
    assert (await first).return_values == (await agent.run()).return_values


# ---- stopping


async def test_a_cancellation_stops_the_workers_first(tmp_path: Path) -> None:
    agent = LocalElasticAgent(spec(jobs.say_and_wait, str(tmp_path)))
    task = asyncio.create_task(agent.run())
    await until(lambda: len(list(tmp_path.glob("up*"))) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(path.name for path in tmp_path.glob("told*")) == ["told0", "told1"]
    assert agent.get_worker_group().state is WorkerState.STOPPED


async def test_a_second_cancellation_does_not_wait_for_what_ignores_sigterm(tmp_path: Path) -> None:
    task = asyncio.create_task(LocalElasticAgent(spec(jobs.ignore_and_wait, str(tmp_path))).run())
    await until(lambda: len([path for path in tmp_path.glob("up*") if path.read_text()]) == 2)
    pids = [int(path.read_text()) for path in tmp_path.glob("up*")]
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(45):
            await task
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_timeout_of_the_callers_is_a_cancellation(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(LocalElasticAgent(spec(jobs.wait)).run(), 0.5)


# ---- output


async def test_output_goes_where_logs_specs_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs = LogsSpecs(str(tmp_path), redirects={0: 3}, tee={1: 3})
    await run(spec(jobs.talk), logs, log_line_prefix_template="<${rank}> ")
    texts = {path.name: path.read_text() for path in tmp_path.rglob("1/*.log")}
    assert texts == {"stdout.log": "out 1\n", "stderr.log": "err 1\n"}
    assert {path.read_text() for path in tmp_path.rglob("0/*.log")} == {"out 0\n", "err 0\n"}
    assert capfd.readouterr() == ("<1> out 1\n", "<1> err 1\n")


@pytest.mark.parametrize(("redirects", "tee"), [(3, 0), (0, 3)])
async def test_what_python_c_and_children_say_is_all_captured(redirects: int, tee: int, tmp_path: Path) -> None:
    await run(spec(jobs.say_in_three_ways, workers=1), LogsSpecs(str(tmp_path), redirects=redirects, tee=tee))
    texts = {path.name: path.read_text() for path in tmp_path.rglob("*.log")}
    assert texts == {"stdout.log": "of Python\nof C\nof a child\n", "stderr.log": "error of a child\n"}


async def test_of_32_ranks_every_line_is_on_the_console_with_its_prefix(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Torch's ``test_tail``."""
    logs = LogsSpecs(str(tmp_path), tee=1)
    await run(spec(jobs.count_to, 1000, workers=32), logs, log_line_prefix_template="[${role_name}${local_rank}]:")
    lines = capfd.readouterr().out.splitlines()
    assert sorted(lines) == sorted(f"[trainer{rank}]:line {number}" for rank in range(32) for number in range(1000))


async def test_of_half_a_million_lines_none_is_lost(tmp_path: Path) -> None:
    await run(spec(jobs.count_to, 500_000, workers=1), LogsSpecs(str(tmp_path), tee=1), log_line_prefix_template="")
    (log,) = tmp_path.rglob("stdout.log")
    assert log.read_text().splitlines() == [f"line {number}" for number in range(500_000)]


@dataclass
class Flat:
    """As torch's ``LogsSpecs``: all files of an attempt in one directory."""

    directory: Path
    wrong: str = ""

    def reify(self, envs: dict[int, dict[str, str]]) -> SimpleNamespace:
        if self.wrong:
            raise RuntimeError(self.wrong)
        attempt = envs[0]["TORCHELASTIC_RESTART_COUNT"]

        def files(name: str) -> dict[int, str]:
            return {rank: f"{self.directory}/{attempt}-{envs[rank]['RANK']}.{name}" for rank in envs}

        out, err = files("out"), files("err")
        return SimpleNamespace(stdouts=out, stderrs=err, tee_stdouts={1: out[1]}, error_files=files("error"))


async def test_output_goes_where_anothers_specs_say(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    await run(spec(jobs.talk), Flat(tmp_path), log_line_prefix_template="<${rank}> ")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"0-0.out": "out 0\n", "0-1.out": "out 1\n", "0-0.err": "err 0\n", "0-1.err": "err 1\n"}
    assert capfd.readouterr() == ("<1> out 1\n", "")


async def test_a_failure_is_read_from_the_file_that_anothers_specs_say(tmp_path: Path) -> None:
    result = await run(spec(jobs.fail, "no luck", 1, workers=3), Flat(tmp_path))
    failure = result.failures[1]
    assert failure.error_file == f"{tmp_path}/0-1.error"
    assert "no luck" in failure.message


async def test_anothers_specs_that_fail_are_the_reason(tmp_path: Path) -> None:
    result = await run(spec(jobs.talk, max_restarts=0), Flat(tmp_path, "disk quota"))
    assert result.is_failed()
    assert "Flat: disk quota" in result.reason


async def test_otherwise_output_is_the_callers(capfd: pytest.CaptureFixture[str]) -> None:
    await run(spec(jobs.talk, workers=1))
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


# ---- what is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"local_world_size": 0}, "local_world_size must be at least 1"),
        ({"entrypoint": None}, "entrypoint must be a function or a program"),
        ({"entrypoint": ""}, "entrypoint must be a function or a program"),
        ({"max_restarts": -2}, "max_restarts must be at least -1"),
        ({"monitor_interval": 0}, "monitor_interval must be positive"),
        ({"rdzv_handler": object()}, "need no rendezvous"),
        ({"numa_options": object()}, "resources.numa"),
        ({"event_log_handler": "console"}, "events are the daemon's"),
        ({"args": {0: ()}}, "args by local rank must be those of 0 to 1"),
    ],
)
def test_what_a_spec_cannot_have_is_said(settings: dict[str, Any], words: str) -> None:
    most: dict[str, Any] = {"role": "r", "local_world_size": 2, "entrypoint": "true"}
    with pytest.raises(ValueError, match=words):
        WorkerSpec(**most | settings)


def test_a_spec_knows_its_entrypoint_by_name() -> None:
    assert WorkerSpec("r", 1, fn=jobs.give).get_entrypoint_name() == "give"
    assert WorkerSpec("r", 1, entrypoint="/bin/true").get_entrypoint_name() == "true"


def test_functions_are_never_run_in_a_fork() -> None:
    with pytest.raises(ValueError, match="fresh interpreter"):
        LocalElasticAgent(spec("true"), start_method="fork")
    with pytest.raises(ValueError, match="must not be negative"):
        LocalElasticAgent(spec("true"), shutdown_timeout=-1)


def test_specs_of_logs_that_cannot_be_asked_are_refused_rather_than_passed_over() -> None:
    others: Any = argparse.Namespace(log_dir="logs")
    with pytest.raises(TypeError, match=r"or have torch's reify, which argparse\.Namespace has not"):
        LocalElasticAgent(spec("true"), others)


@pytest.mark.parametrize("name", UNHEEDED)
def test_what_is_asked_for_in_the_environment_and_cannot_be_had_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.warns(RuntimeWarning, match=f"{name} is heeded by rankd launch, not by the library"):
        LocalElasticAgent(spec("true"))


async def test_in_a_running_loop_it_does_not_block() -> None:
    agent = LocalElasticAgent(spec("true"))
    asked = agent.run()
    with pytest.raises(RuntimeError, match="in a running event loop a run has to be awaited"):
        asked.is_failed()
    assert not (await asked).is_failed()
    assert not asked.is_failed()


async def test_where_sigchld_is_ignored_it_says_so() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(RuntimeError, match="SIGCHLD is ignored"):
            await run(spec("true"))
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_it_runs_beside_others_of_its_kind() -> None:
    results = await asyncio.gather(*(run(spec(jobs.give, number)) for number in range(3)))
    assert [result.return_values for result in results] == [{0: (0, n), 1: (1, n)} for n in range(3)]


def test_it_runs_in_a_loop_of_another_thread() -> None:
    found: list[RunResult] = []
    thread = threading.Thread(target=lambda: found.append(LocalElasticAgent(spec(jobs.give)).run_sync()))
    thread.start()
    thread.join(30)
    assert found[0].return_values == {0: (0,), 1: (1,)}


async def test_a_bug_of_ours_kills_the_workers_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Supervision, event: Event) -> None:
        if event.name == "group.started":
            raise ZeroDivisionError("one of ours")

    monkeypatch.setattr(Supervision, "_tell", broken)
    agent = LocalElasticAgent(spec(jobs.wait))
    with pytest.raises(SupervisorBug, match="a bug in rankd itself: ZeroDivisionError\\('one of ours'\\)"):
        await agent.run()
    assert agent.get_worker_group().state is WorkerState.UNKNOWN
