"""The library: a group of workers, supervised from inside somebody else's program.

Names and meanings are those of torch.distributed.elastic.agent.server. It is the daemon's own core and hands, without
what a daemon does to its process: no signal handlers, no subreaper, no control groups, no thread, no record on stdout.
"""

from supervisor.agent.local import LocalElasticAgent
from supervisor.agent.results import ProcessFailure, RunResult, WorkerGroup, WorkerState
from supervisor.agent.spec import LogsSpecs, WorkerSpec

__all__ = [
    "LocalElasticAgent",
    "LogsSpecs",
    "ProcessFailure",
    "RunResult",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
]
