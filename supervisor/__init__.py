"""rankd: a supervisor for groups of ranked worker processes, run as a service, or from a program of one's own.

``LocalElasticAgent``, ``WorkerSpec`` and what belongs to them are in ``supervisor.agent``, which is loaded when the
first of them is asked for: workers import ``supervisor.worker``, and are to pay for no more.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from supervisor.agent import (
        LocalElasticAgent,
        LogsSpecs,
        ProcessFailure,
        RunResult,
        WorkerGroup,
        WorkerSpec,
        WorkerState,
    )

__all__ = [
    "LocalElasticAgent",
    "LogsSpecs",
    "ProcessFailure",
    "RunResult",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        import importlib  # noqa: PLC0415

        return getattr(importlib.import_module("supervisor.agent"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
