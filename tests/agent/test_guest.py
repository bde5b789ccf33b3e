"""The library is a guest in its caller's process: whatever it finds there is as before when it has gone."""

# ruff: noqa: ASYNC220, ASYNC222 - the loop is ours alone

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import supervisor
from supervisor import LocalElasticAgent, WorkerSpec
from supervisor.host.proc import read_process
from tests.agent import jobs
from tests.conftest import children

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = sorted(signal.valid_signals())
PR_GET_CHILD_SUBREAPER = 37
Run = Callable[[], Awaitable[None]]


async def success() -> None:
    assert not (await LocalElasticAgent(WorkerSpec("r", 2, entrypoint=jobs.give)).run()).is_failed()


async def failure() -> None:
    spec = WorkerSpec("r", 2, entrypoint=jobs.fail, args=("no", 0), max_restarts=1)
    assert (await LocalElasticAgent(spec).run()).is_failed()


async def cancellation() -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(LocalElasticAgent(WorkerSpec("r", 2, entrypoint=jobs.wait)).run(), 0.3)


async def mistake() -> None:
    with pytest.raises((AttributeError, TypeError)):
        await LocalElasticAgent(WorkerSpec("r", 2, entrypoint=lambda: None)).run()


RUNS = pytest.mark.parametrize("run", [success, failure, cancellation, mistake])


def is_subreaper() -> int:
    found = ctypes.c_int(-1)
    assert ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) == 0
    return found.value


@RUNS
async def test_signal_handlers_and_mask_are_never_touched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*words: object) -> None:
        raise AssertionError(f"a guest does not do this: {words}")

    before = [signal.getsignal(number) for number in SIGNALS]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with monkeypatch.context() as patched:  # undone at a failure as well: pytest's own alarm needs them
        for name in ("signal", "set_wakeup_fd", "siginterrupt"):
            patched.setattr(signal, name, touched)
        await run()
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


@RUNS
async def test_no_task_is_left(run: Run) -> None:
    before = asyncio.all_tasks()
    await run()
    assert asyncio.all_tasks() == before


@RUNS
async def test_no_thread_is_ever_started(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", started.append)
    await run()
    assert started == []


@RUNS
async def test_no_child_and_no_descriptor_is_left(run: Run) -> None:
    await run()  # what the first run of all loads stays open, such as /dev/urandom
    before = children(), set(os.listdir("/proc/self/fd"))
    await run()
    gc.collect()
    assert (children(), set(os.listdir("/proc/self/fd"))) == before


@RUNS
async def test_what_else_belongs_to_the_process_is_as_before(run: Run) -> None:
    def all_of_it() -> tuple[object, ...]:
        return (
            is_subreaper(),
            os.getcwd(),
            dict(os.environ),
            resource.getrlimit(resource.RLIMIT_NOFILE),
            Path("/proc/self/cgroup").read_text(),
            asyncio.get_running_loop().get_exception_handler(),
            list(sys.path),
            [os.get_blocking(fd) for fd in (0, 1, 2)],
            gc.get_freeze_count(),
        )

    before = all_of_it()
    await run()
    assert all_of_it() == before


async def test_it_is_no_subreaper_meanwhile_either(tmp_path: Path) -> None:
    task = asyncio.create_task(
        LocalElasticAgent(WorkerSpec("r", 1, entrypoint=jobs.say_and_wait, args=(str(tmp_path),))).run()
    )
    async with asyncio.timeout(45):
        while not (tmp_path / "up0").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert is_subreaper() == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_callers_own_children_are_the_callers_to_wait_for() -> None:
    """Also such as lead a session of their own, which end while ours do."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"], start_new_session=True)
    other = await asyncio.create_subprocess_exec("sh", "-c", "exit 5", start_new_session=True)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    await failure()
    assert child.wait() == 7
    assert await other.wait() == 5


async def test_what_a_worker_leaves_behind_is_gone_as_well(tmp_path: Path) -> None:
    """It has neither its session nor its parent, and the worker ends well: the stop ladder is for it alone."""
    spec = WorkerSpec("r", 1, entrypoint=jobs.leave_a_daemon, args=(str(tmp_path),), max_restarts=0)
    async with asyncio.timeout(30):
        result = await LocalElasticAgent(spec, shutdown_timeout=0.2).run()
    assert result.return_values == {0: 0}
    left = read_process(int((tmp_path / "pid").read_text()))
    assert left is None or left.dead


def script(text: str, path: Path) -> subprocess.Popen[str]:
    path.write_text(textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_example_of_torchs_docstring_works_with_imports_changed(tmp_path: Path) -> None:
    """torch.distributed.elastic.agent.server.LocalElasticAgent: functions of the script itself, and a program."""
    program = tmp_path / "trainer"
    program.write_text('#!/bin/sh\necho "$RANK: $*"\n')
    program.chmod(0o755)
    running = script(
        f"""
        import multiprocessing
        from supervisor import LocalElasticAgent, WorkerSpec

        nproc_per_process = 2

        def trainer(args) -> str:
            return "do train"

        def main():
            start_method="spawn"
            shared_queue= multiprocessing.get_context(start_method).Queue()
            spec = WorkerSpec(
                        role="trainer",
                        local_world_size=nproc_per_process,
                        entrypoint=trainer,
                        args=("foobar",))
            agent = LocalElasticAgent(spec, start_method)
            results = agent.run()

            if results.is_failed():
                print("trainer failed")
            else:
                print(f"rank 0 return value: {{results.return_values[0]}}")

        def main_binary():
            spec = WorkerSpec(
                        role="trainer",
                        local_world_size=nproc_per_process,
                        entrypoint={str(program)!r},
                        args=("--trainer-args", "foobar"))
            agent = LocalElasticAgent(spec)
            results = agent.run()

            if not results.is_failed():
                print("binary launches do not have return values")

        if __name__ == "__main__":
            main()
            main_binary()
        """,
        tmp_path / "script.py",
    )
    out, err = running.communicate(timeout=40)
    assert (running.returncode, err) == (0, "")
    assert sorted(out.splitlines()) == [
        "0: --trainer-args foobar",
        "1: --trainer-args foobar",
        "binary launches do not have return values",
        "rank 0 return value: do train",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_the_program_ends_its_workers_first(tmp_path: Path, number: signal.Signals) -> None:
    running = script(
        f"""
        from supervisor import LocalElasticAgent, WorkerSpec
        from tests.agent.jobs import say_and_wait
        if __name__ == "__main__":
            LocalElasticAgent(WorkerSpec("r", 2, entrypoint=say_and_wait, args=({str(tmp_path)!r},))).run_sync()
        """,
        tmp_path / "script.py",
    )
    pause = threading.Event()
    while len([path for path in tmp_path.glob("up*") if path.read_text()]) < 2:
        assert running.poll() is None
        pause.wait(0.01)
    running.send_signal(number)
    running.communicate(timeout=30)
    assert running.returncode == -number
    assert sorted(path.name for path in tmp_path.glob("told*")) == ["told0", "told1"]


def test_importing_the_package_loads_no_more_than_itself() -> None:
    program = "import sys; before = set(sys.modules); import supervisor; print(sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=45, check=True
    )
    assert done.stdout == "['supervisor']\n"
    assert done.stderr == ""


def test_the_package_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="module 'supervisor' has no attribute 'Nothing'"):
        supervisor.Nothing  # noqa: B018
