"""Commands that are asked whether a worker is well: each runs as a worker does, contained like one, and no longer."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import replace
from signal import SIGKILL

import anyio

from supervisor.core.events import how_it_ended
from supervisor.core.messages import (
    Input,
    StraysFound,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
)
from supervisor.host.ask import Answer, too_late
from supervisor.host.containment import Sessions
from supervisor.host.process import Processes
from supervisor.host.spawn import Spawner
from supervisor.host.tail import LastBlocks, last_lines
from supervisor.plan import WorkerPlan

DIES_WITHIN = 5.0
"""Seconds that a command which was killed may take to be gone, before it is called unkillable."""

BLOCK = 1 << 16
"""Bytes that are read of a command's output in one turn of the loop."""


class Output:
    """stdout and stderr of one command: its last lines are kept, the rest is read and forgotten. See ``Attached``."""

    def __init__(self) -> None:
        """Raises ``OSError``."""
        self._kept = LastBlocks()
        self._reader, self.stdout = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stderr = self.stdout
        try:
            self.stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self._reader)
            os.close(self.stdout)
            raise
        os.set_blocking(self.stdout, True)

    def started(self, pid: int) -> None:  # noqa: ARG002
        os.close(self.stdin)
        os.close(self.stdout)
        asyncio.get_running_loop().add_reader(self._reader, self._read)

    def abort(self) -> None:
        for fd in (self.stdin, self.stdout, self._reader):
            os.close(fd)
        self._reader = -1

    def drain(self) -> None:
        if self._reader >= 0:
            self._read()

    def stderr_tail(self) -> str:
        return last_lines(self._kept.end())

    def close(self) -> None:
        self.drain()
        self._end()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            block = os.read(self._reader, BLOCK)
            if block:
                self._kept.write(block)
            else:
                self._end()

    def _end(self) -> None:
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1


class _Run:
    """One run of a command. ``over`` is set once its own process has ended or never was, ``gone`` once all of it is."""

    def __init__(self, group: str, worker: Worker) -> None:
        self.group = group
        self.worker = worker
        self.output: Output | None = None
        self.answer = Answer(None)
        self.over = anyio.Event()
        self.gone = anyio.Event()


class Commands:
    """Runs the commands of all probes. Lives in one event loop; has to be closed, when nobody asks any more."""

    def __init__(self, containment: Sessions, spawner: Spawner) -> None:
        """``spawner`` is the workers' own: it knows when their limits and directories may be borrowed."""
        self._processes = Processes(self._hear, self, containment, spawner)
        self._runs: dict[int, _Run] = {}
        self._stuck: dict[tuple[str, int], _Run] = {}
        self._opening: _Run | None = None
        self._number = 0

    async def ask(self, group: str, plan: WorkerPlan) -> Answer:
        """What the command of the worker's probe says; when this returns, or is cancelled, all of it is gone."""
        assert plan.probe is not None
        stuck = self._stuck.pop((group, plan.local_rank), None)
        if stuck is not None and not stuck.gone.is_set():
            self._stuck[group, plan.local_rank] = stuck
            return Answer(False, "the command that was asked last cannot be killed", self._remains(stuck))
        run = self._start(group, plan)
        try:
            with anyio.move_on_after(plan.probe.timeout) as scope:
                await run.over.wait()
            answer = run.answer if run.over.is_set() else too_late(scope, plan.probe.timeout)
        finally:
            await self._end(run)
        return answer if run.output is None else answer._replace(output=run.output.stderr_tail())

    def on_sigchld(self) -> None:
        """For the daemon's signal door: see ``Processes``."""
        self._processes.on_sigchld()

    def close(self) -> None:
        """Watch no more."""
        self._processes.close()

    def attach(self, plan: WorkerPlan) -> Output:  # noqa: ARG002
        """For ``Processes``: the output of the command that is being started."""
        assert self._opening is not None
        self._opening.output = output = Output()
        return output

    def _start(self, group: str, plan: WorkerPlan) -> _Run:
        assert plan.probe is not None
        # Its failures are no failures of the worker's.
        env = {name: value for name, value in plan.env.items() if name != "TORCHELASTIC_ERROR_FILE"}
        command = replace(plan, argv=plan.probe.exec, env=env, probe=None)
        self._number += 1
        # "+" is in no group's name: its control group is not taken for a worker's.
        run = self._opening = self._runs[self._number] = _Run(f"{group}+probe", Worker(plan.local_rank, self._number))
        self._processes.start_now(run.group, run.worker, lambda: command)
        self._opening = None
        return run

    async def _end(self, run: _Run) -> None:
        if not run.over.is_set():
            self._kill(run)
        with anyio.move_on_after(DIES_WITHIN, shield=True):
            await run.gone.wait()
        if not run.gone.is_set():
            self._stuck[run.group.removesuffix("+probe"), run.worker.rank] = run

    def _kill(self, run: _Run) -> None:
        self._processes.signal(run.group, [run.worker], SIGKILL, "tree")

    def _remains(self, run: _Run) -> str:
        return self._processes.remains(run.group, run.worker)

    def _hear(self, _group: str, input: Input) -> None:
        match input:
            case WorkerNotStarted(worker, fault, reason):
                run = self._runs.pop(worker.attempt)
                run.answer = Answer(False if fault == "permanent" else None, reason)
                run.over.set()
                run.gone.set()
            case WorkerExited(worker, status):
                run = self._runs[worker.attempt]
                run.answer = Answer(status.code == 0, how_it_ended(status, evidence=input.evidence))
                run.over.set()
            case StraysFound(worker):
                self._kill(self._runs[worker.attempt])
            case WorkerGone(worker):
                self._runs.pop(worker.attempt).gone.set()
