"""``LocalElasticAgent``: supervises the workers of one spec from inside the caller's program."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

from supervisor.agent.results import Run, RunResult, WorkerGroup, WorkerState, state_of, worker_group
from supervisor.agent.spec import LogsSpecs, WorkerSpec, plan_of
from supervisor.agent.supervision import Supervision
from supervisor.core.state import Group
from supervisor.errors import SupervisorBug
from supervisor.host.signals import signal_door
from supervisor.logs_dest import Reifies

UNHEEDED = (
    "TORCHELASTIC_ENABLE_FILE_TIMER", "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", "TORCHELASTIC_HEALTH_CHECK_PORT"
)  # fmt: skip
"""What torch's agent reads in the environment and a guest in somebody's loop does not watch over."""

TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program that does not care; Ctrl-C is asyncio's."""


class LocalElasticAgent:
    """Starts the workers of a spec, restarts them when one fails, and says what has come of it.

    Torch's contract (torch.distributed.elastic.agent.server.local_elastic_agent) for one host, without torch: what
    workers see, all restart when one fails, error files, return values. ``await agent.run()`` in a running loop of
    asyncio, ``agent.run_sync()`` elsewhere. It supervises until its own process ends: what is to outlive or to
    follow that is a job for ``rankd run``.

    In the loop it is a guest: it installs no signal handler, starts no thread, waits for no child but its own, and when
    it is done nothing of it is left; but of a worker, what has left its session, lost its parent and written over its
    environment is not found. Once ended, an agent may run again.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs | Reifies | str | None = None,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300,
        log_line_prefix_template: str | None = None,
        shutdown_timeout: float = 30,
    ) -> None:
        """``shutdown_timeout``: seconds between SIGTERM and SIGKILL. ``exit_barrier_timeout``: accepted; on one host
        nobody has to be waited for.

        A text in second place is the start method, as in the example of torch's own docstring. Raises ``ValueError``
        for any other than "spawn": a fork of a program with a loop and threads is not to be run on. Another's specs of
        logs, torch's own included, are asked at each attempt, in the loop's thread, where output goes; ``TypeError``
        for what cannot be asked. Warns of variables that ask for torch's watchdog or health check: there is none here.
        """
        if isinstance(logs_specs, str):
            start_method = logs_specs
        for name in UNHEEDED:
            if os.environ.get(name, "0") not in ("", "0"):
                warnings.warn(f"{name} is heeded by rankd launch, not by the library", RuntimeWarning, stacklevel=2)
        if start_method != "spawn":
            raise ValueError(f'start_method {start_method!r}: functions run in a fresh interpreter ("spawn") only')
        if shutdown_timeout < 0 or exit_barrier_timeout < 0:
            raise ValueError("a timeout must not be negative")
        self._spec = spec
        self._logs, self._specs = _logs(None if isinstance(logs_specs, str) else logs_specs)
        self._prefix = log_line_prefix_template
        self._grace = shutdown_timeout
        self._supervision: Supervision | None = None
        self._last: Group | None = None
        self._lost = False

    def run(self, role: str = "default") -> Run:  # noqa: ARG002 - torch's: there is one role
        """Supervise to the end; a cancellation stops the workers first. To be awaited: see ``Run``.

        Raises what pickling the function and its arguments raises; ``RuntimeError`` if it runs already, for a SIGCHLD
        that is ignored, and for a return value that cannot be unpickled; ``OSError`` for the log directory;
        ``SupervisorBug``. That workers fail is no exception: see ``RunResult``.
        """
        return Run(self._run(), _block)

    def run_sync(self) -> RunResult:
        """``run``, in a loop of its own. In the main thread, a signal that would end this program ends the workers
        before it does so. Raises ``RuntimeError`` in a running loop."""
        return self.run().result()

    def get_worker_group(self, role: str = "default") -> WorkerGroup:  # noqa: ARG002
        """The group as it stands at this moment."""
        group = self._supervision.group if self._supervision is not None else self._last
        stands = worker_group(self._spec, group)
        return replace(stands, state=WorkerState.UNKNOWN) if self._lost else stands

    async def _run(self) -> RunResult:
        if self._supervision is not None:
            raise RuntimeError("this agent runs already")
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            raise RuntimeError("SIGCHLD is ignored in this process: nobody could learn how a worker has ended")
        with _directory(self._logs.log_dir) as directory:
            plan = plan_of(self._spec, self._logs, self._prefix, self._grace, directory)
            supervision = self._supervision = Supervision(self._spec, plan, self._specs)
            try:
                values = await supervision.supervise()
            except SupervisorBug:
                self._lost = True
                raise
            finally:
                self._last, self._supervision = supervision.group, None
        state, reason = state_of(self._last), self._last.why
        if state is WorkerState.SUCCEEDED:
            return RunResult(state, return_values=values, reason=reason)
        return RunResult(state, failures=supervision.failures(), reason=reason)


def _logs(given: LogsSpecs | Reifies | None) -> tuple[LogsSpecs, Reifies | None]:
    """Ours, and another's."""
    if given is None or isinstance(given, LogsSpecs):
        return given or LogsSpecs(), None
    if not callable(getattr(given, "reify", None)):
        kind = f"{type(given).__module__}.{type(given).__qualname__}"
        raise TypeError(f"logs_specs must be a supervisor.LogsSpecs, or have torch's reify, which {kind} has not")
    return LogsSpecs(), given


def _block(run: Coroutine[Any, Any, RunResult]) -> RunResult:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_ended_first(run))
    raise RuntimeError("in a running event loop a run has to be awaited")


async def _ended_first(run: Coroutine[Any, Any, RunResult]) -> RunResult:
    """The run; a signal that would end this program waits until the workers are gone, and ends it then."""
    task = asyncio.current_task()
    assert task is not None
    came: list[int] = []

    def ask(number: int) -> None:
        came.append(number)
        task.cancel()

    in_main = threading.current_thread() is threading.main_thread()
    caught = [number for number in TERMINATING if in_main and signal.getsignal(number) is signal.SIG_DFL]
    try:
        with signal_door({number: partial(ask, number) for number in caught}) if caught else nullcontext():
            return await run
    finally:
        if came:
            signal.raise_signal(came[0])


@contextmanager
def _directory(given: str | None) -> Iterator[str]:
    """The absolute path of the log directory, made if need be. Of a temporary one what is empty is removed: what a
    worker has left is for somebody to read. Raises ``OSError``."""
    if given is not None:
        os.makedirs(given, exist_ok=True)
        yield os.path.abspath(given)
        return
    directory = tempfile.mkdtemp(prefix="rankd_")
    try:
        yield directory
    finally:
        for path, _, _ in os.walk(directory, topdown=False):
            with suppress(OSError):
                os.rmdir(path)
