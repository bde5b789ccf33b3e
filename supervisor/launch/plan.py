"""The parsed command line -> plan: one group, as torchrun would run it."""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from signal import SIGCHLD, SIGHUP, SIGKILL, SIGSTOP, SIGTERM
from string import Template
from typing import Literal, NamedTuple, TypeVar

from supervisor import values
from supervisor.launch import refused
from supervisor.launch.devices import count_workers
from supervisor.launch.places import Places, keeps_logs
from supervisor.launch.rendezvous import meeting
from supervisor.plan import (
    STOP_SIGNALS,
    Backoff,
    DaemonPlan,
    GroupPlan,
    LogRules,
    Resources,
    RestartRules,
    Rung,
    StopRules,
    Streams,
    WatchdogRules,
)
from supervisor.worker import call

Level = Literal["debug", "info", "warning", "error"]
Value = TypeVar("Value")

PATIENCE = 30
"""Seconds from the first signal to SIGKILL (torch.distributed.launcher.api, ``shutdown_timeout``)."""

_PATIENCE_VARIABLE = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"

LAST_WAIT = 10.0
"""Seconds that a SIGKILL may take."""

EVENT_LOG_HANDLERS = ("null", "console", "dynamic_rendezvous")
"""torch's (torch.distributed.elastic.events.handlers); the last says nothing, like the first."""

_NOT_TO_BE_CAUGHT = frozenset({SIGKILL, SIGSTOP, SIGCHLD})
_QUIET: Level = "warning"
_NOWHERE: tuple[str, ...] = ()
_NONE: frozenset[int] = frozenset()
_ANYWHERE: tuple[frozenset[int], ...] = ()
_LEVELS: Mapping[str, Level] = {
    "NOTSET": "debug", "DEBUG": "debug", "INFO": "info", "WARNING": "warning", "WARN": "warning",
    "ERROR": "error", "CRITICAL": "error", "FATAL": "error",
}  # fmt: skip


class Launch(NamedTuple):
    """What is to be done: ``plan`` needs places for it first. ``notes`` are for whoever has asked.

    ``logs_specs``: the class that says where output goes; "": we do.
    """

    run_id: str
    stop_signals: tuple[int, ...]
    notes: tuple[str, ...]
    plan: Callable[[Places], DaemonPlan]
    logs_specs: str = ""


def launch_of(flags: Namespace, environ: Mapping[str, str], node_id: str) -> Launch:
    """What the flags mean in this environment. Raises ``WrongUsage`` with every reason why they cannot be had."""
    wrong: list[str] = []
    notes: list[str] = []

    def read(what: str, reader: Callable[[], Value], instead: Value) -> Value:
        try:
            return reader()
        except ValueError as error:
            wrong.append(f"{what}: {error}")
            return instead

    met = meeting(flags, wrong.append, notes.append)
    workers = read("--nproc-per-node", lambda: count_workers(flags.nproc_per_node, environ), 1)
    signals = read("--signals-to-handle", lambda: _signals(flags.signals_to_handle), _NONE)
    stop_signals = tuple(sorted(signals.union(STOP_SIGNALS)))
    asked = "--shutdown-timeout" if flags.shutdown_timeout is not None else _PATIENCE_VARIABLE
    patience = read(asked, lambda: _patience(flags.shutdown_timeout, environ), 0)
    redirects = read("--redirects", lambda: values.streams(flags.redirects), Streams())
    tee = read("--tee", lambda: values.streams(flags.tee), Streams())
    if not keeps_logs(flags.log_dir):
        redirects = tee = Streams()
    shown = read("--local-ranks-filter", lambda: _ranks(flags.local_ranks_filter), _NONE)
    cpus = read("--numa-binding", lambda: _cpus(flags, workers, environ), _ANYWHERE)
    events = read("--event-log-handler", lambda: _outlet(flags.event_log_handler, EVENT_LOG_HANDLERS), "")
    metrics = read("--torchelastic-metrics", lambda: _outlet(flags.torchelastic_metrics), "")
    level = read("LOGLEVEL", lambda: _level(environ), _QUIET)
    listen = read("TORCHELASTIC_HEALTH_CHECK_PORT", lambda: _listen(environ), _NOWHERE)
    if flags.max_restarts < 0:
        wrong.append(f"--max-restarts {flags.max_restarts}: must be 0 or more")
    wrong += _impossible(flags)
    if wrong:
        raise refused.WrongUsage(*wrong)

    def plan(places: Places) -> DaemonPlan:
        group = GroupPlan(
            name=flags.role if re.fullmatch(values.GROUP_NAME, flags.role) else "workers",
            command=_command(flags, environ),
            workers=workers,
            role=flags.role,
            logs=LogRules(
                places.run_dir,
                redirects,
                tee,
                _prefix(environ),
                shown,
                duplicate_stdout_filters=_texts(flags.duplicate_stdout_filters),
                duplicate_stderr_filters=_texts(flags.duplicate_stderr_filters),
            ),
            watchdog=_watchdog(environ),
            env={"TORCHELASTIC_SIGNALS_TO_HANDLE": flags.signals_to_handle},
            virtual_local_rank=flags.virtual_local_rank,
            master_addr=met.master_addr,
            master_port=met.master_port,
            macros="torch",
            run_dir=places.run_dir,
            restart=RestartRules(max_restarts=flags.max_restarts, backoff=Backoff(initial=0.0)),
            stop=StopRules((Rung(int(SIGTERM), float(patience)), Rung(int(SIGKILL), LAST_WAIT))),
            resources=Resources(cpus=cpus),
            rendezvous=met.rules,
        )
        return DaemonPlan(
            name="rankd",
            node_id=node_id if met.store is None else f"{node_id}_{os.getpid()}",  # torch's too: two on a host are two
            run_id=met.run_id,
            state_dir=places.state_dir,
            runtime_dir=places.state_dir,
            groups={group.name: group},
            log_level=level,
            log_format="console",
            listen=listen,
            stop_signals=stop_signals,
            as_job=True,
            store=met.store,
            torchelastic_events=events,
            torchelastic_metrics=metrics,
            rdzv_backend=met.backend,
        )

    notes += _notes(flags, workers, tee, environ)
    specs = "" if flags.logs_specs in (None, "default") else str(flags.logs_specs)
    return Launch(met.run_id, stop_signals, tuple(notes) if level != "error" else (), plan, specs)


def _command(flags: Namespace, environ: Mapping[str, str]) -> tuple[str, ...]:
    script = (flags.training_script, *flags.training_script_args)
    if flags.run_path:
        return (sys.executable, os.path.abspath(call.__file__), "--run-path", *script)
    if flags.no_python:
        return script
    python = environ.get("PYTHON_EXEC", sys.executable)
    return (python, "-u", "-m", *script) if flags.module else (python, "-u", *script)


def _impossible(flags: Namespace) -> list[str]:
    """Flags that exclude one another, or that only torch could honour."""
    wrong = []
    if flags.no_python and flags.module and not flags.run_path:
        wrong.append("--no-python and --module exclude one another: a module needs Python")
    if flags.run_path and flags.start_method != "spawn":
        wrong.append(f"--start-method {flags.start_method}: a worker is a fresh interpreter (allowed: spawn)")
    if flags.logs_specs not in (None, "default") and (why := refused.logs_specs(flags.logs_specs)):
        wrong.append(f"--logs-specs {flags.logs_specs}: {why}")
    return wrong


def _notes(flags: Namespace, workers: int, tee: Streams, environ: Mapping[str, str]) -> list[str]:
    notes = []
    if flags.monitor_interval is not None:
        notes.append("--monitor-interval is not needed: the end of a worker is seen when it happens")
    for name, bit in (("stdout", 1), ("stderr", 2)):
        teed = any(tee[rank] & bit for rank in range(workers))
        if getattr(flags, f"duplicate_{name}_filters") is not None and not teed:
            notes.append(f"--duplicate-{name}-filters has no effect: --tee copies no {name} to look at")
    if workers > 1 and "OMP_NUM_THREADS" not in environ:
        notes.append(
            "OMP_NUM_THREADS is set to 1 for each worker, so that they do not crowd this host; "
            "set it yourself for what suits your program best"
        )
    return notes


def _signals(names: str) -> frozenset[int]:
    """SIGHUP is left out: a daemon hears it in any case, unless nohup(1) has it ignored."""
    numbers = {values.signal_number(name.strip()) for name in names.split(",") if name.strip()}
    if never := numbers & _NOT_TO_BE_CAUGHT:
        raise ValueError(f"signal {min(never)} cannot be a request to stop")
    return frozenset(numbers - {SIGHUP})


def _patience(given: int | None, environ: Mapping[str, str]) -> int:
    text = environ.get(_PATIENCE_VARIABLE, str(PATIENCE)) if given is None else str(given)
    try:
        seconds = int(text)
    except ValueError:
        seconds = -1
    if seconds < 0:
        raise ValueError(f"{text!r} is no time to wait (allowed: whole seconds, 0 and more)")
    return seconds


def _prefix(environ: Mapping[str, str]) -> str:
    """torch's template (``string.Template``) as ours, which knows more names and wants the braces; empty is none."""
    template = environ.get("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE")
    if not template:
        return LogRules("").prefix
    return Template(template).safe_substitute({name: f"${{{name}}}" for name in ("role_name", "rank", "local_rank")})


def _ranks(text: str) -> frozenset[int]:
    try:
        return frozenset(map(int, text.split(","))) if text else frozenset()
    except ValueError:
        raise ValueError(f"{text!r} is not a list of local ranks (allowed: such as 0,1,12)") from None


def _watchdog(environ: Mapping[str, str]) -> WatchdogRules:
    """torch's timers, where they are asked for (torch.distributed.elastic.agent.server.local_elastic_agent)."""
    return WatchdogRules(
        timer_file=environ.get("TORCHELASTIC_ENABLE_FILE_TIMER") == "1",
        timer_path=environ.get("TORCHELASTIC_TIMER_FILE", ""),
        notify=False,
        uninterruptible=_uninterruptible(environ.get("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", "")),
    )


def _uninterruptible(text: str) -> float:
    """Seconds in D state; no positive number is "off", as torch has it (``_resolve_uninterruptible_state_timeout``)."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0


def _outlet(given: str, words: tuple[str, ...] = ("null", "console")) -> str:
    """``console``, the absolute path of ``file:PATH``, or nothing: of torch's words no other writes anything."""
    kind, _, path = given.partition(":")
    if kind == "file" and path:
        return os.path.abspath(path)
    if given not in words:
        raise ValueError(f"{given!r} is no place for them (allowed: {', '.join(words)}, file:PATH)")
    return given if given == "console" else ""


def _texts(given: str | None) -> tuple[str, ...]:
    """What torchrun takes it for (torch.distributed.run, ``comma_separated_list``): an empty text is in every line."""
    if given is None:
        return ()
    return tuple(text.replace("\0", ",") for text in given.replace(",,", "\0").split(","))


def _cpus(flags: Namespace, workers: int, environ: Mapping[str, str]) -> tuple[frozenset[int], ...]:
    if flags.numa_binding is None:
        return ()
    from supervisor.host.topology import bind_workers  # noqa: PLC0415 - most launches do not bind

    try:
        return bind_workers(flags.numa_binding, workers, environ, os.sched_getaffinity(0))
    except ValueError as error:
        raise ValueError(f"{flags.numa_binding} is not possible here: {error}") from None


def _level(environ: Mapping[str, str]) -> Level:
    name = environ.get("LOGLEVEL") or "WARNING"
    try:
        return _LEVELS[name.upper()]
    except KeyError:
        raise ValueError(f"{name!r} is not a level {values.choices(name.upper(), _LEVELS)}") from None


def _listen(environ: Mapping[str, str]) -> tuple[str, ...]:
    """On every address: whoever sets the variable probes from outside."""
    text = environ.get("TORCHELASTIC_HEALTH_CHECK_PORT")
    if text is None:
        return ()
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port (allowed: 0 to 65535)")
    return (f":{text}",)
