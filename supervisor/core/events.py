"""What we tell the world, in the past tense: one constructor an event, and no other way to make one.

An ``Event`` is a value. ``report`` turns it into a JSON line, a journal entry, a metric. ``message`` is a sentence for
people; the other fields are for machines. Never in an event: argv, environment values, secrets.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from supervisor.core.messages import ErrorReport, ExitStatus, WorkerSilent
from supervisor.core.reload import Changes
from supervisor.plan import Source

Level = Literal["debug", "info", "warning", "error"]
By = Literal["itself", "daemon", "oom", "timer", "heartbeat", "probe", "outside"]


@dataclass(frozen=True, slots=True)
class Event:
    """``name`` is stable and dotted; ``at`` monotonic seconds; ``fields`` JSON values by the names of INTERFACE."""

    name: str
    level: Level
    at: float
    message: str
    group: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@cache
def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; ``SIGRTMIN+3`` and the like for real-time signals; ``SIG77`` for what has no name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        if signals.SIGRTMIN < number < signals.SIGRTMAX:
            return f"SIGRTMIN+{number - signals.SIGRTMIN}"
        return f"SIG{number}"


def how_it_ended(status: ExitStatus, by: By = "itself", evidence: str = "") -> str:
    """``exited with code 3``, ``was killed by SIGSEGV (core dumped)`` or ``was killed by SIGKILL (out of memory)``."""
    if status.signal is None:
        return f"exited with code {status.code}"
    why = "core dumped" if status.core_dumped else "out of memory" if by == "oom" else ""
    if not why and not evidence and by == "outside" and status.signal == signals.SIGKILL:
        why = "unknown, from outside"
    words = ", ".join(filter(None, (why, evidence)))
    return f"was killed by {signal_name(status.signal)}" + (f" ({words})" if words else "")


def ms(seconds: float) -> float:
    """Milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


@dataclass(frozen=True, slots=True)
class Who:
    """Which start of which worker an event is about. ``rank`` is global, ``local_rank`` the one on this host."""

    group: str
    rank: int
    local_rank: int
    attempt: int


def _of(who: Who) -> dict[str, Any]:
    return {"rank": who.rank, "local_rank": who.local_rank, "attempt": who.attempt}


# ---- workers


def worker_started(at: float, who: Who, pid: int) -> Event:
    return Event(
        "worker.started", "info", at, f"rank {who.rank} started (pid {pid})", who.group,
        {**_of(who), "pid": pid},
    )  # fmt: skip


def worker_ready(at: float, who: Who, pid: int | None, source: Source, took_for: float) -> Event:
    """Whoever is asked says so now; ``source`` was the last one. ``took_for``: since it has started, or lost it.

    Workers of whom nobody is asked are ready when they have started, and this is not told of them.
    """
    return Event(
        "worker.ready", "info", at, f"rank {who.rank} is ready after {took_for:.1f} s", who.group,
        {**_of(who), "pid": pid, "source": source, "duration_ms": ms(took_for)},
    )  # fmt: skip


def worker_unready(at: float, who: Who, source: Source, reason: str, output: str = "") -> Event:
    """``output``: the last lines that were printed about it."""
    return Event(
        "worker.unready", "warning", at, f"rank {who.rank} is not ready: {reason}", who.group,
        {**_of(who), "source": source, "reason": reason} | ({"output": output} if output else {}),
    )  # fmt: skip


def worker_probe_failed(at: float, who: Who, pid: int | None, signal: int, reason: str) -> Event:
    """A worker that was ready is found failed by its probe, and sent ``signal``."""
    return Event(
        "worker.probe_failed", "error", at,
        f"rank {who.rank} has failed its probe: {reason}: sent {signal_name(signal)}", who.group,
        {**_of(who), "pid": pid, "signal": signal_name(signal), "by": "probe", "reason": reason},
    )  # fmt: skip


def worker_exited(at: float, who: Who, pid: int, status: ExitStatus, by: By, ran_for: float, words: str = "") -> Event:
    """``words``: how it ended, if more is known than its status."""
    fields: dict[str, Any] = {**_of(who), "pid": pid}
    if status.signal is None:
        fields["exit_code"] = status.code
    else:
        fields["signal"] = signal_name(status.signal)
    fields |= {
        "core_dumped": status.core_dumped,
        "by": by,
        "ran_for_ms": ms(ran_for),
        "max_rss_bytes": status.max_rss_bytes,
        "user_cpu_s": round(status.user_cpu_s, 6),
        "system_cpu_s": round(status.system_cpu_s, 6),
    }
    return Event("worker.exited", "info", at, f"rank {who.rank} {words or how_it_ended(status)}", who.group, fields)


def worker_failed(
    at: float, who: Who, reason: str, *, root_cause: bool, by: By = "itself",
    pid: int | None = None, status: ExitStatus | None = None, exit_code: int | None = None, stderr_tail: str = "",
    error: ErrorReport | None = None, evidence: str = "",
) -> Event:  # fmt: skip
    """``root_cause`` is true for the first failure of an attempt. Without ``status`` the worker never ran.

    ``evidence``: the file with what was seen of it and its peers before it was ended.
    """
    fields: dict[str, Any] = {**_of(who), "root_cause": root_cause, "by": by}
    if pid is not None:
        fields["pid"] = pid
    if status is not None and status.signal is not None:
        fields["signal"] = signal_name(status.signal)
        fields["core_dumped"] = status.core_dumped
    elif exit_code is not None:
        fields["exit_code"] = exit_code
    fields["reason"] = reason
    if stderr_tail:
        fields["stderr_tail"] = stderr_tail
    if evidence:
        fields["evidence"] = evidence
    if error is not None:
        told = {
            "error": error.message,
            "traceback": error.traceback,
            "error_timestamp": error.timestamp,
            "error_note": error.note,
        }
        fields |= {name: value for name, value in told.items() if value}
    return Event("worker.failed", "error", at, f"rank {who.rank} failed: {reason}", who.group, fields)


def worker_silent(at: float, who: Who, pid: int | None, silent: WorkerSilent) -> Event:
    """A timer of the worker's has expired, or it has missed a heartbeat, a section's end, its READY=1 ...

    ``what`` says which, ``section`` or ``scope`` of what name; ``limit_ms`` is missing where there was none.
    """
    name, named = ("timer.expired", "scope") if silent.by == "timer" else ("worker.heartbeat_missed", "section")
    signal = signal_name(silent.signal)
    fields: dict[str, Any] = {**_of(who), "pid": pid, "what": silent.what}
    if silent.name:
        fields[named] = silent.name
    if silent.limit:
        fields["limit_ms"] = ms(silent.limit)
    fields |= {"reason": silent.reason, "signal": signal}
    return Event(name, "error", at, f"rank {who.rank} {silent.reason}: gets {signal}", who.group, fields)


def worker_uninterruptible(at: float, who: Who, pid: int, limit: float, details: str, *, over: bool) -> Event:
    """``pid``: the process of the worker's that sleeps; ``details``: where, as far as that can be read."""
    words = (
        "is out of its uninterruptible sleep"
        if over
        else f"has been in uninterruptible sleep for longer than {limit:g} s: {details}"
    )
    fields = {**_of(who), "pid": pid, "limit_ms": ms(limit), "error": details, "over": over}
    level: Level = "info" if over else "error"
    return Event("worker.uninterruptible", level, at, f"rank {who.rank} {words}", who.group, fields)


def worker_dumped(at: float, who: Who, reason: str, evidence: str, why: str) -> Event:
    """What it and its peers did is in the file ``evidence``, for that ``reason``; with ``why`` it could not be
    written."""
    words = f"rank {who.rank} {reason}: what it and its peers did is {'not written to' if why else 'in'} {evidence}"
    fields = {**_of(who), "reason": reason, "evidence": evidence, **({"error": why} if why else {})}
    return Event(
        "worker.dumped", "warning" if why else "info", at, f"{words}{f': {why}' if why else ''}", who.group, fields
    )


def timer_reported(at: float, who: Who, pid: int, scope: str, reason: str) -> Event:
    """A timer that has signal 0: its worker is told of, and goes on."""
    return Event(
        "timer.expired", "warning", at, f"rank {who.rank} {reason}; its timer has no signal, so it goes on", who.group,
        {**_of(who), "pid": pid, "scope": scope, "reason": reason},
    )  # fmt: skip


def timer_refused(at: float, group: str, pid: int, scope: str, left_out: int = 0) -> Event:
    """A timer has expired whose process is none of the group's workers': nobody is ended for it. Anybody can write
    such timers: ``left_out`` were not told of since the last that was."""
    words = f"a timer of process {pid} has expired, which is no worker of {group}"
    return Event(
        "timer.refused", "warning", at, f"{words}{f'; so have {left_out} others before' if left_out else ''}", group,
        {"pid": pid, "scope": scope, "reason": "not a process of this group's workers", "left_out": left_out},
    )  # fmt: skip


def worker_stopping(at: float, who: Who, signal: int, why: str) -> Event:
    return Event(
        "worker.stopping", "info", at, f"rank {who.rank} is being stopped with {signal_name(signal)}: {why}", who.group,
        {**_of(who), "signal": signal_name(signal), "reason": why},
    )  # fmt: skip


def worker_killed(at: float, who: Who, signal: int, waited_for: float) -> Event:
    return Event(
        "worker.killed", "warning", at,
        f"rank {who.rank} was still there after {waited_for:g} s: sent {signal_name(signal)}", who.group,
        {**_of(who), "signal": signal_name(signal), "by": "daemon"},
    )  # fmt: skip


def worker_unkillable(at: float, who: Who, pid: int | None, details: str) -> Event:
    """``details`` names what is left: pid, state and wait channel of each process, as far as they can be read."""
    return Event(
        "worker.unkillable", "error", at,
        f"rank {who.rank} cannot be killed{': ' + details if details else ''}", who.group,
        {**_of(who), "pid": pid, "error": details},
    )  # fmt: skip


def worker_orphan_killed(at: float, who: Who, signal: int, processes: tuple[str, ...]) -> Event:
    """The worker has ended and left processes behind, which are now sent ``signal``."""
    return Event(
        "worker.orphan_killed", "warning", at,
        f"rank {who.rank} left {_behind(processes)}: sent {signal_name(signal)}", who.group,
        {**_of(who), "signal": signal_name(signal), "processes": list(processes[:32]), "count": len(processes)},
    )  # fmt: skip


def _behind(processes: tuple[str, ...]) -> str:
    named = ", ".join(processes[:8]) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
    return f"{len(processes)} process{'es' if len(processes) != 1 else ''} behind ({named})"


# ---- groups


def group_starting(at: float, group: str, attempt: int, workers: int) -> Event:
    return Event(
        "group.starting", "info", at, f"group {group} starts {_workers(workers)} (attempt {attempt})", group,
        {"attempt": attempt, "workers": workers},
    )  # fmt: skip


def group_started(at: float, group: str, attempt: int, workers: int, took_for: float) -> Event:
    return Event(
        "group.started", "info", at, f"group {group} has started {_workers(workers)} in {ms(took_for):.0f} ms", group,
        {"attempt": attempt, "workers": workers, "duration_ms": ms(took_for)},
    )  # fmt: skip


def group_ready(at: float, group: str, attempt: int, took_for: float) -> Event:
    return Event(
        "group.ready", "info", at, f"group {group} is ready", group, {"attempt": attempt, "duration_ms": ms(took_for)}
    )


def group_degraded(at: float, group: str, attempt: int, ready: int, size: int, why: str) -> Event:
    return Event(
        "group.degraded", "warning", at, f"group {group} is not ready any more ({ready}/{size} workers ready): {why}",
        group, {"attempt": attempt, "ready": ready, "workers": size, "reason": why},
    )  # fmt: skip


def group_rolling(
    at: float, group: str, workers: int, replaced: int, why: str, *, over: bool = False, halted: bool = False
) -> Event:
    """The workers are replaced a few at a time, ``replaced`` of them so far. ``halted``: the rest will not be."""
    counts = f"{replaced} of {_workers(workers)} replaced"
    if halted:
        level: Level = "error"
        words = f"the rolling restart of group {group} has halted, {counts}: {why}"
    else:
        level = "info"
        words = f"group {group} has been rolled, {counts}: {why}" if over else f"group {group} is rolled: {why}"
    return Event(
        "group.rolling", level, at, words, group,
        {"workers": workers, "replaced": replaced, "reason": why, "over": over, "halted": halted},
    )  # fmt: skip


def group_restarting(
    at: float, group: str, attempt: int, why: str, cause: str, left: int | None, pause: float, rank: int | None = None
) -> Event:
    """``cause`` is one of a few words for counting: exit, signal, timer, heartbeat, probe, start, finished.

    ``rank``: only that one restarts.
    """
    whom = f"group {group} restarts" if rank is None else f"rank {rank} of group {group} restarts"
    when = f" in {pause:.1f} s" if pause else ""
    left_words = "no limit" if left is None else f"{left} left"
    fields: dict[str, Any] = {
        "attempt": attempt, "reason": why, "cause": cause, "restarts_left": left, "pause_ms": ms(pause)
    }  # fmt: skip
    if rank is not None:
        fields["rank"] = rank
    return Event("group.restarting", "warning", at, f"{whom}{when} ({left_words}): {why}", group, fields)


def group_backing_off(at: float, group: str, attempt: int, pause: float, why: str) -> Event:
    return Event(
        "group.backing_off", "info", at, f"group {group} waits {pause:.1f} s before its next start: {why}", group,
        {"attempt": attempt, "pause_ms": ms(pause), "reason": why},
    )  # fmt: skip


def group_stopping(at: float, group: str, attempt: int, workers: int, signal: int, why: str) -> Event:
    return Event(
        "group.stopping", "info", at,
        f"group {group} stops {_workers(workers)} with {signal_name(signal)}: {why}", group,
        {"attempt": attempt, "workers": workers, "signal": signal_name(signal), "reason": why},
    )  # fmt: skip


def group_stopped(at: float, group: str, attempt: int, took_for: float, why: str) -> Event:
    return Event(
        "group.stopped", "info", at, f"group {group} has stopped: {why}", group,
        {"attempt": attempt, "duration_ms": ms(took_for), "reason": why},
    )  # fmt: skip


def group_succeeded(
    at: float, group: str, attempt: int, restarts: int, returned: Mapping[str, Any] | None = None
) -> Event:
    """``returned``: more fields, of what functions have returned (see ``core.returned``)."""
    return Event(
        "group.succeeded", "info", at, f"group {group} has succeeded"
        + (f" after {restarts} restart{'s' if restarts != 1 else ''}" if restarts else ""), group,
        {"attempt": attempt, "restarts": restarts, **(returned or {})},
    )  # fmt: skip


def group_gave_up(at: float, group: str, attempt: int, why: str, reason: str) -> Event:
    return Event(
        "group.gave_up", "error", at, f"group {group} is not restarted, {why}: {reason}", group,
        {"attempt": attempt, "reason": why, "error": reason},
    )  # fmt: skip


def group_failed(at: float, group: str, attempt: int, reason: str, exit_code: int) -> Event:
    """The group is down for good. ``exit_code`` is what the daemon will exit with for it."""
    return Event(
        "group.failed", "error", at, f"group {group} has failed: {reason}", group,
        {"attempt": attempt, "reason": reason, "exit_code": exit_code},
    )  # fmt: skip


def group_unlimited(at: float, group: str, keys: tuple[str, ...], why: str) -> Event:
    """Limits that were asked for cannot be had: the workers run without them."""
    return Event(
        "group.unlimited", "warning", at,
        f"{group} runs without {', '.join(keys)}: the workers' control groups cannot limit that here: {why}", group,
        {"resources": list(keys), "reason": why},
    )  # fmt: skip


def group_failures_unwritten(at: float, group: str, why: str) -> Event:
    """Failures are told in records only, until the file takes them again."""
    return Event(
        "group.failures_unwritten", "warning", at, f"failures of group {group} are not written: {why}", group,
        {"reason": why},
    )  # fmt: skip


# ---- the daemon


def daemon_started(at: float, version: str, pid: int, groups: tuple[str, ...], containment: str) -> Event:
    return Event(
        "daemon.started", "info", at, f"rankd {version} started (pid {pid}): {', '.join(groups)}", None,
        {"version": version, "pid": pid, "groups": list(groups), "containment": containment},
    )  # fmt: skip


def daemon_ready(at: float, took_for: float) -> Event:
    """The daemon watches, listens and answers; whether its groups are ready is told by ``health.changed``."""
    return Event("daemon.ready", "info", at, f"up after {ms(took_for):.0f} ms", None, {"duration_ms": ms(took_for)})


def daemon_draining(at: float, why: str, for_: float | None) -> Event:
    """``for_`` None: until somebody takes it back; nothing is stopped."""
    words = "draining" if for_ is None else f"draining for {for_:g} s"
    fields: dict[str, Any] = {"reason": why} | ({} if for_ is None else {"duration_ms": ms(for_)})
    return Event("daemon.draining", "info", at, f"{words}: {why}", None, fields)


def daemon_stopping(at: float, why: str) -> Event:
    return Event("daemon.stopping", "info", at, f"stopping: {why}", None, {"reason": why})


def daemon_stopped(at: float, exit_code: int, up_for: float, why: str) -> Event:
    return Event(
        "daemon.stopped", "info", at, f"stopped with exit code {exit_code}: {why}", None,
        {"exit_code": exit_code, "duration_ms": ms(up_for), "reason": why},
    )  # fmt: skip


HOOK_FAILED = "daemon.hook_failed"


def daemon_hook_failed(at: float, hook: str, why: str) -> Event:
    """A record has not been delivered to a hook, for good."""
    return Event(HOOK_FAILED, "warning", at, f"hook {hook}: {why}", None, {"hook": hook, "reason": why})


def health_listening(at: float, addresses: tuple[str, ...], agents: tuple[str, ...] = ()) -> Event:
    """``agents``: where HAProxy's agent-check is answered."""
    fields = {"addresses": list(addresses)} | ({"agent_check": list(agents)} if agents else {})
    words = [*addresses, *(f"{agent} (agent-check)" for agent in agents)]
    return Event("health.listening", "info", at, f"health on {', '.join(words)}", None, fields)


def health_changed(at: float, ready: bool, reasons: tuple[str, ...]) -> Event:
    """``/readyz`` answers otherwise than before."""
    return Event(
        "health.changed", "info", at, "ready" if ready else f"not ready: {'; '.join(reasons)}", None,
        {"ready": ready, "reason": "; ".join(reasons)},
    )  # fmt: skip


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number != 1 else ''}"


def daemon_clock_jumped(at: float, away_for: float) -> Event:
    """We were not running (SIGSTOP, a frozen group, a machine that slept): every deadline is that much later."""
    return Event(
        "daemon.clock_jumped", "warning", at,
        f"rankd was not running for {away_for:.1f} s: every worker has so much longer", None,
        {"duration_ms": ms(away_for)},
    )  # fmt: skip


def daemon_reloaded(at: float, changes: Changes) -> Event:
    """Names of groups and keys, never values: these may be secrets."""
    keys = [f"groups.{name}.{key}" for name, change in changes.changed.items() for key in change.keys]
    whom = {
        "added": changes.added,
        "removed": changes.removed,
        "restarted": changes.restarted,
        "applied": changes.applied + tuple(name for name in changes.changed if name not in changes.restarted),
    }
    words = "; ".join(f"{what}: {', '.join(names)}" for what, names in whom.items() if names)
    fields: dict[str, Any] = {what: list(names) for what, names in whom.items()}
    fields["changed_keys"] = [*changes.applied, *keys]
    return Event("daemon.reloaded", "info", at, f"reloaded: {words or 'nothing has changed'}", None, fields)


def daemon_reload_refused(at: float, why: str, mistakes: tuple[str, ...] = ()) -> Event:
    """The daemon goes on as it was. ``mistakes``: what is wrong in the file, each with its line."""
    fields: dict[str, Any] = {"reason": why} | ({"mistakes": list(mistakes)} if mistakes else {})
    return Event("daemon.reload_refused", "error", at, f"not reloaded: {why}", None, fields)


def worker_output_dropped(at: float, who: Who, stream: str, into: str, lost: int, why: str, *, over: bool) -> Event:
    """A log file or the journal takes nothing, or, with ``over``, does again; ``lost`` bytes so far."""
    verb = "takes output again; dropped" if over else "takes no output, dropping it; so far"
    return Event(
        "worker.output_dropped", "warning", at, f"rank {who.rank}: {into} {verb} {lost} bytes: {why}", who.group,
        {**_of(who), "stream": stream, "into": into, "dropped_bytes": lost, "reason": why, "over": over},
    )  # fmt: skip


def worker_output_blocked(at: float, who: Who, stream: str, into: str, why: str, *, over: bool) -> Event:
    """A log file takes nothing and its worker waits for it, as configured; with ``over`` it goes on."""
    verb = "takes output again" if over else "takes no output, so the worker has to wait"
    return Event(
        "worker.output_blocked", "info" if over else "warning", at, f"rank {who.rank}: {into} {verb}: {why}", who.group,
        {**_of(who), "stream": stream, "into": into, "reason": why, "over": over},
    )  # fmt: skip


def daemon_console_lost(at: float, stream: str, why: str) -> Event:
    """Whoever read our stdout or stderr is gone: what belongs there is lost from here on, and counted."""
    return Event(
        "daemon.console_lost", "warning", at, f"nobody reads rankd's {stream} any more: {why}", None,
        {"stream": stream, "reason": why},
    )  # fmt: skip


def daemon_logs_reopened(at: float) -> Event:
    return Event("daemon.logs_reopened", "info", at, "SIGUSR1: log files are opened anew", None, {"signal": "SIGUSR1"})


def orphan_reaped(at: float, process: str) -> Event:
    """A process came to us as an orphan and belongs to no worker that we know."""
    return Event(
        "worker.orphan_killed", "warning", at, f"an orphan of no known worker came to us: {process}", None,
        {"processes": [process], "count": 1},
    )  # fmt: skip


def leftovers_killed(at: float, pid: int, processes: tuple[str, ...], details: str) -> Event:
    """An earlier daemon (``pid``) died without a word; ``details`` names what of its processes will not die."""
    earlier = f"an earlier rankd (pid {pid})" if pid else "an earlier rankd"
    return Event(
        "worker.orphan_killed", "warning", at,
        f"{earlier} has died and left {_behind(processes)}: sent SIGKILL"
        f"{'; still there: ' + details if details else ''}", None,
        {"signal": "SIGKILL", "processes": list(processes[:32]), "count": len(processes), "error": details},
    )  # fmt: skip


def daemon_state_refused(at: float, why: str, details: str) -> Event:
    """What an earlier daemon of the directory has written is not believed; ``details`` says where the file is now."""
    return Event(
        "daemon.state_refused", "warning", at, f"the state of an earlier rankd is not used: {why} ({details})", None,
        {"reason": why, "error": details},
    )  # fmt: skip


def daemon_state_unwritten(at: float, why: str, *, over: bool) -> Event:
    """Should we die without a word, the next daemon will not know what we left. ``over``: it will again."""
    return Event(
        "daemon.state_unwritten", "info" if over else "warning", at,
        "the state for the next rankd is written again" if over else f"no state for the next rankd: {why}", None,
        {"reason": why, "over": over},
    )  # fmt: skip


def daemon_learnt_unkept(at: float, why: str) -> Event:
    """What was learnt of sections is not there, or will not be, for the next daemon: limits begin at their ceilings."""
    return Event(
        "daemon.learnt_unkept", "warning", at, f"what was learnt about sections is not kept: {why}", None,
        {"reason": why},
    )  # fmt: skip


def daemon_guardian_lost(at: float, why: str, *, over: bool) -> Event:
    """Workers would outlive a daemon that is killed now. ``over``: no other guardian is tried."""
    return Event(
        "daemon.guardian_lost", "error" if over else "warning", at,
        f"no guardian to end the workers if rankd is killed: {why}; {'it was the last' if over else 'trying another'}",
        None, {"reason": why, "over": over},
    )  # fmt: skip


# ---- control


def control_listening(at: float, path: str) -> Event:
    return Event("control.listening", "debug", at, f"control on {path}", None, {"path": path})


def control_unavailable(at: float, why: str) -> Event:
    """The daemon runs all the same, and answers to signals alone."""
    return Event("control.unavailable", "warning", at, f"no control socket: {why}", None, {"reason": why})


def control_command(at: float, verb: str, user: str, uid: int, group: str | None, details: str = "") -> Event:
    """Somebody has asked for something, and it is being done. ``details``: a rank, a signal."""
    words = " ".join(filter(None, (f"{user} asks: {verb}", group, details)))
    fields: dict[str, Any] = {"verb": verb, "user": user, "uid": uid} | ({"details": details} if details else {})
    return Event("control.command", "info", at, words, group, fields)


def daemon_undrained(at: float, who: str) -> Event:
    return Event("daemon.undrained", "info", at, f"drains no more, as {who} has asked", None, {"by": who})
