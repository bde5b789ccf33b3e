"""The groups of this host that share a world with other hosts: each is a member of a rendezvous in the store.

What the core wants of other hosts comes in here, and what is heard of them is posted to it. A part in a job begins when
the core first asks for a world and ends when the job is over for this host. The store is opened when the first group
asks.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, assert_never

import anyio
import anyio.abc
import anyio.to_thread

from supervisor import clock
from supervisor.core import peer_events
from supervisor.core.attendance import attendance
from supervisor.core.events import Event
from supervisor.core.health import RendezvousView
from supervisor.core.messages import (
    Input,
    JobEnded,
    LeaveWorld,
    PeersAwaited,
    PeersFound,
    PeersLost,
    ReportFailure,
    ReportSuccess,
    ToPeers,
    WorldFormed,
    WorldLost,
    WorldRefused,
)
from supervisor.core.rendezvous import Host, Rules
from supervisor.errors import TRY_AGAIN, UNAVAILABLE
from supervisor.host.names import address_for_others
from supervisor.host.ports import PortClaim, PortRefused, claim_port
from supervisor.peers.leadership import table_of
from supervisor.peers.membership import (
    JobOver,
    Member,
    News,
    NoWorld,
    OddRecord,
    StoreFound,
    StoreLost,
    Waiting,
    WorldCame,
    WorldEnded,
)
from supervisor.peers.mirror import LOOK_AGAIN_AFTER
from supervisor.peers.records import Keys, Unreadable, read_leader
from supervisor.peers.store import Store, StoreAway, StoreRefused
from supervisor.plan import DaemonPlan, GroupPlan, StorePlan

Post = Callable[[str, Input], None]
OpenStore = Callable[[StorePlan, float], Awaitable[Store]]

READ_WITHIN = 3.0
"""Seconds that a person who asks is kept waiting for the store."""


class Rounds:
    """What this host has to do with others. ``join`` and ``tell`` are called from the loop, and do not wait."""

    def __init__(
        self, plan: DaemonPlan, tasks: anyio.abc.TaskGroup, open_store: OpenStore, post: Post,
        tell: Callable[[Event], None],
    ) -> None:  # fmt: skip
        """``open_store`` is given the shortest lease that is to be kept there, in seconds.

        It may take its time, and raises ``OSError`` where a file that it needs cannot be had.
        """
        self._plan = plan
        self._tasks = tasks
        self._open_store = open_store
        self._post = post
        self._tell = tell
        self._parts: dict[str, Part] = {}
        self._ending: set[Part] = set()
        self._store: Store | None = None
        self._opening = anyio.Lock()

    def join(self, plan: GroupPlan, attempt: int) -> None:
        """The group has no worker and wants a world for this attempt; the answer is posted."""
        part = self._parts.get(plan.name)
        if part is not None and part.serves(plan):
            part.go_on(attempt)
            return
        if part is not None:
            part.leave()
            self._post(plan.name, PeersFound())  # or it will say so: what the old part had lost is no more its business
        part = self._parts[plan.name] = Part(self._plan, plan, attempt, self._post, self._tell)
        self._ending.add(part)
        self._tasks.start_soon(self._take_part, part)

    def tell(self, group: str, word: ToPeers) -> None:
        """What other hosts are to know of the group; nobody is told of one that has no part in anything."""
        part = self._parts.get(group)
        if part is None:
            return
        match word:
            case ReportFailure(why, exit_code, final):
                part.report_failure(why, exit_code, final=final)
            case ReportSuccess():
                part.report_success()
            case LeaveWorld(why, exit_code):
                part.leave(why, exit_code)
            case _:
                assert_never(word)

    async def hosts_of(self, group: str) -> dict[str, Any]:
        """``leader``, and under ``hosts`` how each host of the group's job stands (``HostView``), read now.

        With ``error`` where the store does not say so in a time that people wait.
        """
        part = self._parts.get(group)
        if part is None or self._store is None:
            return {"leader": "", "hosts": []}
        keys = part.keys
        try:
            with anyio.fail_after(READ_WITHIN):
                found = await self._store.range(keys.all)
            entries = {entry.key: entry for entry in found.entries}
            table = table_of(entries, keys, lambda _key, _why: None)  # its leader tells what is unreadable
            hosts = attendance(table, part.rules)
        except (TimeoutError, StoreAway, StoreRefused, Unreadable) as why:
            return {"leader": "", "hosts": [], "error": str(why) or f"no answer within {READ_WITHIN:g} s"}
        leader = entries.get(keys.leader)
        name = read_leader(leader.value) if leader is not None else ""
        return {"leader": name, "hosts": [asdict(one) for one in hosts]}

    def rendezvous_of(self, group: str) -> RendezvousView | None:
        """How this host stands in the group's job, of what it knows; None: it has no part in any, or not yet."""
        part = self._parts.get(group)
        return part.rendezvous if part is not None else None

    async def close(self, within: float | None) -> None:
        """Return when all parts have ended, or after as many seconds; None: as their groups' ``close_timeout`` says."""
        longest = max((part.plan.rendezvous.close_timeout for part in self._ending), default=0.0)
        with anyio.move_on_after(longest if within is None else within):
            for part in list(self._ending):
                await part.over.wait()
        for part in list(self._ending):  # nobody is to use the store when it is closed
            part.scope.cancel()
            await part.over.wait()
        if self._store is not None:
            await self._store.close()

    async def _take_part(self, part: Part) -> None:
        try:
            with part.scope:
                await part.run(await self._the_store(part.plan))
        except (StoreRefused, OSError) as why:
            self._post(part.plan.name, JobEnded("failed", f"the store: {why}", UNAVAILABLE, "unreachable"))
        finally:
            part.end()
            self._ending.discard(part)

    async def _the_store(self, first: GroupPlan) -> Store:
        assert self._plan.store is not None, "a group that shares a world has a store"
        async with self._opening:
            if self._store is None:
                leases = [plan.rendezvous.lease_ttl for plan in (first, *self._plan.groups.values())]
                self._store = await self._open_store(self._plan.store, min(leases))
        return self._store


class Part:
    """One group's part in one job, from the first world that it asks for to the end; ``over`` is set then.

    ``scope``: in which it runs, to be cancelled if it does not end.
    """

    def __init__(
        self, daemon: DaemonPlan, plan: GroupPlan, attempt: int, post: Post, tell: Callable[[Event], None]
    ) -> None:
        self.plan = plan
        self.over = anyio.Event()
        self.scope = anyio.CancelScope()
        place = daemon.store
        assert place is not None, "see Rounds"
        self.keys = Keys.of(place.prefix, daemon.run_id, plan.name)
        self.rules = Rules(
            plan.rendezvous.min_hosts,
            plan.rendezvous.hosts,
            join_for=plan.rendezvous.join_timeout,
            last_call_for=plan.rendezvous.last_call_timeout,
            lease_for=plan.rendezvous.lease_ttl,
            stop_for=sum(rung.wait for rung in plan.stop.ladder),
            max_restarts=0 if plan.restart.policy == "never" else plan.restart.max_restarts,
        )
        self._daemon = daemon
        self._attempt = attempt
        self._post = post
        self._tell = tell
        self._member: Member | None = None
        self._claim: PortClaim | None = None
        self._chance = random.Random()  # noqa: S311 - which port is nobody's secret
        self._left = False
        self._in_world = False

    def serves(self, plan: GroupPlan) -> bool:
        """Whether a group with this plan may go on with this part."""
        same = (plan.rendezvous, plan.workers, plan.role) == (self.plan.rendezvous, self.plan.workers, self.plan.role)
        return same and not self._left and not self.over.is_set()

    @property
    def rendezvous(self) -> RendezvousView | None:
        """None before it has begun, and when we have left."""
        return None if self._member is None or self._left or self.over.is_set() else self._member.rendezvous

    def go_on(self, attempt: int) -> None:
        """The workers of the last world are gone."""
        self._attempt = attempt
        if self._member is not None and self._member.running:
            self._member.workers_gone()

    def report_failure(self, why: str, exit_code: int, *, final: bool) -> None:
        if self._member is not None:
            self._member.workers_failed(f"{why} (host {self._daemon.node_id})", exit_code, final=final)

    def report_success(self) -> None:
        if self._member is not None:
            self._member.workers_succeeded()

    def leave(self, why: str = "", exit_code: int = 0) -> None:
        """Take no further part. Who has failed for good in a world says so to it first, and goes when all know.

        A world that has ended already is not told: its others are about another one.
        """
        if exit_code and self._in_world and not self._left:
            self.report_failure(why, exit_code, final=True)
        elif self._member is not None:
            self._member.leave()
        self._left = True

    async def run(self, store: Store) -> None:
        """Raises ``StoreRefused`` and ``OSError``."""
        place = self._daemon.store
        assert place is not None, "see Rounds"
        claim = claim_port(chance=self._chance)
        if isinstance(claim, PortRefused):
            self._left = True
            self._post(self.plan.name, WorldRefused(self._attempt, f"no MASTER_PORT: {claim.reason}"))
            return
        self._claim = claim
        addr = place.addr or await self._address(place.endpoints)
        host = Host(self._daemon.node_id, "", addr, claim.port, self.plan.workers, self.plan.role)
        self._member = Member(
            store,
            self.keys,
            host,
            self.rules,
            lease_ttl=self.plan.rendezvous.lease_ttl,
            choose_port=self._choose_port,
            tell=self._hear,
            stop_when_lost=place.on_store_loss == "stop",
        )
        if self._left:
            return
        await self._member.run()

    async def _address(self, endpoints: Sequence[str]) -> str:
        """Where others reach this host. A network that is not up yet is waited for, as the store is.

        Raises ``OSError`` when that has taken too long.
        """
        give_up_at = clock.now() + self.rules.join_for
        lost = False
        while not self._left:
            try:
                addr = await anyio.to_thread.run_sync(address_for_others, endpoints)
            except OSError as why:
                if clock.now() >= give_up_at:
                    raise
                if not lost:
                    self._post(self.plan.name, PeersLost(str(why)))
                    lost = True
                await anyio.sleep(LOOK_AGAIN_AFTER)
            else:
                if lost:
                    self._post(self.plan.name, PeersFound())
                return addr
        return ""

    def end(self) -> None:
        """Others may have the port."""
        if self._claim is not None:
            self._claim.release()
        self.over.set()

    def _choose_port(self) -> int:
        """Another one than the last, which may still be in use, or known to those who were in that round."""
        claim = claim_port(chance=self._chance)
        assert self._claim is not None, "see run"
        if isinstance(claim, PortClaim):
            self._claim.release()
            self._claim = claim
        return self._claim.port

    def _hear(self, news: News) -> None:
        name = self.plan.name
        if isinstance(news, WorldCame | WorldEnded):
            self._in_world = isinstance(news, WorldCame)
        match news:
            case OddRecord(key, why):
                self._tell(peer_events.rendezvous_record_refused(clock.now(), name, key, why))
            case WorldEnded() if self._left:
                assert self._member is not None, "it has told this"
                self._member.leave()  # with its failure, or with another that was first
            case _ if self._left:
                pass
            case WorldCame(world, restarts):
                self._post(name, WorldFormed(self._attempt, world, restarts))
            case WorldEnded(why, because, host, None, restarts, last):
                self._post(name, WorldLost(self._attempt, why, because, host, restarts, last))
            case WorldEnded(verdict=verdict) | JobOver(verdict):
                assert verdict is not None, "the case above"
                self._post(name, JobEnded(verdict.outcome, verdict.why, verdict.exit_code))
            case NoWorld(why, away):
                ended = JobEnded("failed", why, UNAVAILABLE, "unreachable") if away else (
                    JobEnded("failed", why, TRY_AGAIN, "timed_out")
                )  # fmt: skip
                self._post(name, ended)
            case Waiting(why):
                self._post(name, PeersAwaited(self._attempt, why))
            case StoreLost(why):
                self._post(name, PeersLost(why))
            case StoreFound():
                self._post(name, PeersFound())
            case _:
                assert_never(news)


def open_etcd(place: StorePlan, lease_ttl: float) -> Store:
    """etcd as the plan says; not connected yet. Its client takes long to import. Raises ``OSError``: a file is bad."""
    from supervisor.peers.etcd import EtcdStore, Login, client_tls, patience_for  # noqa: PLC0415 - as said

    return EtcdStore(
        place.endpoints,
        chance=random.Random(),  # noqa: S311 - spreads retries
        tls=client_tls(place.ca, place.cert, place.key) if place.endpoints[0].startswith("https") else None,
        login=Login(place.username, place.password_file) if place.username else None,
        patience=patience_for(lease_ttl),
    )
