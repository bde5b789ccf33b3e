"""A snapshot as JSON: the whole of it for ``/status``, and one health question for ``application/health+json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from supervisor import __version__, clock
from supervisor.core import health
from supervisor.core.health import Answer, FailureView, GroupView, RendezvousView, Snapshot, WorkerView


def status(snapshot: Snapshot, about: Mapping[str, str]) -> dict[str, Any]:
    """Everything that is known of the groups. ``about`` says whose it is (service, host, run_id).

    Instants are RFC 3339 in UTC, ``..._s`` are seconds. Neither argv nor environment nor paths.
    """
    started, ready = health.started(snapshot), health.ready(snapshot)
    return {
        **about,
        "version": __version__,
        "time": clock.rfc3339(snapshot.at),
        "stage": snapshot.stage,
        "why": snapshot.why,
        "started": started.ok,
        "ready": ready.ok,
        "reasons": list(dict.fromkeys(started.reasons + ready.reasons)),
        "groups": {name: _group(view, snapshot.at) for name, view in snapshot.groups.items()},
    }


def _group(view: GroupView, now: float) -> dict[str, Any]:
    return {
        "phase": view.phase,
        "since": clock.rfc3339(view.since),
        "for_s": _seconds(now - view.since),
        "why": view.why,
        "next": view.next,
        "next_at": None if view.next_at is None else clock.rfc3339(view.next_at),
        "next_in_s": None if view.next_at is None else _seconds(max(0.0, view.next_at - now)),
        "ready": view.ready,
        "ready_workers": view.ready_workers,
        "size": view.size,
        "required": view.required,
        "was_ready": view.was_ready,
        "succeeded": view.succeeded,
        "failed": view.failed,
        "stopped_by": view.stopped_by,
        "roll": None if view.roll is None else {"replaced": view.roll.replaced, "halted": view.roll.halted},
        "attempt": view.attempt,
        "round": view.round,
        "hosts": view.hosts,
        "cut_off": view.cut_off,
        "shared": view.shared,
        "restarts": view.restarts,
        "restarts_left": view.restarts_left,
        "last_failure": None if view.last_failure is None else _failure(view.last_failure),
        **view.returned,
        **({"learnt": view.learnt} if view.learnt else {}),
        **({} if view.rendezvous is None else {"rendezvous": _rendezvous(view.rendezvous)}),
        "workers": [_worker(worker) for worker in view.workers],
    }


def _rendezvous(view: RendezvousView) -> dict[str, Any]:
    hosts, states = view.listed, view.states
    return {
        "round": view.round,
        "phase": view.phase,
        "state": view.state,
        "waiting_since": None if view.waiting_since is None else clock.rfc3339(view.waiting_since),
        "min_hosts": view.min_hosts,
        "max_hosts": view.max_hosts,
        "leader": view.leader,
        "states": None if states is None else dict(states),
        "hosts": None if hosts is None else [asdict(host) for host in hosts],
    }


def _worker(view: WorkerView) -> dict[str, Any]:
    said: dict[str, Any] = {"status": view.status, "progress": view.progress}
    if view.sections:
        said["sections"] = [{"name": name, "since": clock.rfc3339(since)} for name, since in view.sections]
    return {
        "rank": view.rank,
        "local_rank": view.local_rank,
        "state": view.state,
        "since": clock.rfc3339(view.since),
        "pid": view.pid,
        "attempt": view.attempt,
        "exit": view.exit,
        "why": view.why,
        **{name: value for name, value in said.items() if value not in ("", None)},
    }


def _failure(view: FailureView) -> dict[str, Any]:
    return {
        "at": clock.rfc3339(view.at),
        "attempt": view.attempt,
        "rank": view.rank,
        "reason": view.reason,
        "exit_code": view.exit_code,
        "signal": view.signal,
    }


def health_document(answer: Answer, snapshot: Snapshot, groups: Iterable[GroupView]) -> dict[str, Any]:
    """One answer in the form of draft-inadarei-api-health-check-06: ``warn`` is ``pass`` with something to look at."""
    at = clock.rfc3339(snapshot.at)
    checks = {f"{view.name}:ready_workers": [_check(view, at)] for view in groups}
    verdict = "fail" if not answer.ok else "pass"
    if answer.ok and any(check["status"] != "pass" for (check,) in checks.values()):
        verdict = "warn"
    document: dict[str, Any] = {"status": verdict, "description": f"rankd is {snapshot.stage}"}
    if answer.reasons:
        document["output"] = "; ".join(answer.reasons)
    return {**document, "checks": checks} if checks else document


def _check(view: GroupView, at: str) -> dict[str, Any]:
    well = view.ready or view.succeeded
    check: dict[str, Any] = {
        "componentType": "component",
        "observedValue": view.ready_workers,
        "observedUnit": "workers",
        "status": "pass" if well else "fail" if view.required else "warn",
        "time": at,
    }
    if not well:
        check["output"] = f"{view.phase}: {view.why}" if view.why else view.phase
    return check


def _seconds(duration: float) -> float:
    return round(duration, 3)
