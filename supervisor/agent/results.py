"""What has come of a run, and how it stands meanwhile, in torch's words."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from supervisor.core.events import Event, signal_name
from supervisor.core.messages import ExitStatus
from supervisor.core.state import Group, Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.agent.spec import WorkerSpec


class WorkerState(str, Enum):  # noqa: UP042 - torch's, whose str() is WorkerState.HEALTHY
    """A group's state (torch.distributed.elastic.agent.server.api, ``WorkerState``).

    INIT: not started yet; HEALTHY: every worker runs; UNHEALTHY: one has failed, and the others are being stopped;
    STOPPED: none runs, and they are about to start again, or were told to stop; UNKNOWN: a bug of ours.
    """

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Whether there are processes, healthy or not."""
        return state in {WorkerState.HEALTHY, WorkerState.UNHEALTHY}


@dataclass(frozen=True)
class ProcessFailure:
    """How one worker has failed (torch.distributed.elastic.multiprocessing.errors, ``ProcessFailure``).

    ``exitcode`` is negative for a signal. ``pid`` is -1 for a worker that never ran. ``error_file`` is ``<N/A>`` when
    there is none; ``message`` is its traceback, else as much as is known. ``timestamp`` in seconds since the epoch.
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    message: str
    timestamp: int

    def signal_name(self) -> str:
        """The signal that it died of, or ``<N/A>``."""
        return signal_name(-self.exitcode) if self.exitcode < 0 else "<N/A>"

    def timestamp_isoformat(self) -> str:
        """In local time, as torch prints it: ``2026-11-22_12:00:55``."""
        return datetime.fromtimestamp(self.timestamp).astimezone().replace(tzinfo=None).isoformat(sep="_")


@dataclass(frozen=True)
class RunResult:
    """What has come of it, by global rank. ``reason`` says in a sentence why it has ended so.

    Workers that were only stopped because another had failed are neither in ``return_values`` nor in ``failures``.
    """

    state: WorkerState
    return_values: Mapping[int, Any] = field(default_factory=dict)
    failures: Mapping[int, ProcessFailure] = field(default_factory=dict)
    reason: str = ""

    def is_failed(self) -> bool:
        return self.state is WorkerState.FAILED


class Run(Coroutine[Any, Any, RunResult]):
    """A run that was asked for: to be awaited; or, where no loop runs, looked at like its result, which waits for it.

    So ``await agent.run()`` is what it says, and a program written for torch, where ``run`` blocks, works as it is.
    """

    def __init__(
        self, run: Coroutine[Any, Any, RunResult], block: Callable[[Coroutine[Any, Any, RunResult]], RunResult]
    ) -> None:
        self._run = run
        self._block = block
        self._result: RunResult | None = None

    def __await__(self) -> Generator[Any, Any, RunResult]:
        self._result = yield from self._run.__await__()
        return self._result

    def send(self, value: Any) -> Any:
        return self._run.send(value)

    def throw(self, *error: Any) -> Any:
        return self._run.throw(*error)

    def close(self) -> None:
        self._run.close()

    def result(self) -> RunResult:
        """What has come of it, waited for if need be. Raises ``RuntimeError`` in a running loop: await it there."""
        if self._result is None:
            self._result = self._block(self._run)
        return self._result

    def is_failed(self) -> bool:
        return self.result().is_failed()

    @property
    def state(self) -> WorkerState:
        return self.result().state

    @property
    def return_values(self) -> Mapping[int, Any]:
        return self.result().return_values

    @property
    def failures(self) -> Mapping[int, ProcessFailure]:
        return self.result().failures


@dataclass(frozen=True)
class Worker:
    """One worker as it stands. ``id`` is its pid, None while it does not run; ranks are -1 before they are known."""

    id: int | None
    local_rank: int
    global_rank: int = -1
    role_rank: int = -1
    world_size: int = -1
    role_world_size: int = -1


@dataclass(frozen=True)
class WorkerGroup:
    """The group as it stood when it was asked for; a copy, which does not change."""

    spec: WorkerSpec
    workers: tuple[Worker, ...]
    state: WorkerState = WorkerState.INIT
    group_rank: int | None = None
    group_world_size: int | None = None
    master_addr: str | None = None
    master_port: int | None = None


def worker_group(spec: WorkerSpec, group: Group | None) -> WorkerGroup:
    """How the group stands; None: it has not been started yet."""
    ranks = range(spec.local_world_size)
    world = group.world if group is not None else None
    if group is None or world is None:
        return WorkerGroup(spec, tuple(Worker(None, rank) for rank in ranks), state_of(group))
    slots = [group.live.get(rank) for rank in ranks]
    workers = tuple(
        Worker(
            slot.pid if slot is not None and slot.status is None else None,
            rank,
            world.base_rank + rank,
            world.base_role_rank + rank,
            world.world_size,
            world.role_world_size,
        )
        for rank, slot in zip(ranks, slots, strict=True)
    )
    return WorkerGroup(
        spec, workers, state_of(group), world.group_rank, world.group_world_size, world.master_addr, world.master_port
    )


_OUTCOMES = {"succeeded": WorkerState.SUCCEEDED, "failed": WorkerState.FAILED, "stopped": WorkerState.STOPPED}


def state_of(group: Group | None) -> WorkerState:
    """A group's phase in torch's words."""
    if group is None or group.phase is Phase.WAITING:
        return WorkerState.INIT
    match group.phase:
        case Phase.STARTING:
            return WorkerState.STOPPED if group.history.used else WorkerState.INIT
        case Phase.RUNNING:
            return WorkerState.HEALTHY
        case Phase.STOPPING:
            return WorkerState.UNHEALTHY
        case Phase.BACKING_OFF:
            return WorkerState.STOPPED
        case _:
            return _OUTCOMES[group.verdict.outcome] if group.verdict is not None else WorkerState.UNKNOWN


def failure_of(failed: Event, status: ExitStatus | None, error_file: str, seconds: int) -> ProcessFailure:
    """The event ``worker.failed`` as torch would tell it; ``seconds``: when, since the epoch."""
    fields = failed.fields
    pid, signal = fields.get("pid", -1), status.signal if status is not None else None
    said = fields.get("traceback") or fields.get("error")
    died = fields["reason"] if signal is None else f"Signal {signal} ({signal_name(signal)}) received by PID {pid}"
    return ProcessFailure(
        local_rank=fields["local_rank"],
        pid=pid,
        exitcode=fields.get("exit_code", 1) if signal is None else -signal,
        error_file=error_file if said else "<N/A>",
        message=said or died,
        timestamp=fields.get("error_timestamp", seconds),
    )
