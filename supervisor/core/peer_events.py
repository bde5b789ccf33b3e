"""What we tell the world of the other hosts of a group, in the past tense (see ``events``)."""

from __future__ import annotations

from supervisor.core.events import Event, ms
from supervisor.core.messages import Because, HowItEnded
from supervisor.plan import World


def rendezvous_joining(at: float, group: str, attempt: int) -> Event:
    return Event(
        "rendezvous.joining", "info", at, f"group {group} waits for the other hosts", group, {"attempt": attempt}
    )


def rendezvous_formed(at: float, group: str, attempt: int, world: World, restarts: int, took_for: float) -> Event:
    """``restarts``: how many the whole job has used."""
    hosts = world.group_world_size
    return Event(
        "rendezvous.formed", "info", at,
        f"round {world.round} is formed: {hosts} host{'s' * (hosts > 1)}, {world.world_size} ranks, here from "
        f"{world.base_rank}", group,
        {
            "attempt": attempt, "round": world.round, "hosts": hosts, "group_rank": world.group_rank,
            "world_size": world.world_size, "base_rank": world.base_rank, "restarts": restarts,
            "duration_ms": ms(took_for),
        },
    )  # fmt: skip


def rendezvous_changed(
    at: float, group: str, attempt: int, round: int, reason: str, because: Because, host: str
) -> Event:
    """The world is no more what it was: a host has come or gone."""
    name = "rendezvous.peer_joined" if because == "arrived" else "rendezvous.peer_left"
    fields = {"attempt": attempt, "round": round, "peer": host, "reason": reason}
    return Event(name, "info" if because == "arrived" else "warning", at, reason, group, fields)


def rendezvous_ended(at: float, group: str, attempt: int, how: HowItEnded, reason: str, exit_code: int) -> Event:
    """There will be no further round: the job is over, or this host has given up on it."""
    name = "rendezvous.closed" if how == "closed" else "rendezvous.timed_out"
    return Event(
        name, "info" if how == "closed" else "error", at, reason, group,
        {"attempt": attempt, "reason": reason, "exit_code": exit_code},
    )  # fmt: skip


def rendezvous_lost(at: float, group: str, attempt: int, reason: str) -> Event:
    return Event(
        "rendezvous.lost", "warning", at, f"group {group} is cut off from the other hosts: {reason}", group,
        {"attempt": attempt, "reason": reason},
    )  # fmt: skip


def rendezvous_recovered(at: float, group: str, attempt: int) -> Event:
    return Event(
        "rendezvous.recovered", "info", at, f"group {group} hears of the other hosts again", group, {"attempt": attempt}
    )


def rendezvous_record_refused(at: float, group: str, key: str, why: str) -> Event:
    """What the store holds under ``key`` counts as not there."""
    return Event(
        "rendezvous.record_refused", "warning", at, f"{key} in the store cannot be used: {why}", group,
        {"key": key, "reason": why},
    )  # fmt: skip


def exit_barrier_waiting(at: float, group: str, attempt: int, wait: float) -> Event:
    return Event(
        "exit_barrier.waiting", "info", at, f"every worker of group {group} on this host has ended well; the other "
        f"hosts have {wait:g} s", group, {"attempt": attempt, "timeout_ms": ms(wait)},
    )  # fmt: skip


def exit_barrier_done(at: float, group: str, attempt: int, why: str, *, in_time: bool) -> Event:
    return Event(
        "exit_barrier.done", "info" if in_time else "warning", at, f"group {group} waits no longer: {why}", group,
        {"attempt": attempt, "reason": why, "in_time": in_time},
    )  # fmt: skip
