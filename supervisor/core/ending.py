"""How workers end, whose fault it was, and whether they run again."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from supervisor.core import events, restarts
from supervisor.core.events import By
from supervisor.core.messages import CancelTimer, ExitStatus, Worker, WorkerNotStarted
from supervisor.core.starting import resume_rank, settle_start
from supervisor.core.state import After, Ended, Failure, Group, Phase
from supervisor.core.stopping import settle_stop, stop
from supervisor.core.turn import Turn

CRASH_SIGNALS = frozenset({4, 5, 6, 7, 8, 11, 31})
"""SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGSEGV SIGSYS: what a process brings upon itself."""

START_FAILED = 75
"""Exit code of a group that could not start for want of something (EX_TEMPFAIL)."""


def worker_exited(turn: Turn, worker: Worker, status: ExitStatus) -> None:
    slot = turn.slot(worker)
    if slot is None or slot.pid is None or slot.status is not None:
        return
    group, now = turn.group, turn.now
    rank = group.rank(worker.rank)
    ran_for = now - slot.since
    by = _by(group, status)
    success = restarts.end_of(group.plan.restart, status) == "success"
    words = events.how_it_ended(status)
    turn.events.append(events.worker_exited(now, turn.who(worker), slot.pid, status, by, ran_for))
    turn.put(
        replace(slot, status=status, ready=False, since=now),
        ready=group.ready - slot.ready,
        ended={**group.ended, worker.rank: Ended(worker, now, slot.pid, status, by, success, words)},
    )
    if group.phase not in (Phase.STARTING, Phase.RUNNING):
        return
    if success and (group.plan.restart.policy != "always" or group.plan.restart.scope == "group"):
        # What follows when all have ended well is decided when the last is gone: see ``worker_gone``.
        if group.ready_at is not None and turn.group.ready == 0:
            turn.set(ready_at=None)
        settle_start(turn)
        return
    why = f"rank {rank} {words} after {ran_for:.1f} s"
    exit_code = 128 + status.signal if status.signal is not None else status.code or 0
    if not success:
        turn.events.append(
            events.worker_failed(
                now,
                turn.who(worker),
                f"{words} after {ran_for:.1f} s",
                root_cause=True,
                pid=slot.pid,
                status=status,
                exit_code=status.code,
            )
        )
    failure = Failure(now, worker.attempt, rank, why, exit_code, status)
    cause = "finished" if success else "exit" if status.signal is None else "signal"
    healthy_for = ran_for
    if group.plan.restart.scope == "group":
        healthy_for = now - group.ready_at if group.ready_at is not None else 0.0
    _worker_failed(turn, worker, "success" if success else "failure", cause, failure, healthy_for=healthy_for)


def _by(group: Group, status: ExitStatus) -> By:
    """Who ended it: we, if we had begun to stop it; itself, by exiting or crashing; else somebody outside."""
    if status.signal in CRASH_SIGNALS:
        return "itself"
    if group.phase in (Phase.STOPPING, Phase.FINISHED):
        return "daemon"
    return "itself" if status.signal is None else "outside"


def worker_not_started(turn: Turn, input: WorkerNotStarted) -> None:
    worker = input.worker
    slot = turn.slot(worker)
    if slot is None or slot.pid is not None:
        return
    group = turn.group
    ended = Ended(worker, turn.now, None, None, "daemon", False, input.reason)
    turn.drop(worker.rank, ended={**group.ended, worker.rank: ended})
    if input.fault == "abandoned" or group.phase not in (Phase.STARTING, Phase.RUNNING):
        settle_stop(turn)
        return
    end: restarts.End = "permanent" if input.fault == "permanent" else "transient"
    rank = group.rank(worker.rank)
    exit_code = input.exit_code if end == "permanent" else START_FAILED
    turn.events.append(
        events.worker_failed(
            turn.now,
            turn.who(worker),
            input.reason,
            root_cause=True,
            exit_code=exit_code,
        )
    )
    failure = Failure(turn.now, worker.attempt, rank, f"rank {rank}: {input.reason}", exit_code)
    _worker_failed(turn, worker, end, "start", failure, healthy_for=0.0)


def _worker_failed(
    turn: Turn, worker: Worker, end: restarts.End, cause: str, failure: Failure, *, healthy_for: float
) -> None:
    """A worker has ended otherwise than it should: restart it alone, or let the whole attempt fail."""
    group = turn.group
    if group.plan.restart.scope == "group" or end == "permanent":
        attempt_failed(turn, end, cause, failure, healthy_for=healthy_for)
        return
    verdict = _decide(turn, end, failure, healthy_for)
    match verdict:
        case restarts.Restart(pause, history):
            at = turn.now + pause
            turn.set(history=history, failure=failure, pauses={**group.pauses, worker.rank: at})
            left = restarts.restarts_left(group.plan.restart, history, turn.now)
            turn.events.append(
                events.group_restarting(
                    turn.now, group.plan.name, worker.attempt, failure.reason, cause, left, pause, failure.rank
                )
            )
            if group.ready_at is not None:
                turn.set(ready_at=None, why=failure.reason)
                turn.events.append(
                    events.group_degraded(
                        turn.now, group.plan.name, worker.attempt, turn.group.ready, group.plan.workers, failure.reason
                    )
                )
            if worker.rank not in turn.group.live:
                resume_rank(turn, worker.rank)
        case restarts.Failed():
            _give_up(turn, verdict, failure)
        case restarts.Succeeded():
            raise AssertionError("a success that is not to be repeated is no failure")
        case _:
            assert_never(verdict)


def attempt_failed(turn: Turn, end: restarts.End, cause: str, failure: Failure, *, healthy_for: float = 0.0) -> None:
    group = turn.group
    verdict = _decide(turn, end, failure, healthy_for)
    match verdict:
        case restarts.Restart(pause, history):
            turn.set(history=history, failure=failure)
            left = restarts.restarts_left(group.plan.restart, history, turn.now)
            turn.events.append(
                events.group_restarting(turn.now, group.plan.name, group.attempt, failure.reason, cause, left, pause)
            )
            stop(turn, After(pause), failure.reason)
        case restarts.Failed():
            _give_up(turn, verdict, failure)
        case restarts.Succeeded():
            raise AssertionError("a success that is not to be repeated is no failure")
        case _:
            assert_never(verdict)


def _decide(turn: Turn, end: restarts.End, failure: Failure, healthy_for: float) -> restarts.Verdict:
    group = turn.group
    exit_code = failure.status.code if failure.status else None
    return restarts.decide(
        group.plan.restart,
        group.history,
        end,
        exit_code=exit_code,
        healthy_for=healthy_for,
        now=turn.now,
        seed=group.seed,
    )


def _give_up(turn: Turn, verdict: restarts.Failed, failure: Failure) -> None:
    group = turn.group
    turn.set(failure=failure)
    if verdict.gave_up:
        turn.events.append(events.group_gave_up(turn.now, group.plan.name, group.attempt, verdict.why, failure.reason))
    why = f"{failure.reason}; not restarted: {verdict.why}"
    stop(turn, After(None, "failed", failure.exit_code or 1, why), failure.reason)


def worker_gone(turn: Turn, worker: Worker) -> None:
    slot = turn.slot(worker)
    if slot is None or slot.status is None:
        return
    group = turn.group
    if worker.rank in group.strays:
        strays = dict(group.strays)
        del strays[worker.rank]
        turn.set(strays=strays)
        turn.effects.append(CancelTimer(f"strays:{worker.rank}"))
    turn.drop(worker.rank, unkillable=group.unkillable - {worker.rank})
    if group.phase is Phase.STOPPING:
        settle_stop(turn)
    elif group.phase is Phase.RUNNING:
        if worker.rank in group.pauses:
            resume_rank(turn, worker.rank)
        else:
            _settle_run(turn)


def _settle_run(turn: Turn) -> None:
    """A running group of which nothing lives, and nothing is to come back, has ended well."""
    group = turn.group
    if group.live or group.pauses:
        return
    if group.plan.restart.policy != "always":
        turn.finish("succeeded", 0, "every worker has ended well")
        return
    healthy_for = turn.now - group.since
    attempt_failed(
        turn,
        "success",
        "finished",
        Failure(turn.now, group.attempt, -1, "every worker has ended well", 0, ExitStatus(0)),
        healthy_for=healthy_for,
    )
