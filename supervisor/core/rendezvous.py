"""Which hosts make a world, and with which ranks. Records and instants in, the next action out.

What the hosts share:

- one *round* record, open, formed or closed. Its number only grows, and only a formed round is followed by another, so
  a round that has a successor was formed;
- a *host* record for every host that is there (its lease keeps it) and is willing;
- a *seat* for every host with a place in a round. Seats outlive their hosts.

Any host may open the next round or close the last. One host at a time, the leader, plans the seats and forms the round.
Everything is written under the condition that the round, and for the leader the leadership, is still what it was when
this was decided: so what was meant for one round cannot land in the next, and two leaders cannot both form one. A
leader decides only on what it has read since it became one and since it last wrote: nobody else plans seats, so then it
knows them all.

A worker that fails may be the first that is heard of a host that has died: its peers lose their connections before its
lease ends. So a failure is charged as it is told, and given back if a host of that round turns out to be gone; and the
job is not closed for one before it is seen that the others are still there.

A host's workers run in a round from the moment it reads a formed round and its own seat in it until the host says
itself free for a later one. It is not given another seat before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never

from supervisor.core.messages import Because
from supervisor.plan import World, assign_seats


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the job has ended: the same words and the same exit code on every host."""

    outcome: Literal["succeeded", "failed"]
    why: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """The one record that all hosts follow. ``why`` says what this round is for, or why it was closed.

    ``because`` is that in one word, and ``host`` who has arrived, left, failed or asked for it; both empty otherwise.
    An open round that has a verdict is closed with it unless a host of the last round is gone.

    ``restarts`` counts those that the whole job has used. From ``hosts`` on it is about the world once formed.
    """

    number: int
    phase: Literal["open", "formed", "closed"]
    why: str
    restarts: int = 0
    hosts: int = 0
    world_size: int = 0
    master_addr: str = ""
    master_port: int = 0
    verdict: Verdict | None = None
    because: Because | Literal[""] = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A host that is there. ``life`` differs each time that rankd starts on it; ``arrived`` orders hosts by age.

    ``free_from`` is the first round that it can take part in, having no worker of an earlier one left. ``port`` is one
    that is free there for the next round's rank 0 to listen on, at ``addr``.
    """

    name: str
    life: str
    addr: str
    port: int
    workers: int
    role: str
    free_from: int = 0
    arrived: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of one life of a host in one round: what its workers need beside the round to know their ranks.

    ``succeeded``: all of its workers have.
    """

    host: str
    life: str
    round: int
    group_rank: int
    base_rank: int
    base_role_rank: int
    role_world_size: int
    succeeded: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker of ``host`` has failed; ``final``: the job with it, whatever its budget."""

    host: str
    why: str
    exit_code: int
    final: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """How many hosts, and the longest waits: ``join_for`` of a host for a world, ``last_call_for`` of enough for more.

    ``lease_for``: seconds after which a host that is dead is known to be. ``stop_for``: that workers may take to stop.
    A job that restarts more often than ``max_restarts`` has failed; -1: it never has.
    """

    min_hosts: int
    max_hosts: int
    join_for: float = 600.0
    last_call_for: float = 30.0
    lease_for: float = 5.0
    stop_for: float = 0.0
    max_restarts: int = 3


@dataclass(frozen=True, slots=True)
class Table:
    """What the leader knows: the round, and hosts and seats by the names of hosts."""

    round: Round | None = None
    hosts: Mapping[str, Host] = field(default_factory=dict)
    seats: Mapping[str, Seat] = field(default_factory=dict)


# ---- what the leader does


@dataclass(frozen=True, slots=True)
class Turn:
    """Write this round: the next one, open, or the last one, closed."""

    round: Round


@dataclass(frozen=True, slots=True)
class Form:
    """Write these seats, delete those of ``unseat``, and then, when all of that is done, the round."""

    round: Round
    seats: tuple[Seat, ...]
    unseat: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before something changes, or before the instant ``until``."""

    until: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """What a leader has to remember: since when the round ``number`` has had enough hosts, or a verdict."""

    number: int = 0
    enough_at: float | None = None


def preside(table: Table, rules: Rules, call: Call, now: float) -> tuple[Call, Turn | Form | Wait]:
    """The leader's next action. The ``Call`` is for the next time; a new leader begins with ``Call()``."""
    round = table.round
    if round is None:
        return Call(), Turn(Round(1, "open", "the first host is here"))
    match round.phase:
        case "closed":
            return Call(), Wait()
        case "formed":
            return Call(), _look_after(round, table, rules)
        case "open":
            if round.because == "failed" and (gone := _gone(table, round)):
                return call, Turn(_given_back(round, gone))
            if round.verdict is not None:
                return _doubt(round, round.verdict, table, rules, call, now)
            return _gather(round, table, rules, call, now)
        case _:
            assert_never(round.phase)


def _look_after(round: Round, table: Table, rules: Rules) -> Turn | Wait:
    seats = [seat for seat in table.seats.values() if seat.round == round.number]
    running = [seat for seat in seats if not seat.succeeded]
    if not running:
        return Turn(closed(round, Verdict("succeeded", "all workers have succeeded")))
    for seat in sorted(running, key=lambda seat: seat.group_rank):
        host = table.hosts.get(seat.host)
        if host is None:
            return Turn(opened(round, f"host {seat.host} has left", "left", seat.host))
        if host.life != seat.life:
            return Turn(opened(round, f"rankd has started anew on host {seat.host}", "left", seat.host))
        if host.free_from > round.number:
            return Turn(opened(round, f"host {seat.host} asks for another round", "asked", seat.host))
    if len(running) == len(seats) < rules.max_hosts:
        here = {seat.host for seat in seats}
        arrived = sorted(name for name in table.hosts if name not in here and is_ready(table, name, round))
        if arrived:
            return Turn(opened(round, f"host {arrived[0]} has arrived", "arrived", arrived[0]))
    return Wait()


def _gone(table: Table, round: Round) -> str:
    """A host of the last round that is not there any more, other than the one whose worker has failed; or ""."""
    seats = [seat for seat in table.seats.values() if seat.round == round.number - 1 and not seat.succeeded]
    for seat in sorted(seats, key=lambda seat: seat.group_rank):
        if seat.host != round.host and not _seated(table, seat.host):
            return seat.host
    return ""


def _given_back(round: Round, gone: str) -> Round:
    """The same round, opened for a host that is gone instead of a failure. One with a verdict was not charged."""
    charged = round.verdict is None
    return Round(
        round.number, "open", f"host {gone} has left", round.restarts - charged, because="left", host=gone
    )  # fmt: skip


def _members(table: Table, round: Round) -> set[str]:
    """Who has a seat in the last round, or in this one, and is there."""
    return {name for name in table.hosts if _seated(table, name) and table.seats[name].round >= round.number - 1}


def _doubt(
    round: Round, verdict: Verdict, table: Table, rules: Rules, call: Call, now: float
) -> tuple[Call, Turn | Wait]:
    """Close the round with its verdict, once all of the last round have been heard of, or would have been."""
    since = call.enough_at if call.number == round.number and call.enough_at is not None else now
    over_at = since + rules.lease_for + 1.0
    heard_of = all(is_ready(table, name, round) for name in _members(table, round))
    if heard_of or now >= over_at:
        return Call(), Turn(closed(round, verdict))
    return Call(round.number, since), Wait(over_at)


def _gather(round: Round, table: Table, rules: Rules, call: Call, now: float) -> tuple[Call, Form | Wait]:
    """Form the round once enough hosts are ready, and those who should not be left out as well.

    Who was in the last round and still is there is waited for, so that an early spare does not take its place; for
    anybody else only if without strangers there would not be enough. Both end with the last call, but not before
    workers have had their time to stop: without a host that is slow at it, the round would be over as soon as that host
    is free, and so would the next, for ever.
    """
    ready = {name for name in table.hosts if is_ready(table, name, round)}
    members = _members(table, round)
    if len(ready) < rules.min_hosts:
        return Call(round.number), Wait()
    enough_at = call.enough_at if call.number == round.number and call.enough_at is not None else now
    complete = members <= ready and (len(ready) >= rules.max_hosts or len(members) >= rules.min_hosts)
    over_at = enough_at + rules.last_call_for
    if not members <= ready:
        known_after = rules.lease_for if round.because == "failed" else 0.0
        over_at = max(over_at, enough_at + max(known_after, rules.stop_for) + 1.0)
    if not complete and now < over_at:
        return Call(round.number, enough_at), Wait(over_at)
    by_claim = sorted(ready, key=lambda name: (name not in members, table.hosts[name].arrived, name))
    return Call(round.number, enough_at), _form(round, table, sorted(by_claim[: rules.max_hosts]))


def _form(round: Round, table: Table, names: list[str]) -> Form:
    """The round with the hosts of ``names``, which are in the order of their ranks."""
    hosts = [table.hosts[name] for name in names]
    places = assign_seats([(host.role, host.workers) for host in hosts])
    formed = replace(
        round, phase="formed", hosts=len(hosts), world_size=places[0].world_size, master_addr=hosts[0].addr,
        master_port=hosts[0].port,
    )  # fmt: skip
    seats = tuple(
        Seat(host.name, host.life, round.number, rank, place.base_rank, place.base_role_rank, place.role_world_size)
        for rank, (host, place) in enumerate(zip(hosts, places, strict=True))
    )
    chosen = set(names)
    # A seat of this very round was planned by a leader who did not live to form it: once it is formed, it would count.
    unseat = sorted(
        name
        for name, seat in table.seats.items()
        if name not in chosen and (seat.round == round.number or not _seated(table, name))
    )
    return Form(formed, seats, tuple(unseat))


def _seated(table: Table, name: str) -> bool:
    """Whether the host's seat, of whatever round, is of the life that it leads now."""
    seat, host = table.seats.get(name), table.hosts.get(name)
    return seat is not None and host is not None and seat.life == host.life


def is_ready(table: Table, name: str, round: Round) -> bool:
    """Whether the host runs no workers, as far as anybody can know: it has had no seat, or has left its round."""
    seat = table.seats.get(name)
    if seat is None or not _seated(table, name):
        return True
    only_planned = round.phase == "open" and seat.round == round.number
    return only_planned or table.hosts[name].free_from > seat.round


# ---- what any host may write


def opened(round: Round, why: str, because: Because, host: str, *, restarts: int = 0) -> Round:
    """The round after a formed one. A change of hosts uses no restart."""
    assert round.phase == "formed", "an open round is not followed by another: see the head of this file"
    return Round(round.number + 1, "open", why, round.restarts + restarts, because=because, host=host)


def closed(round: Round, verdict: Verdict) -> Round:
    """The end of the job, for all hosts and for those that come later."""
    return replace(round, phase="closed", why=verdict.why, verdict=verdict)


def failed(round: Round, rules: Rules, failure: Failed) -> Round:
    """What follows when a worker has failed in a formed round: the next round, or the job's end.

    Written under the condition that the round is unchanged: so of several failures in a round one is counted.
    """
    verdict = Verdict("failed", failure.why, failure.exit_code)
    if failure.final:
        return closed(round, verdict)
    if 0 <= rules.max_restarts <= round.restarts:
        return replace(opened(round, failure.why, "failed", failure.host), verdict=verdict)
    return opened(round, failure.why, "failed", failure.host, restarts=1)


# ---- what a host does


@dataclass(frozen=True, slots=True)
class Start:
    """Start the workers of this world."""

    world: World


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the workers, and say that the host is free once the last is gone."""

    why: str


@dataclass(frozen=True, slots=True)
class SayFree:
    """Write ``free_from`` into the host's record: it had a seat in a round that was over before its workers ran."""

    free_from: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The job is over."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No world has come in time. Trying again later may help."""

    why: str


@dataclass(frozen=True, slots=True)
class Myself:
    """What a host knows of itself. ``running``: the round whose workers run here or are being stopped; 0: none.

    ``waiting_since``: since when it has run none and has waited for a place in the round ``waiting_for``.
    """

    host: Host
    running: int = 0
    waiting_since: float = 0.0
    waiting_for: int = 0


def waiting(me: Myself, round: Round | None, now: float) -> Myself:
    """The same host, which waits anew for each round: a spare has not lost the time in which it had no place."""
    if me.running or round is None or round.number == me.waiting_for:
        return me
    return replace(me, waiting_since=now, waiting_for=round.number)


def attend(
    round: Round | None, seat: Seat | None, me: Myself, rules: Rules, now: float
) -> Start | Stop | SayFree | Finish | GiveUp | Wait:
    """A host's next action. ``seat`` is its own, read no earlier than ``round``.

    A host beyond the largest number waits for a place, without an end, for as long as a round is formed without it.
    """
    if round is not None and round.phase == "closed":
        assert round.verdict is not None, "a closed round has a verdict"
        return Finish(round.verdict) if not me.running else Stop(round.why)
    mine = seat if seat is not None and seat.life == me.host.life else None
    if round is not None and mine is not None and not me.running and me.host.free_from <= mine.round < round.number:
        return SayFree(mine.round + 1)
    if round is not None and round.phase == "formed":
        seated = mine is not None and mine.round == round.number
        if me.running:
            return Wait() if seated and me.running == round.number else Stop(f"round {round.number} is formed")
        if mine is None or not seated or me.host.free_from > round.number:
            return Wait()
        return Start(_world(round, mine, me.host))
    if me.running:
        return Stop(round.why if round is not None else "the store knows of no round any more")
    over_at = me.waiting_since + rules.join_for
    if now < over_at:
        return Wait(over_at)
    return GiveUp(f"no {rules.min_hosts} hosts were ready within {rules.join_for:g} s")


def _world(round: Round, seat: Seat, host: Host) -> World:
    return World(
        round=round.number,
        master_addr=round.master_addr,
        master_port=round.master_port,
        local_world_size=host.workers,
        group_rank=seat.group_rank,
        group_world_size=round.hosts,
        base_rank=seat.base_rank,
        world_size=round.world_size,
        base_role_rank=seat.base_role_rank,
        role_world_size=seat.role_world_size,
    )
