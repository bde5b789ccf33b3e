"""torchelastic's own event records and metrics, for those whose dashboards read them
(torch.distributed.elastic.events, .metrics; torch 2.13).

The names and keys are torch's. Different on purpose: timestamps are real (torch writes 0), what torch wraps in tuples
of one is plain, an end is told when it happens and every failure has an event, those before a restart included.
Nothing is told that would need polling: no ``_monitor_workers``.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from supervisor import clock
from supervisor.core.events import Event, signal_name
from supervisor.core.state import Group
from supervisor.plan import DaemonPlan, GroupPlan

PREFIX = "torchelastic.worker.status."
METRICS = "torchelastic"
"""The one group of metrics that torch's agent has."""

Sink = Callable[[bytes], object]

_NOTHING: Mapping[str, object] = {}
_SIGNALS = {signal_name(number): number for number in range(1, signal.NSIG)}


class TorchElastic:
    """Hears every event, and tells in torch's words what torch's agent would have told."""

    def __init__(
        self,
        plan: DaemonPlan,
        groups: Callable[[], Mapping[str, Group]],
        *,
        hostname: str,
        events: Sink | None = None,
        metrics: Sink | None = None,
    ) -> None:
        """``groups`` are as they stand when an event is heard. The sinks take whole lines; None: nobody asked."""
        self._plan = plan
        self._hostname = hostname
        self._groups = groups
        self._events = events
        self._metrics = metrics
        self._began_at = clock.now()
        self._starting_at: dict[str, float] = {}  # groups of which nobody has started in this attempt
        self._set_out_at: dict[str, float] = {}
        self._stopping_at: dict[str, float] = {}
        self._used: dict[str, int] = {}  # restarts that had been used when the attempt, or its latest worker, started
        self._restarting: set[str] = set()
        self._watched: set[str] = set()  # groups whose timers are looked after
        self._last: dict[str, Group] = {}  # a group that a reload has taken away is told of when it is gone
        self._kinds: Mapping[str, Callable[[Event, Group], None]] = {
            "group.starting": self._starting,
            "group.started": self._started,
            "group.restarting": self._group_restarting,
            "group.stopping": self._stopping,
            "group.ready": self._ready,
            "group.succeeded": self._succeeded,
            "group.failed": self._failed,
            "group.stopped": self._failed,
            "worker.started": self._worker_started,
            "worker.exited": self._worker_exited,
            "worker.failed": self._worker_failed,
            "timer.expired": self._timer_expired,
        }

    def observe(self, event: Event) -> None:
        """Tell what torch would; most events it has no word for."""
        kind = self._kinds.get(event.name)
        if kind is not None and event.group is not None:
            group = self._groups().get(event.group, self._last.get(event.group))
            if group is not None:  # else: it was taken away before anything had become of it
                self._last[event.group] = group
                kind(event, group)

    # ---- the group: torch's agent

    def _starting(self, event: Event, group: Group) -> None:
        self._used[group.plan.name] = group.history.used
        self._starting_at[group.plan.name] = self._set_out_at[group.plan.name] = event.at
        self._has_stopped(event, group)

    def _started(self, event: Event, group: Group) -> None:
        took_for = event.at - self._set_out_at.pop(group.plan.name, event.at)
        self._timed(event.at, "LocalElasticAgent._start_workers", took_for)
        self._timed(event.at, "SimpleElasticAgent._initialize_workers", took_for)
        if group.plan.name in self._restarting:
            self._restarting.discard(group.plan.name)
            self._timed(event.at, "SimpleElasticAgent._restart_workers", took_for)

    def _group_restarting(self, event: Event, group: Group) -> None:
        self._restarting.add(group.plan.name)
        if "rank" not in event.fields:  # else the others go on
            self._watch_no_more(event, group)
        # torch's word for how the attempt has ended; its "unhealthy" is a worker in state D
        self._state(event, group, "succeeded" if event.fields["cause"] == "finished" else "failed")

    def _stopping(self, event: Event, group: Group) -> None:
        self._stopping_at[group.plan.name] = event.at

    def _ready(self, event: Event, group: Group) -> None:
        self._state(event, group, "healthy")

    def _succeeded(self, event: Event, group: Group) -> None:
        self._watch_no_more(event, group)
        self._tell(event, group, "SUCCEEDED")
        self._over(event, group, "succeeded")

    def _failed(self, event: Event, group: Group) -> None:
        """torch's word for a stop by signal is the same."""
        self._watch_no_more(event, group)
        self._tell(event, group, "FAILED", raw_error=_error(event.fields))
        self._over(event, group, "failed" if event.name == "group.failed" else "stopped")

    # ---- workers

    def _worker_started(self, event: Event, group: Group) -> None:
        self._used[group.plan.name] = group.history.used
        began_at = self._starting_at.pop(group.plan.name, None)
        if began_at is not None:
            took_for = event.at - began_at
            self._tell(event, group, "RENDEZVOUS", duration_ms=took_for * 1000)
            self._tell(event, group, "ASSIGN_WORKER_RANKS", duration_ms=0.0)  # they come with the world
            self._timed(event.at, "SimpleElasticAgent._rendezvous", took_for)
            self._timed(event.at, "SimpleElasticAgent._assign_worker_ranks", 0.0)
            if group.plan.watchdog.timer_file:
                self._watched.add(group.plan.name)
                self._tell_of_timers(event, group, "watchdog started")
        self._tell(event, group, "START", of_worker=True)

    def _worker_exited(self, event: Event, group: Group) -> None:
        if event.fields["by"] == "daemon":
            self._tell(event, group, "TERMINATED", of_worker=True)
        elif event.fields["by"] == "itself" and event.fields.get("exit_code") in group.plan.restart.success_exit_codes:
            self._tell(event, group, "SUCCEEDED", of_worker=True)

    def _worker_failed(self, event: Event, group: Group) -> None:
        self._tell(event, group, "FAILED", of_worker=True, raw_error=_error(event.fields))

    # ---- timers (torch.distributed.elastic.agent.server.local_elastic_agent, ``_log_watchdog_event``)

    def _timer_expired(self, event: Event, group: Group) -> None:
        """``expiration_time`` is when it was seen: at once."""
        number = _SIGNALS.get(event.fields.get("signal", ""), 0)
        told = {
            "worker_pid": event.fields["pid"],
            "scope_id": event.fields.get("scope", ""),
            "expiration_time": clock.wall(event.at),
            "signal": number,
        }
        self._tell_of_timers(event, group, "timer expired", told)
        if number:
            self._tell_of_timers(event, group, "kill worker process", told)

    def _watch_no_more(self, event: Event, group: Group) -> None:
        if group.plan.name in self._watched:
            self._watched.discard(group.plan.name)
            self._tell_of_timers(event, group, "watchdog stopped")

    def _tell_of_timers(self, event: Event, group: Group, name: str, told: Mapping[str, object] = _NOTHING) -> None:
        details = {"watchdog_event": name, **{key: str(value) for key, value in told.items()}}
        self._write(event, group, name, "AGENT", "RUNNING", details)

    # ---- event records (torch.distributed.elastic.agent.server.api, ``_construct_event``)

    def _tell(
        self,
        event: Event,
        group: Group,
        state: str,
        *,
        of_worker: bool = False,
        raw_error: str | None = None,
        duration_ms: float | None = None,
    ) -> None:
        fields, plan, world = event.fields, group.plan, group.world
        forming = state in ("RENDEZVOUS", "ASSIGN_WORKER_RANKS")
        details: dict[str, Any] = {
            "group_world_size": None if forming else world.group_world_size if world else plan.rendezvous.hosts,
            "entry_point": os.path.basename(plan.command[0]),
        }
        pid = fields.get("pid") if of_worker else None
        if of_worker:
            details |= {
                "local_rank": fields["local_rank"],
                "role_rank": (world.base_role_rank if world else 0) + fields["local_rank"],
                "role_world_size": world.role_world_size if world else plan.workers,
                "exit_code": _exit_code(fields) if state == "FAILED" else fields.get("exit_code"),
                "worker_pid": pid,
            }
        self._write(
            event, group, PREFIX + state, "WORKER" if of_worker else "AGENT", state, details,
            global_rank=fields["rank"] if of_worker else None,
            group_rank=None if forming else _group_rank(group),
            worker_id=None if pid is None else str(pid),
            raw_error=raw_error,
            duration_ms=duration_ms,
        )  # fmt: skip

    def _write(
        self, event: Event, group: Group, name: str, source: str, state: str, details: Mapping[str, Any], **more: Any
    ) -> None:
        """``more``: what metadata has that is not the same for all."""
        if self._events is None:
            return
        metadata = {
            "run_id": self._plan.run_id,
            "global_rank": None,
            "group_rank": _group_rank(group),
            "worker_id": None,
            "role": group.plan.role,
            "hostname": self._hostname,
            "state": state,
            "total_run_time": int(event.at - self._began_at),
            "rdzv_backend": self._plan.rdzv_backend,
            "raw_error": None,
            "metadata": json.dumps(details),
            "agent_restarts": self._used_before(group),
        }
        record = {
            "name": name,
            "source": source,
            "timestamp": int(clock.wall(event.at) * 1000),
            "metadata": metadata | more,
        }
        self._events(json.dumps(record).encode() + b"\n")

    # ---- metrics (torch.distributed.elastic.metrics.api, ``ConsoleMetricHandler``)

    def _put(self, at: float, values: Mapping[str, float]) -> None:
        if self._metrics is not None:
            lines = (f"[{clock.wall(at)}][{METRICS}]: {name}={value}\n" for name, value in values.items())
            self._metrics("".join(lines).encode())

    def _timed(self, at: float, what: str, took_for: float) -> None:
        """torch's ``@prof``."""
        self._put(at, {f"{what}.success": 1, f"{what}.duration.ms": round(took_for * 1000)})

    def _has_stopped(self, event: Event, group: Group) -> None:
        began_at = self._stopping_at.pop(group.plan.name, None)
        if began_at is not None:
            self._timed(event.at, "LocalElasticAgent._stop_workers", event.at - began_at)

    def _used_before(self, group: Group) -> int:
        """The one that a failure is about to use is not counted yet: torch tells of the failure first."""
        return self._used.get(group.plan.name, group.history.used)

    def _remaining(self, group: Group) -> int:
        """-1, as in the configuration: there is no limit."""
        most = group.plan.restart.max_restarts
        return most if most < 0 else max(0, most - self._used_before(group))

    def _state(self, event: Event, group: Group, state: str) -> None:
        role = group.plan.role
        self._put(
            event.at,
            {f"workers.{role}.remaining_restarts": self._remaining(group), f"workers.{role}.{state}": 1},
        )

    def _over(self, event: Event, group: Group, state: str) -> None:
        self._has_stopped(event, group)
        self._state(event, group, state)
        if state != "stopped":  # of a run that is called off torch tells nothing more
            self._put(event.at, {f"workers.{group.plan.role}.{name}": value for name, value in _run(group, state)})
        self._timed(event.at, "SimpleElasticAgent.run", event.at - self._began_at)


def _group_rank(group: Group) -> int:
    """This host's number among those of the group; before there is a world what the plan says, which is 0 or static."""
    return group.world.group_rank if group.world else group.plan.rendezvous.node_rank


def _run(group: Group, state: str) -> Iterator[tuple[str, int]]:
    """torch's account of a whole run: flakiness in per cent, and which of four ways it went."""
    yield "flakiness", 100 if state == "failed" else _flakiness(group.plan, group.history.used)
    yield "run_total", 1
    retried = bool(group.history.used)
    for way in ("success", "failed"):
        went = way == ("failed" if state == "failed" else "success")
        yield f"run_{way}_with_retries", int(went and retried)
        yield f"run_{way}_no_retries", int(went and not retried)


def _flakiness(plan: GroupPlan, used: int) -> int:
    most = plan.restart.max_restarts
    if most < 0:  # of no number of restarts can a part be used
        return 0
    return int(100 - 100 * (max(0, most - used) + 1) / (most + 1))


def _exit_code(fields: Mapping[str, Any]) -> int | None:
    """Of who has died of a signal: that signal, negative; None: it has never run."""
    if "signal" in fields:
        return -_SIGNALS[fields["signal"]]
    code: int | None = fields.get("exit_code")
    return code


def _error(fields: Mapping[str, Any]) -> str | None:
    """What an error file has, as torch tells it; without one the reason takes its place."""
    message: str | dict[str, Any] = fields.get("reason", "")
    if "error" in fields and fields["error"] is not None:
        more = {"py_callstack": fields.get("traceback"), "timestamp": str(fields.get("error_timestamp") or "")}
        message = {"message": fields["error"], "extraInfo": {name: text for name, text in more.items() if text}}
    return json.dumps({"message": message}) if message else None
