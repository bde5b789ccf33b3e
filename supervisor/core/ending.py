"""How workers end, whose fault it was, and whether they run again."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from supervisor.core import events, restarts
from supervisor.core.events import By
from supervisor.core.messages import CancelTimer, ExitStatus, ReportFailure, Worker, WorkerExited, WorkerNotStarted
from supervisor.core.sharing import give_up_to_peers, is_shared, wait_at_barrier
from supervisor.core.starting import resume_rank, settle_start
from supervisor.core.state import Again, Condemned, Ended, Failure, Group, Phase, Slot, Verdict
from supervisor.core.stopping import halt, settle_stop, stop
from supervisor.core.turn import Turn, degrade

CRASH_SIGNALS = frozenset({4, 5, 6, 7, 8, 11, 31})
"""SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGSEGV SIGSYS: what a process brings upon itself."""

START_FAILED = 75
"""Exit code of a group that could not start for want of something (EX_TEMPFAIL)."""


def worker_exited(turn: Turn, exited: WorkerExited) -> None:
    worker, status = exited.worker, exited.status
    slot = turn.slot(worker)
    if slot is None or slot.pid is None or slot.status is not None:
        return
    group, now = turn.group, turn.now
    rules = group.plan.restart
    ran_for = now - slot.since
    condemned = slot.condemned
    let_go = (condemned is not None and condemned.by == "daemon") or worker.rank >= group.plan.workers
    if condemned is not None and condemned.by in ("probe", "daemon") and exited.unasked:
        condemned = None  # it had ended by then; one that hangs had been found before
    by = _by(group, exited, condemned)
    end: restarts.End = "failure" if condemned is not None else restarts.end_of(rules, status)
    success = end == "success"
    words = events.how_it_ended(status, by, exited.evidence)
    if condemned is not None and not let_go:
        words = f"{condemned.reason} and {words}"
    turn.events.append(events.worker_exited(now, turn.who(worker), slot.pid, status, by, ran_for, words))
    running = group.phase in (Phase.STARTING, Phase.RUNNING)
    turn.put(
        Slot(worker, now, slot.pid, status),
        ready=group.ready - (running and slot.is_ready),
        ended=group.ended.put(
            worker.rank, Ended(worker, now, slot.pid, status, by, success and not let_go, words, exited.returned)
        ),
    )
    after = f"{words} after {ran_for:.1f} s"
    if not success and by != "daemon":
        root_cause = running and not let_go and group.suspect in (None, worker)
        turn.events.append(
            events.worker_failed(
                now, turn.who(worker), after, root_cause=root_cause, by=by, pid=slot.pid, status=status,
                exit_code=status.code, stderr_tail=exited.stderr_tail, error=exited.error,
                evidence=condemned.evidence if condemned is not None else "",
            )
        )  # fmt: skip
    if not running:
        return
    if slot.condemned is not None:
        turn.effects.append(CancelTimer(f"condemned:{worker.rank}"))
    if let_go:
        if worker.rank < group.plan.workers:
            turn.set(pauses=group.pauses.put(worker.rank, now))  # its replacement starts when all of it is gone
        return
    if success and rules.scope == "group":
        _ended_well(turn)
        return
    if group.suspect not in (None, worker):
        return  # it may well have failed for want of the one that hangs, whose end is not far
    rank = group.rank(worker.rank)
    exit_code = 128 + status.signal if status.signal is not None else status.code or 0
    failure = Failure(now, worker.attempt, rank, f"rank {rank} {after}", exit_code, status)
    cause = "finished" if success else "exit" if status.signal is None else "signal"
    if condemned is not None:
        cause = condemned.by
    if rules.scope == "worker":
        _rank_ended(turn, worker, end, cause, failure, healthy_for=ran_for)
    else:
        attempt_ended(
            turn, end, cause, failure, healthy_for=now - group.ready_at if group.ready_at is not None else 0.0
        )


def _by(group: Group, exited: WorkerExited, condemned: Condemned | None) -> By:
    """Who ended it: the kernel, where that is proved; what we had found it failed by; we, if we had begun to stop it,
    or somebody had us send it that signal; itself, by exiting or crashing; else somebody outside."""
    status = exited.status
    if exited.oom:
        return "oom"
    if condemned is not None:
        return condemned.by
    if group.phase in (Phase.STOPPING, Phase.FINISHED) and not exited.unasked:
        ours = any(status.signal == rung.signal for rung in group.plan.stop.ladder)
        return "itself" if status.signal in CRASH_SIGNALS and not ours else "daemon"
    if status.signal is not None and status.signal == exited.sent:
        return "daemon"
    return "itself" if status.signal is None or status.signal in CRASH_SIGNALS else "outside"


def _ended_well(turn: Turn) -> None:
    """One worker is done. What follows when all are is decided when the last is gone: see ``worker_gone``."""
    group = turn.group
    turn.set(well=group.well + 1)
    if is_shared(turn):
        settle_start(turn)  # ready as it is, until it is known how the other hosts have fared
        return
    if not group.ready and not any(slot.status is None for slot in group.live.values()):
        turn.set(ready_at=None, why="no worker runs any more")
    settle_start(turn)


def worker_not_started(turn: Turn, input: WorkerNotStarted) -> None:
    worker = input.worker
    slot = turn.slot(worker)
    if slot is None or slot.pid is not None:
        return
    group = turn.group
    by: By = "daemon" if input.fault == "abandoned" else "itself"
    ended = Ended(worker, turn.now, None, None, by, False, input.reason)
    turn.drop(worker.rank, awaited=group.awaited - 1, ended=group.ended.put(worker.rank, ended))
    if group.phase not in (Phase.STARTING, Phase.RUNNING):
        settle_stop(turn)
        return
    if worker.rank >= group.plan.workers:
        return
    end: restarts.End = "permanent" if input.fault == "permanent" else "transient"
    rank = group.rank(worker.rank)
    exit_code = input.exit_code if end == "permanent" else START_FAILED
    turn.events.append(
        events.worker_failed(turn.now, turn.who(worker), input.reason, root_cause=True, exit_code=exit_code)
    )
    failure = Failure(turn.now, worker.attempt, rank, f"rank {rank}: {input.reason}", exit_code)
    if group.plan.restart.scope == "worker":
        _rank_ended(turn, worker, end, "start", failure, healthy_for=0.0)
    else:
        attempt_ended(turn, end, "start", failure)


def _rank_ended(
    turn: Turn, worker: Worker, end: restarts.End, cause: str, failure: Failure, *, healthy_for: float
) -> None:
    """One rank of a group with scope "worker" has ended, or could not start: the others run on if it may restart."""
    roll = turn.group.roll
    if turn.group.rolls and roll is not None and worker.rank in roll.renewed:
        turn.set(roll=roll._replace(taken=roll.taken | {worker.rank}))  # its replacement is not there after all
    verdict = _decide(turn, end, failure, healthy_for, turn.group.history_of(worker.rank))
    match verdict:
        case restarts.Succeeded():
            _ended_well(turn)
        case restarts.Restart(pause):
            group = _restart(turn, verdict, end, cause, failure, worker.rank)
            turn.set(pauses=group.pauses.put(worker.rank, turn.now + pause))
            degrade(turn, worker.attempt, failure.reason)
            if worker.rank not in group.live:
                resume_rank(turn, worker.rank)
        case restarts.Failed():
            if turn.group.roll is not None and _others_serve(turn.group, worker.rank):
                ended = replace(
                    turn.group.ended[worker.rank], success=False
                )  # it may be an end that was to be repeated
                turn.set(failure=failure, ended=turn.group.ended.put(worker.rank, ended))
                halt(turn, f"{failure.reason}; not restarted: {verdict.why}")
                degrade(turn, worker.attempt, failure.reason)
            else:
                _give_up(turn, verdict, failure)
        case _:
            assert_never(verdict)


def _others_serve(group: Group, rank: int) -> bool:
    """Whether the group would go on without that rank."""
    running = (slot.worker.rank for slot in group.live.values() if slot.status is None)
    return any(other != rank for other in (*running, *group.pauses))


def attempt_ended(turn: Turn, end: restarts.End, cause: str, failure: Failure, *, healthy_for: float = 0.0) -> None:
    """The attempt as a whole has failed, or has come to its end."""
    verdict = _decide(turn, end, failure, healthy_for, turn.group.history)
    shared = is_shared(turn)
    match verdict:
        case restarts.Succeeded() if shared:
            wait_at_barrier(turn)
        case restarts.Succeeded():
            turn.finish(Verdict("succeeded", 0, failure.reason))
        case restarts.Restart(pause):
            if shared:
                turn.effects.append(ReportFailure(failure.reason, failure.exit_code or 1))
            _restart(turn, verdict, end, cause, failure)
            stop(turn, Again(pause, failure.exit_code, failure.reason), failure.reason)
        case restarts.Failed() if shared:
            give_up_to_peers(turn, verdict, failure)
        case restarts.Failed():
            _give_up(turn, verdict, failure)
        case _:
            assert_never(verdict)


def _decide(
    turn: Turn, end: restarts.End, failure: Failure, healthy_for: float, history: restarts.History
) -> restarts.Verdict:  # fmt: skip
    group = turn.group
    return restarts.decide(
        group.plan.restart,
        history,
        end,
        exit_code=failure.status.code if failure.status else None,
        healthy_for=healthy_for,
        now=turn.now,
        seed=group.seed,
    )


def _restart(
    turn: Turn, verdict: restarts.Restart, end: restarts.End, cause: str, failure: Failure, rank: int | None = None
) -> Group:
    """Count the restart, of that local rank or of all, and say so. A success to be repeated is no failure to keep."""
    group = turn.group
    roll = group.roll
    if roll is not None and rank in roll.renewed:
        turn.set(roll=roll._replace(history=verdict.history))
    else:
        turn.set(history=verdict.history)
    turn.set(failure=group.failure if end == "success" else failure)
    left = restarts.restarts_left(group.plan.restart, verdict.history, turn.now)
    turn.events.append(
        events.group_restarting(
            turn.now,
            group.plan.name,
            failure.attempt,
            failure.reason,
            cause,
            left,
            verdict.pause,
            None if rank is None else failure.rank,
        )
    )
    return turn.group


def _give_up(turn: Turn, verdict: restarts.Failed, failure: Failure) -> None:
    group = turn.group
    turn.set(failure=failure)
    if verdict.gave_up:
        turn.events.append(events.group_gave_up(turn.now, group.plan.name, group.attempt, verdict.why, failure.reason))
    why = f"{failure.reason}; not restarted: {verdict.why}"
    stop(turn, Verdict("failed", failure.exit_code or 1, why), failure.reason)


def worker_gone(turn: Turn, worker: Worker) -> None:
    slot = turn.slot(worker)
    if slot is None or slot.status is None:
        return
    group = turn.group
    rank = worker.rank
    turn.drop(rank)
    if rank in group.strays:
        turn.set(strays=group.strays.drop(rank))
        turn.effects.append(CancelTimer(f"strays:{rank}"))
    if rank in group.pauses:
        resume_rank(turn, rank)
    elif group.phase is Phase.RUNNING:
        settle_run(turn)
    else:
        settle_stop(turn)


def settle_run(turn: Turn) -> None:
    """A running group of which nothing lives, and nothing is to come back, has ended well, unless a roll had halted."""
    group = turn.group
    if group.phase is not Phase.RUNNING or group.live or group.pauses or group.rolls:
        return
    if group.roll is not None and any(group.is_missing(rank) for rank in range(group.plan.workers)):
        assert group.failure is not None
        stop(turn, Verdict("failed", group.failure.exit_code or 1, group.failure.reason), group.failure.reason)
        return
    turn.set(roll=None)  # one that had halted, and whose missing ranks somebody has brought back
    ending = Failure(turn.now, group.attempt, -1, "every worker has ended well", 0, ExitStatus(0))
    attempt_ended(turn, "success", "finished", ending, healthy_for=turn.now - group.since)
