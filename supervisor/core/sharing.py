"""What a group does whose world has other hosts: it does not decide alone whether it goes on.

A failure is told to the others and the workers are stopped; what follows, another round or the job's end, is what all
hosts agree upon, by one budget. Who succeeds waits for the others.
"""

from __future__ import annotations

from typing import assert_never

from supervisor.core import events, peer_events, restarts
from supervisor.core.messages import (
    CancelTimer,
    JobEnded,
    PeersAwaited,
    PeersFound,
    PeersLost,
    ReportFailure,
    ReportSuccess,
    SetTimer,
    WorldLost,
)
from supervisor.core.state import Again, Failure, Phase, Verdict
from supervisor.core.stopping import stop
from supervisor.core.turn import Turn


def is_shared(turn: Turn) -> bool:
    """Whether the group is in a world that others decide upon as well."""
    return turn.group.plan.rendezvous.is_elastic and turn.group.world is not None


def give_up_to_peers(turn: Turn, verdict: restarts.Failed, failure: Failure) -> None:
    """This host would not restart. Whether the job ends is seen when all have agreed: another failure may have been
    first, or it may come of a host that is gone."""
    turn.set(failure=failure)
    turn.effects.append(ReportFailure(failure.reason, failure.exit_code or 1, final=not verdict.gave_up))
    stop(turn, Again(0.0, failure.exit_code or 1, failure.reason), failure.reason)


def wait_at_barrier(turn: Turn) -> None:
    """All of this host have succeeded: it stays, ready as it was, until the others have as well."""
    group = turn.group
    wait = group.plan.rendezvous.exit_barrier_timeout
    turn.set(why="waits for the workers of other hosts", barrier_at=turn.now + wait)
    turn.effects.extend([ReportSuccess(), SetTimer("barrier", turn.now + wait)])
    turn.events.append(peer_events.exit_barrier_waiting(turn.now, group.plan.name, group.attempt, wait))


def barrier_over(turn: Turn) -> None:
    """The others take too long: what this host had to do is done."""
    group = turn.group
    why = f"the other hosts have not finished within {group.plan.rendezvous.exit_barrier_timeout:g} s"
    turn.events.append(peer_events.exit_barrier_done(turn.now, group.plan.name, group.attempt, why, in_time=False))
    turn.finish(Verdict("succeeded", 0, why))


def peers_told(turn: Turn, told: WorldLost | JobEnded | PeersAwaited | PeersLost | PeersFound) -> None:
    """What is heard of the other hosts, or not heard any more."""
    match told:
        case WorldLost():
            _world_lost(turn, told)
        case JobEnded():
            _job_ended(turn, told)
        case PeersAwaited(attempt, reason):
            if turn.group.phase is Phase.STARTING and attempt == turn.group.attempt and turn.group.world is None:
                turn.set(why=reason)
        case PeersLost():
            _peers_lost(turn, told)
        case PeersFound():
            _peers_found(turn)
        case _:
            assert_never(told)


def _world_lost(turn: Turn, lost: WorldLost) -> None:
    """Stop, and join again. Nothing is charged for it here: what a failure elsewhere has cost, the next round says."""
    group = turn.group
    if lost.attempt != group.attempt or group.phase not in (Phase.STARTING, Phase.RUNNING):
        return
    if group.world is None or not group.plan.rendezvous.is_elastic:
        return
    name, attempt = group.plan.name, group.attempt
    if lost.because in ("arrived", "left"):
        turn.events.append(
            peer_events.rendezvous_changed(
                turn.now, name, attempt, group.world.round, lost.reason, lost.because, lost.host
            )
        )
    left = restarts.restarts_left(group.plan.restart, group.history, turn.now)
    cause = "peer_failed" if lost.because == "failed" else "membership"
    if left and cause == "peer_failed":
        left -= 1  # as where it has failed: this restart is not left any more
    turn.events.append(events.group_restarting(turn.now, name, attempt, lost.reason, cause, left, 0.0))
    stop(turn, Again(0.0, 1, lost.reason), lost.reason)


def _job_ended(turn: Turn, ended: JobEnded) -> None:
    """All hosts know the same of it, and exit with the same code."""
    group = turn.group
    if group.phase in (Phase.WAITING, Phase.FINISHED):
        return
    verdict = Verdict(ended.outcome, ended.exit_code, ended.why)
    name, attempt = group.plan.name, group.attempt
    turn.events.append(peer_events.rendezvous_ended(turn.now, name, attempt, ended.how, ended.why, ended.exit_code))
    if group.barrier_at is not None:
        turn.events.append(peer_events.exit_barrier_done(turn.now, name, attempt, ended.why, in_time=True))
    if ended.outcome == "failed":
        if ended.how == "closed" and restarts.restarts_left(group.plan.restart, group.history, turn.now) == 0:
            why = restarts.budget_in_words(group.plan.restart)
            turn.events.append(events.group_gave_up(turn.now, name, attempt, why, ended.why))
        if group.failure is None or group.failure.reason not in ended.why:
            turn.set(failure=Failure(turn.now, attempt, -1, ended.why, ended.exit_code))
    match group.phase:
        case Phase.STARTING | Phase.RUNNING:
            stop(turn, verdict, ended.why)
        case Phase.STOPPING:
            if isinstance(group.after, Again):
                turn.set(after=verdict, why=ended.why)
        case Phase.BACKING_OFF:
            turn.effects.append(CancelTimer("backoff"))
            turn.finish(verdict)
        case _:
            assert_never(group.phase)


def _peers_lost(turn: Turn, lost: PeersLost) -> None:
    """Workers go on; the group is not ready as long as nobody knows what the others do."""
    group = turn.group
    if group.cut_off or group.phase in (Phase.WAITING, Phase.FINISHED):
        return
    turn.set(cut_off=lost.reason)
    turn.events.append(peer_events.rendezvous_lost(turn.now, group.plan.name, group.attempt, lost.reason))


def _peers_found(turn: Turn) -> None:
    if turn.group.cut_off:
        turn.set(cut_off="")
        turn.events.append(peer_events.rendezvous_recovered(turn.now, turn.group.plan.name, turn.group.attempt))
