"""One host's part in a rendezvous: it is there, follows the rounds, and leads them when it is its turn."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import anyio
import anyio.abc

from supervisor import clock
from supervisor.core.attendance import attendance, waits_for, without_workers
from supervisor.core.health import HostState, HostView, RendezvousView
from supervisor.core.messages import Because
from supervisor.core.rendezvous import (
    Failed,
    Finish,
    GiveUp,
    Host,
    Myself,
    Round,
    Rules,
    SayFree,
    Seat,
    Start,
    Stop,
    Table,
    Verdict,
    Wait,
    attend,
    failed,
    waiting,
)
from supervisor.peers.leadership import lead
from supervisor.peers.mirror import LOOK_AGAIN_AFTER, Mirror
from supervisor.peers.records import Keys, Unreadable, read_leader, read_round, read_seat, written
from supervisor.peers.store import Committed, Entry, LeaseLost, Put, Store, StoreAway, StoreRefused, Unchanged
from supervisor.plan import World

KEEP_ALIVES = 3
"""So often in the time of a lease it is kept alive."""

LONGEST_WHY = 1000
"""Characters of a failure that others are told: what is longer than a record may be would be none."""


@dataclass(frozen=True, slots=True)
class WorldCame:
    """Start the workers of this world. ``restarts``: how many the whole job has used."""

    world: World
    restarts: int


@dataclass(frozen=True, slots=True)
class WorldEnded:
    """Stop the workers, and call ``workers_gone`` when the last is gone.

    ``because`` and ``host`` as in a round; with a ``verdict`` no world follows. ``restarts``: how many the job has used
    by now, if that is known; ``last``: no world follows unless a host of this one is gone.
    """

    why: str
    because: Because = "asked"
    host: str = ""
    verdict: Verdict | None = None
    restarts: int | None = None
    last: bool = False


@dataclass(frozen=True, slots=True)
class JobOver:
    """The job has ended, and so has the membership."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class NoWorld:
    """None has come in time; the membership has ended. ``away``: the store has not even answered."""

    why: str
    away: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """There is no world yet, or none with this host; ``why`` says what is waited for."""

    why: str


@dataclass(frozen=True, slots=True)
class StoreLost:
    """The store does not answer. Workers go on; others may take this host for dead."""

    why: str


@dataclass(frozen=True, slots=True)
class StoreFound:
    """The store answers again."""


@dataclass(frozen=True, slots=True)
class OddRecord:
    """What is under ``key`` is none of ours and counts as not there, or for who runs in a round, as no change of it."""

    key: str
    why: str


News = Waiting | WorldCame | WorldEnded | JobOver | NoWorld | StoreLost | StoreFound | OddRecord


class Member:
    """A host in the rendezvous of one group. ``run`` it; news come by ``tell``, in the order in which they are true."""

    def __init__(
        self, store: Store, keys: Keys, host: Host, rules: Rules, *, lease_ttl: float,
        choose_port: Callable[[], int], tell: Callable[[News], None], stop_when_lost: bool = False,
    ) -> None:  # fmt: skip
        """``host`` as it is known here; its life and its port are replaced. A port is chosen anew after every round.

        ``stop_when_lost``: the workers are stopped as soon as others may take this host for dead, and not only when it
        is known that they have.
        """
        self._store = store
        self._keys = keys
        self._rules = rules
        self._lease_ttl = lease_ttl
        self._choose_port = choose_port
        self._tell = tell
        self._me = Myself(host)
        self._mirror = Mirror(store, keys.now)
        self._published: Host | None = None
        self._record_at = 0
        self._seat_at = 0
        self._seat_entry: Entry | None = None
        self._failure: tuple[int, Failed] | None = None
        self._stop_when_lost = stop_when_lost
        self._lapse: asyncio.TimerHandle | None = None
        self._last_round: tuple[Entry | None, Round | None] = None, None
        self._odd: dict[str, str] = {}
        self._waiting = ""
        self._attended: Round | None = None
        self._led: tuple[int, Table] = (0, Table())  # since which revision we lead, and what we last decided on
        self._hosts: tuple[HostView, ...] | None = None
        self._succeeded = False
        self._stopping = False
        self._leaving = False
        self._fenced = False
        self._away = False

    # ---- what happens to the workers; from the same thread as ``run``

    def workers_gone(self) -> None:
        """The last worker of the world is gone: the answer to ``WorldEnded``, or after a failure."""
        self._me = Myself(
            replace(self._me.host, free_from=self._me.running + 1, port=self._choose_port()), waiting_since=clock.now()
        )
        self._succeeded = self._stopping = False
        self._mirror.touch()

    @property
    def running(self) -> int:
        """The round whose workers run here or are being stopped; 0: none."""
        return self._me.running

    @property
    def rendezvous(self) -> RendezvousView:
        """How we stand among the others, by what has been read anyway: the store is not asked."""
        round, entry = self._attended, self._mirror.entries.get(self._keys.leader)
        return RendezvousView(
            round.number if round is not None else 0,
            round.phase if round is not None else "",
            self._state(round),
            self._rules.min_hosts,
            self._rules.max_hosts,
            read_leader(entry.value) if entry is not None else "",
            None if self._me.running else self._me.waiting_since,
            self._all_hosts(entry.revision) if entry is not None else None,
        )

    def workers_failed(self, why: str, exit_code: int, *, final: bool = False) -> None:
        """A worker has failed: the job is restarted or, with its budget used up, has failed. ``WorldEnded`` follows.

        ``final``: it has failed whatever its budget is.
        """
        failure = Failed(self._me.host.name, why[:LONGEST_WHY], exit_code, final)
        if self._failure is None or (final and not self._failure[1].final):
            self._failure = (self._me.running, failure)
        self._mirror.touch()

    def workers_succeeded(self) -> None:
        """All workers of this host have. ``JobOver`` follows when those of all hosts have."""
        self._succeeded = True
        self._mirror.touch()

    def leave(self) -> None:
        """Go, so that the others need not wait for the lease to end. ``run`` returns; stop the workers meanwhile."""
        self._leaving = True
        self._mirror.touch()

    # ---- following

    async def run(self) -> None:
        """Take part until the job is over, no world comes, or we ``leave``. Raises ``StoreRefused``.

        A host whose lease has ended stops its workers and comes back as another life of itself.
        """
        try:
            while await self._live():
                if self._me.running:
                    self._end_world("the lease of this host has ended: others take it for dead")
                while self._me.running and not self._leaving:
                    await self._mirror.changed()
        except BaseExceptionGroup as group:
            raise _first(group) from group

    async def _live(self) -> bool:
        """One life: as long as its lease. Whether another is to follow."""
        lease = await self._join()
        if lease is None:
            return False
        self._fenced = False
        self._mirror = Mirror(self._store, self._keys.now)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_alive, lease)
                tasks.start_soon(self._insist, self._mirror.follow)
                await self._follow(tasks, lease)
                tasks.cancel_scope.cancel()
        finally:
            self._expect_lapse(None)
        if self._fenced:
            return True
        try:
            await self._store.revoke(lease)
        except StoreAway as why:
            self._note_away(str(why))  # the lease ends by itself
        return False

    async def _join(self) -> int | None:
        """Begin a life: a lease, and the host's record under it. None: we no longer want to, or it took too long."""
        began = clock.now()
        while not self._leaving:
            try:
                asked_at = clock.now()
                lease = await self._store.grant(self._lease_ttl)
                self._expect_lapse(asked_at + lease.ttl)
                host = replace(self._me.host, life=f"{lease.id:x}", port=self._choose_port())
                self._me = Myself(host, waiting_since=clock.now())
                self._published = None
                await self._publish(lease.id)
            except (StoreAway, LeaseLost) as why:
                self._note_away(str(why))
                if clock.now() - began > self._rules.join_for:
                    self._tell(self._unanswered(why))
                    return None
                await asyncio.sleep(LOOK_AGAIN_AFTER)
            else:
                self._note_back()
                return lease.id
        return None

    async def _keep_alive(self, lease: int) -> None:
        while True:
            await asyncio.sleep(self._lease_ttl / KEEP_ALIVES)
            asked_at = clock.now()
            try:
                left = await self._store.keep_alive(lease)
            except (StoreAway, StoreRefused) as why:
                self._suffer(why)
                continue
            self._note_back()
            if left is None:
                self._fenced = True
                self._mirror.touch()
                return
            self._expect_lapse(asked_at + left)

    def _expect_lapse(self, at: float | None) -> None:
        """Unless it is kept alive before, the lease has ended at the instant ``at``; None: there is none to end."""
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = None if at is None else asyncio.get_running_loop().call_at(at, self._lapsed)

    def _lapsed(self) -> None:
        """For all we know others take us for dead; whether they do is seen when the store answers again."""
        self._note_away(f"the store has not answered for {self._lease_ttl:g} s, as long as the lease of this host")
        if self._stop_when_lost and self._me.running:
            self._end_world("the lease of this host may have ended, and others may have taken its place")

    async def _follow(self, tasks: anyio.abc.TaskGroup, lease: int) -> None:
        """Do what there is to do, again and again. Returns when this life, or the whole membership, is over."""
        leading = 0
        has_stood = False
        unanswered_since = math.inf
        until: float | None = None
        while not self._leaving and not self._fenced:
            if self._mirror.revision == 0:
                await self._mirror.changed()
                continue
            try:
                await self._report_failure()
                await self._publish(lease)
                leader = self._mirror.entries.get(self._keys.leader)
                if leader is None or not leader.lease or (not has_stood and self._led_before(leader, lease)):
                    await self._stand(lease, leader)
                    has_stood = True
                elif leader.lease == lease and leading != leader.revision:
                    leading = leader.revision
                    show = partial(self._show, leader.revision)
                    tasks.start_soon(
                        self._insist, partial(lead, self._store, self._keys, self._rules, leader, self._note_odd, show)
                    )
                over, until = await self._step()
                unanswered_since = math.inf
            except (StoreAway, StoreRefused) as why:
                self._suffer(why)
                self._published = None
                until = clock.now() + LOOK_AGAIN_AFTER
                unanswered_since = min(unanswered_since, clock.now())
                over = not self._me.running and until >= unanswered_since + self._rules.join_for
                if over:
                    self._tell(self._unanswered(why))
            except LeaseLost:
                self._fenced = True
                return
            if over:
                return
            await self._mirror.changed(until)

    async def _insist(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Follow the store until that ends by itself. Raises ``StoreRefused`` where that is not suffered."""
        while True:
            try:
                return await follow()
            except* StoreRefused as refusals:
                self._suffer(_first(refusals))
            await asyncio.sleep(LOOK_AGAIN_AFTER)

    def _suffer(self, why: BaseException) -> None:
        """A store that refuses us after it has let us in is one that is away, as long as that may cost us workers."""
        if isinstance(why, StoreRefused) and not self._me.running:
            raise why
        self._note_away(str(why))

    async def _step(self) -> tuple[bool, float | None]:
        """The next action of this host: whether it was the last, and when to look again at the latest."""
        entry, round = self._round()
        seat = await self._own_seat(entry)
        self._attended = round
        self._me = waiting(self._me, round, clock.now())
        match attend(round, seat, self._me, self._rules, clock.now()):
            case Start(world):
                self._me = replace(self._me, running=world.round)
                self._waiting = ""
                self._tell(WorldCame(world, round.restarts if round is not None else 0))
            case Stop(why):
                self._end_world(why, round)
            case SayFree(free_from):
                self._me = Myself(replace(self._me.host, free_from=free_from), waiting_since=clock.now())
                self._mirror.touch()
            case Finish(verdict):
                self._tell(JobOver(verdict))
                return True, None
            case GiveUp(why):
                self._tell(NoWorld(why))
                return True, None
            case Wait(until):
                self._note_waiting(round)
                if self._succeeded and entry is not None and seat is not None and not seat.succeeded:
                    await self._report_success(entry, seat)
                return False, until
            case action:
                assert_never(action)
        return False, None

    async def _report_failure(self) -> None:
        """Turn the round in which our worker has failed, unless another host has done so already."""
        entry, round = self._round()
        if self._failure is None or entry is None or round is None:
            return
        number, failure = self._failure
        if round.number == number and round.phase == "formed":
            after = failed(round, self._rules, failure)
            await self._store.transact(
                [Unchanged(self._keys.round, entry.revision)], [Put(self._keys.round, written(after))]
            )
        else:
            self._failure = None

    async def _report_success(self, round: Entry, seat: Seat) -> None:
        assert self._seat_entry is not None
        key = self._keys.seat(self._me.host.name)
        await self._store.transact(
            [Unchanged(self._keys.round, round.revision), Unchanged(key, self._seat_entry.revision)],
            [Put(key, written(replace(seat, succeeded=True)))],
        )
        self._seat_at = 0

    async def _publish(self, lease: int) -> None:
        """Have the host's record say what is so now.

        Each on top of the last, or else one that was given up may land after one that came later, and take the record
        back to what was, or along when the lease of an earlier life ends.
        """
        host, key = self._me.host, self._keys.host(self._me.host.name)
        while self._published != host:
            record = Put(key, written(host), lease)
            outcome = await self._store.transact([Unchanged(key, self._record_at)], [record])
            if isinstance(outcome, Committed):
                self._published, self._record_at = host, outcome.revision
            else:
                found = outcome.found.entries
                self._record_at = found[0].revision if found else 0

    def _led_before(self, leader: Entry, lease: int) -> bool:
        """Whether the leader is an earlier life of this host: then nobody leads until its lease has ended.

        Asked once in a life. Two daemons that believe to be one host would else take it from each other for ever.
        """
        return leader.lease != lease and leader.value == self._me.host.name.encode()

    async def _stand(self, lease: int, leader: Entry | None) -> None:
        """Become the leader after that one, unless another host is quicker.

        Whoever has no lease is none of us, and would stay for ever.
        """
        key = self._keys.leader
        if leader is not None and not leader.lease:
            self._note_odd(key, "it has no lease")
        after = Unchanged(key, leader.revision if leader is not None else 0)
        await self._store.transact([after], [Put(key, self._me.host.name.encode(), lease)])

    def _state(self, round: Round | None) -> HostState:
        if not self._me.running:
            return without_workers(round, self._rules)
        if self._stopping:
            return "stopping"
        return "succeeded" if self._succeeded else "running"

    def _show(self, leading: int, table: Table) -> None:
        self._led, self._hosts = (leading, table), None

    def _all_hosts(self, leading: int) -> tuple[HostView, ...] | None:
        """Made when somebody asks, and kept while it is true: with 10,000 hosts that takes some 20 ms."""
        led, table = self._led
        if led != leading:
            return None
        if self._hosts is None:
            self._hosts = tuple(attendance(table, self._rules))
        return self._hosts

    def _round(self) -> tuple[Entry | None, Round | None]:
        """The round; for who has workers the last that could be read, since something odd is no reason to stop them."""
        entry = self._mirror.entries.get(self._keys.round)
        try:
            self._last_round = entry, read_round(entry.value) if entry is not None else None
        except Unreadable as why:
            if not self._me.running:
                raise StoreRefused(f"{self._keys.round}: {why}") from why
            self._note_odd(self._keys.round, str(why))
        return self._last_round

    async def _own_seat(self, round: Entry | None) -> Seat | None:
        """Our seat as it was when the round was written, or later. Read once a round: most hosts have no other need."""
        if round is None:
            return None
        name = self._me.host.name
        if self._seat_at != round.revision:
            found = await self._store.get(self._keys.seat(name))
            self._seat_entry, self._seat_at = found, round.revision
        if self._seat_entry is None:
            return None
        try:
            return read_seat(self._seat_entry.value, name)
        except Unreadable as why:
            self._note_odd(self._keys.seat(name), str(why))
            return None

    def _end_world(self, why: str, round: Round | None = None) -> None:
        """``round``: the one that comes after ours, if it is for that."""
        if not self._stopping:
            self._stopping = True
            if round is None:
                self._tell(WorldEnded(why))
            else:
                verdict = round.verdict if round.phase == "closed" else None
                last = round.verdict is not None
                self._tell(WorldEnded(why, round.because or "asked", round.host, verdict, round.restarts, last))

    def _note_waiting(self, round: Round | None) -> None:
        why = "" if self._me.running else waits_for(round, self._rules)
        if why and why != self._waiting:
            self._tell(Waiting(why))
        self._waiting = why

    def _unanswered(self, why: Exception) -> NoWorld:
        return NoWorld(f"the store has not answered for {self._rules.join_for:g} s: {why}", away=True)

    def _note_away(self, why: str) -> None:
        if not self._away:
            self._away = True
            self._tell(StoreLost(why))

    def _note_back(self) -> None:
        if self._away:
            self._away = False
            self._tell(StoreFound())

    def _note_odd(self, key: str, why: str) -> None:
        if self._odd.get(key) != why:
            self._odd[key] = why
            self._tell(OddRecord(key, why))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What has gone wrong: with several at once, the first."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
