"""What is to run, in torch's words, and the plan that it becomes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supervisor.plan import Backoff, DaemonPlan, GroupPlan, LogRules, RestartRules, Rung, StopRules, Streams

MASTER_ADDR = "127.0.0.1"
LOCAL_RANK = "${local_rank}"
LAST_WAIT = 10.0
"""Seconds that workers may take to be gone after SIGKILL."""


@dataclass
class WorkerSpec:
    """A group of workers on this host (torch.distributed.elastic.agent.server.api, ``WorkerSpec``).

    ``entrypoint`` is a function, or a program by path or name; ``fn`` is its old name for functions. A function has to
    be picklable, and is called in a fresh interpreter. ``args`` are for all workers, or by local rank, and
    ``${local_rank}`` in a text among them is replaced. ``max_restarts`` -1: no limit. ``monitor_interval`` is accepted,
    though nothing is polled: an end is known at once. Refused with ``ValueError``: what a single host has no use for
    (``rdzv_handler``), and what only the daemon does (``event_log_handler``, ``numa_options``).
    """

    role: str
    local_world_size: int
    rdzv_handler: None = None
    fn: Callable[..., Any] | None = None
    entrypoint: Callable[..., Any] | str | None = None
    args: Sequence[Any] | Mapping[int, Sequence[Any]] = ()
    max_restarts: int = 3
    monitor_interval: float = 0.1
    master_port: int | None = None
    master_addr: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: None = None
    duplicate_stdout_filters: Sequence[str] | None = None
    duplicate_stderr_filters: Sequence[str] | None = None
    virtual_local_rank: bool = False

    def __post_init__(self) -> None:
        self.entrypoint = self.fn or self.entrypoint
        refusals = {
            "local_world_size must be at least 1": self.local_world_size < 1,
            "entrypoint must be a function or a program": not (
                callable(self.entrypoint) or (isinstance(self.entrypoint, str) and self.entrypoint)
            ),
            "max_restarts must be at least -1": self.max_restarts < -1,
            "monitor_interval must be positive": self.monitor_interval <= 0,
            "rdzv_handler: workers of one host need no rendezvous; leave it out": self.rdzv_handler is not None,
            "numa_options: binding to CPUs is the daemon's: see resources.numa of rankd": self.numa_options is not None,
            'event_log_handler must be "null": events are the daemon\'s': self.event_log_handler != "null",
        }
        for words, refused in refusals.items():
            if refused:
                raise ValueError(words)
        if isinstance(self.args, Mapping) and self.args.keys() != set(range(self.local_world_size)):
            raise ValueError(f"args by local rank must be those of 0 to {self.local_world_size - 1}")

    def get_entrypoint_name(self) -> str:
        """The program's file name, or the function's qualified name."""
        if isinstance(self.entrypoint, str):
            return os.path.basename(self.entrypoint)
        return str(getattr(self.entrypoint, "__qualname__", self.entrypoint))

    def args_of(self, local_rank: int) -> tuple[Any, ...]:
        """That worker's arguments, ``${local_rank}`` replaced."""
        args = self.args[local_rank] if isinstance(self.args, Mapping) else self.args
        return tuple(one.replace(LOCAL_RANK, str(local_rank)) if isinstance(one, str) else one for one in args)


@dataclass(frozen=True)
class LogsSpecs:
    """Where output goes (torch.distributed.elastic.multiprocessing.api, ``DefaultLogsSpecs``).

    ``redirects`` and ``tee``: 1 stdout, 2 stderr, 3 both, for all or by local rank; neither: the caller's own stdout
    and stderr. Without ``log_dir`` it is a new directory in the temporary one; what stays empty of it is removed.
    """

    log_dir: str | None = None
    redirects: int | Mapping[int, int] = 0
    tee: int | Mapping[int, int] = 0
    local_ranks_filter: Collection[int] | None = None


def plan_of(spec: WorkerSpec, logs: LogsSpecs, prefix: str | None, grace: float, directory: str) -> DaemonPlan:
    """The plan of just this group. ``grace``: seconds between SIGTERM and SIGKILL; ``directory`` is absolute."""
    rules = LogRules(
        directory,
        redirects=_streams(logs.redirects),
        tee=_streams(logs.tee),
        local_ranks_filter=frozenset(logs.local_ranks_filter or ()),
        duplicate_stdout_filters=tuple(spec.duplicate_stdout_filters or ()),
        duplicate_stderr_filters=tuple(spec.duplicate_stderr_filters or ()),
    )
    if prefix is not None:
        rules = replace(rules, prefix=prefix)
    group = GroupPlan(
        name=re.sub(r"[^\w.-]", "_", spec.role) or "workers",
        command=(),
        workers=spec.local_world_size,
        role=spec.role,
        logs=rules,
        virtual_local_rank=spec.virtual_local_rank,
        master_port=spec.master_port or 0,
        restart=RestartRules(max_restarts=spec.max_restarts, backoff=Backoff()),
        stop=StopRules((Rung(15, grace), Rung(9, LAST_WAIT))),
    )
    return DaemonPlan(
        name="rankd",
        node_id=os.uname().nodename,
        run_id=os.urandom(6).hex(),
        state_dir=directory,
        runtime_dir=directory,
        groups={group.name: group},
        listen=(),
    )


def _streams(given: int | Mapping[int, int]) -> Streams:
    if isinstance(given, Mapping):
        return Streams(0, {rank: int(bits) for rank, bits in given.items()})
    return Streams(int(given))
