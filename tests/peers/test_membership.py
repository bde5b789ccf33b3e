"""Many hosts in one process, each with a ``Member`` of its own, on either store: what each of them is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from supervisor.core.health import RendezvousView
from supervisor.core.rendezvous import Host, Rules, Verdict
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
from supervisor.peers.memory import MemoryStore
from supervisor.peers.records import Keys, read_seat
from supervisor.peers.store import (
    Changes,
    Committed,
    Conflict,
    Delete,
    Found,
    Put,
    Store,
    StoreAway,
    StoreRefused,
    Unchanged,
)
from supervisor.plan import World
from tests.peers.conftest import Memory, Real

Either = Memory | Real
TTL = 2.0


class SimulatedHost:
    """A host whose workers stop at once when they are told to."""

    def __init__(self, job: Job, name: str, workers: int, *, stop_when_lost: bool = False) -> None:
        self.name = name
        self.job = job
        self.news: list[News] = []
        self.world: World | None = None
        self.waits_for = ""
        self.restarts = 0
        self.ports = iter(range(20_000 + 100 * len(job.hosts), 65_536))
        self.member = Member(
            job.store, job.keys, Host(name, "", f"{name}.example", 0, workers, "trainer"), job.rules,
            lease_ttl=TTL, choose_port=lambda: next(self.ports), tell=self.hear, stop_when_lost=stop_when_lost,
        )  # fmt: skip
        self.task = asyncio.create_task(self.member.run())

    def hear(self, news: News) -> None:
        if isinstance(news, Waiting):
            self.waits_for = news.why
            self.job.changed.set()
            return
        self.news.append(news)
        match news:
            case WorldCame(world, restarts):
                assert self.world is None, "the last world has not ended"
                self.world, self.restarts = world, restarts
            case WorldEnded():
                self.world = None
                asyncio.get_running_loop().call_soon(self.member.workers_gone)
        self.job.changed.set()

    @property
    def verdict(self) -> Verdict | None:
        last = self.news[-1] if self.news else None
        return last.verdict if isinstance(last, JobOver) else None

    async def die(self) -> None:
        """Power is lost: nothing more is said to the store, and the lease runs on."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.world = None


class Job:
    """All hosts of one job."""

    def __init__(self, store: Store, name: str, rules: Rules) -> None:
        self.store = store
        self.keys = Keys.of("/rankd", name, "trainer")
        self.rules = rules
        self.hosts: dict[str, SimulatedHost] = {}
        self.changed = asyncio.Event()

    def arrive(self, *names: str, workers: int = 2, stop_when_lost: bool = False) -> None:
        for name in names:
            self.hosts[name] = SimulatedHost(self, name, workers, stop_when_lost=stop_when_lost)

    def __getitem__(self, name: str) -> SimulatedHost:
        return self.hosts[name]

    async def until(self, true: Callable[[], bool], within: float = 45.0) -> float:
        """Seconds until it was true; fails when it is not in time, or when a host has gone wrong."""
        began = time.monotonic()
        async with asyncio.timeout(within):
            while not true():
                self.changed.clear()
                await self.changed.wait()
        return time.monotonic() - began

    async def stored(self, key: str, true: Callable[[bytes], bool] = lambda _: True) -> None:
        """Wait until the store has such a value under the key."""
        async with asyncio.timeout(45), aclosing(self.store.watch(key, 0)) as watch:
            async for changes in watch:
                if any(entry.key == key and true(entry.value) for entry in changes.written):
                    return

    async def world_of(self, *names: str, within: float = 45.0) -> float:
        """Wait until just these hosts are in one world, and look at it."""

        def together() -> bool:
            worlds = [self.hosts[name].world for name in names]
            return None not in worlds and len({world.round for world in worlds if world}) == 1 and (
                worlds[0] is not None and worlds[0].group_world_size == len(names)
            )  # fmt: skip

        took = await self.until(together, within)
        ranks: list[int] = []
        for place, name in enumerate(sorted(names)):
            world = self.hosts[name].world
            assert world is not None
            assert world.group_rank == place
            assert world.master_addr == f"{min(names)}.example"
            ranks += range(world.base_rank, world.base_rank + world.local_world_size)
        assert ranks == list(range(len(ranks)))
        seen = {(world.world_size, world.master_port) for name in names if (world := self.hosts[name].world)}
        assert len(seen) == 1
        assert min(seen)[0] == len(ranks)
        return took


@asynccontextmanager
async def job(either: Either, name: str, least: int, most: int, **rules: Any) -> AsyncIterator[Job]:
    given = replace(Rules(least, most, last_call_for=0.2), **rules)
    one = Job(either.store, f"{name}-{time.monotonic_ns()}", given)
    try:
        yield one
    finally:
        for host in one.hosts.values():
            host.task.cancel()
        ends = await asyncio.gather(*(host.task for host in one.hosts.values()), return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, StoreRefused):
                raise end


async def test_hosts_with_different_numbers_of_workers_form_one_world(either: Either) -> None:
    async with job(either, "different", 3, 3) as one:
        one.arrive("c", workers=1)
        one.arrive("a", workers=4)
        one.arrive("b")
        await one.world_of("a", "b", "c")
        assert one["c"].world is not None
        assert (one["c"].world.base_rank, one["c"].world.world_size) == (6, 7)


async def test_enough_hosts_form_a_world_after_the_last_call(either: Either) -> None:
    async with job(either, "enough", 2, 4, last_call_for=0.5) as one:
        one.arrive("a", "b")
        assert await one.world_of("a", "b") >= 0.5


async def test_a_host_that_arrives_is_let_in_and_one_too_many_waits_its_turn(either: Either) -> None:
    async with job(either, "arrives", 2, 3) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        ports = {one["a"].world.master_port} if one["a"].world else set()
        one.arrive("c")
        await one.world_of("a", "b", "c")
        assert one["a"].world is not None
        assert one["a"].world.master_port not in ports, "a port is not handed out twice in a row"
        one.arrive("d")
        await one.stored(one.keys.host("d"))
        await one.until(
            lambda: one["d"].waits_for == "waits as a spare: round 2 runs with 3 hosts, as many as there may be"
        )
        one["b"].member.leave()
        took = await one.world_of("a", "c", "d")
        assert took < TTL, "a host that leaves politely is not waited for"
        assert one["a"].restarts == 0
        await one["b"].task


async def test_every_host_knows_how_it_stands_and_the_one_that_leads_knows_of_all(either: Either) -> None:
    async with job(either, "waits", 2, 2) as one:
        one.arrive("a")
        await stands(one["a"], lambda view: view.states == {"waiting": 1})
        assert (one["a"].member.rendezvous.leader, one["a"].member.rendezvous.state) == ("a", "waiting")
        assert one["a"].member.rendezvous.waiting_since is not None
        one.arrive("b")
        await one.world_of("a", "b")
        view = one["b"].member.rendezvous
        assert (view.state, view.round, view.phase, view.leader, view.hosts) == ("running", 1, "formed", "a", None)
        assert view.waiting_since is None
        one.arrive("c")
        await stands(one["c"], lambda view: view.state == "spare")
        await stands(one["a"], lambda view: view.states == {"running": 2, "spare": 1})
        one["a"].member.leave()
        await one.world_of("b", "c")
        (leader,) = {one[name].member.rendezvous.leader for name in "bc"}
        await stands(one[leader], lambda view: view.states == {"running": 2})
        await one["a"].task


async def test_who_leads_no_more_tells_no_more_of_all(either: Either) -> None:
    async with job(either, "led", 1, 1) as one:
        one.arrive("a")
        await one.world_of("a")
        await stands(one["a"], lambda view: view.hosts is not None)
        lease = await one.store.grant(60.0)
        await one.store.transact([], [Put(one.keys.leader, b"z", lease.id)])
        await stands(one["a"], lambda view: view.leader == "z")
        assert one["a"].member.rendezvous.hosts is None


async def stands(host: SimulatedHost, as_wanted: Callable[[RendezvousView], bool]) -> None:
    """Wait until the host says that it stands so."""
    async with asyncio.timeout(20):
        while not as_wanted(host.member.rendezvous):  # noqa: ASYNC110 - it is there to be asked, and tells nobody
            await asyncio.sleep(0.01)


async def test_a_spare_takes_a_place_however_long_it_has_waited(either: Either) -> None:
    async with job(either, "spare", 2, 2, join_for=TTL) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        one.arrive("c")
        await one.until(lambda: one["c"].waits_for.startswith("waits as a spare"))
        await asyncio.sleep(TTL)
        one["b"].member.leave()
        await one.world_of("a", "c")


async def test_survivors_of_a_dead_host_form_anew_when_its_lease_ends(either: Either) -> None:
    async with job(either, "dies", 2, 3) as one:
        one.arrive("a", "b", "c")
        await one.world_of("a", "b", "c")
        await one["a"].die()
        took = await one.world_of("b", "c")
        assert took < TTL + 3
        assert WorldEnded("host a has left", "left", "a", restarts=0) in one["c"].news


async def test_survivors_too_few_wait_for_a_replacement(either: Either) -> None:
    async with job(either, "few", 3, 3) as one:
        one.arrive("a", "b", "c")
        await one.world_of("a", "b", "c")
        one["c"].member.leave()
        await one.until(lambda: one["a"].world is None and one["b"].world is None)
        one.arrive("d")
        await one.world_of("a", "b", "d")


async def test_failures_of_one_round_are_counted_once_and_the_last_ends_the_job_for_all(either: Either) -> None:
    async with job(either, "fails", 3, 3, max_restarts=1) as one:
        one.arrive("a", "b", "c")
        await one.world_of("a", "b", "c")
        for name in "ab":
            one[name].member.workers_failed(f"a worker of {name} has failed", 7)
        await one.until(lambda: all(host.restarts == 1 and host.world for host in one.hosts.values()))
        one["b"].member.workers_failed("rank 3 has failed", 9)
        await one.until(lambda: all(host.verdict for host in one.hosts.values()))
        assert {host.verdict for host in one.hosts.values()} == {Verdict("failed", "rank 3 has failed", 9)}


async def test_a_failure_with_much_to_say_is_a_verdict_all_the_same(either: Either) -> None:
    async with job(either, "wordy", 2, 2, max_restarts=0) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        one["a"].member.workers_failed("x" * 100_000, 7)
        await one.until(lambda: all(host.verdict for host in one.hosts.values()))
        assert one["b"].verdict == Verdict("failed", "x" * 1000, 7)


async def test_a_failure_is_counted_even_when_the_workers_are_gone_before_it_is_written(either: Either) -> None:
    async with job(either, "gone", 2, 2, max_restarts=0) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        one["a"].member.workers_failed("rank 0 has failed", 5)
        one["a"].world = None
        one["a"].member.workers_gone()
        await one.until(lambda: all(host.verdict for host in one.hosts.values()))
        assert one["b"].verdict == Verdict("failed", "rank 0 has failed", 5)


async def test_the_job_is_over_when_all_hosts_have_finished_and_who_comes_late_is_told(either: Either) -> None:
    async with job(either, "finishes", 2, 3) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        one["a"].member.workers_succeeded()
        await one.stored(one.keys.seat("a"), lambda value: read_seat(value, "a").succeeded)
        one["a"].member.leave()
        await one["a"].task
        assert not any(isinstance(news, WorldEnded) and news.why == "host a has left" for news in one["b"].news)
        one["b"].member.workers_succeeded()
        await one.until(lambda: one["b"].verdict is not None)
        one.arrive("late")
        await one.until(lambda: one["late"].verdict is not None)
        assert one["late"].verdict == one["b"].verdict == Verdict("succeeded", "all workers have succeeded")
        assert one["late"].news == [JobOver(one["late"].verdict)]


async def test_a_host_gives_up_when_no_world_comes_in_time(either: Either) -> None:
    async with job(either, "alone", 2, 2, join_for=0.5) as one:
        one.arrive("a")
        await one["a"].task
        assert one["a"].news == [NoWorld("no 2 hosts were ready within 0.5 s")]


async def test_a_host_whose_lease_has_ended_stops_and_comes_back(either: Either) -> None:
    async with job(either, "fenced", 2, 2) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        found = await one.store.get(one.keys.host("a"))
        assert found is not None
        await one.store.revoke(found.lease)
        await one.until(lambda: one["a"].world is None)
        await one.until(lambda: bool(one["a"].world and one["a"].world.round > 1))
        await one.world_of("a", "b")


async def test_the_leader_may_die_at_any_time(either: Either) -> None:
    async with job(either, "leader", 1, 5) as one:
        one.arrive("a", "b", "c", "d", "e")
        await one.world_of("a", "b", "c", "d", "e")
        for _ in range(3):
            entry = await one.store.get(one.keys.leader)
            assert entry is not None
            await one.hosts.pop(entry.value.decode()).die()
            await one.world_of(*one.hosts)


async def test_what_is_not_a_record_counts_as_not_there(either: Either) -> None:
    async with job(either, "odd", 2, 2) as one:
        await one.store.transact(
            [],
            [Put(one.keys.host("x"), b"junk"), Put(one.keys.seat("a"), b"\xff"), Put(one.keys.host("y"), b"{}" * 9000)],
        )
        one.arrive("a", "b")
        await one.world_of("a", "b")
        odd = {(news.key, news.why) for host in one.hosts.values() for news in host.news if isinstance(news, OddRecord)}
        assert (one.keys.host("x"), "it is not JSON") in odd
        assert (one.keys.host("y"), "18000 bytes are too many") in odd


async def test_something_else_in_the_place_of_the_round_ends_the_membership(either: Either) -> None:
    async with job(either, "strange", 2, 2) as one:
        await one.store.transact([], [Put(one.keys.round, b'{"v": 99}')])
        one.arrive("a")
        with pytest.raises(StoreRefused, match="version 99"):
            await one["a"].task


async def test_a_round_costs_a_write_for_each_host_and_three_more() -> None:
    """A leader, an open round, and all seats with the formed round: no host writes because another has arrived."""
    names = [f"host-{number:02}" for number in range(20)]
    async with job(Memory(), "many", 20, 20) as one:
        before = (await one.store.range(one.keys.all)).revision
        one.arrive(*names)
        await one.world_of(*names)
        after = (await one.store.range(one.keys.all)).revision
        assert after - before == len(names) + 3


async def test_something_odd_in_the_place_of_the_round_stops_nobodys_workers(either: Either) -> None:
    """Nothing is decided until it is what it was; then all goes on."""
    async with job(either, "odd-round", 2, 3) as one:
        one.arrive("a", "b")
        await one.world_of("a", "b")
        key = one.keys.round
        before = await one.store.get(key)
        assert before is not None
        await one.store.transact([], [Put(key, b"{")])
        told = OddRecord(key, "it is not JSON")
        await one.until(lambda: all(told in host.news for host in one.hosts.values()))
        assert all(host.world for host in one.hosts.values())
        await one.store.transact([], [Put(key, before.value)])
        one.arrive("c")
        await one.world_of("a", "b", "c")


async def test_a_leader_without_a_lease_is_replaced(either: Either) -> None:
    """No host of ours has written that, and it would not go by itself."""
    async with job(either, "odd-leader", 2, 2) as one:
        await one.store.transact([], [Put(one.keys.leader, b"x")])
        one.arrive("a", "b")
        await one.world_of("a", "b")
        assert any(OddRecord(one.keys.leader, "it has no lease") in host.news for host in one.hosts.values())


class ShakyStore(MemoryStore):
    """A store that can be out of reach."""

    away = False

    async def keep_alive(self, lease: int) -> float | None:
        if self.away:
            raise StoreAway("no route to host")
        return await super().keep_alive(lease)

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        if self.away:
            raise StoreAway("no route to host")
        return await super().transact(conditions, operations)


class StrictStore(MemoryStore):
    """A store that can forget who may do what."""

    refuses = False

    def _look_up(self) -> None:
        if self.refuses:
            raise StoreRefused("permission denied")

    async def range(self, prefix: str) -> Found:
        self._look_up()
        return await super().range(prefix)

    async def keep_alive(self, lease: int) -> float | None:
        self._look_up()
        return await super().keep_alive(lease)

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        self._look_up()
        return await super().transact(conditions, operations)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        async for changes in super().watch(prefix, after):
            self._look_up()
            yield changes


class LateStore(MemoryStore):
    """A store to which one write takes longer than its host waits for it."""

    def __init__(self, late: Callable[[Put | Delete], bool]) -> None:
        super().__init__()
        self._late = late
        self._on_its_way: tuple[Sequence[Unchanged], Sequence[Put | Delete]] | None = None

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        if self._on_its_way is None and any(map(self._late, operations)):
            self._on_its_way = conditions, operations
            raise StoreAway("no answer in time")
        return await super().transact(conditions, operations)

    async def land(self) -> Committed | Conflict:
        assert self._on_its_way is not None
        return await super().transact(*self._on_its_way)


async def test_a_write_that_lands_late_does_not_take_back_what_was_written_after_it() -> None:
    """The host said again that it is free, and later that it is free of one more round; then the first word landed."""

    def second_word(operation: Put | Delete) -> bool:
        return isinstance(operation, Put) and b'"free_from":2' in operation.value

    store = LateStore(second_word)
    one = Job(store, "late", Rules(1, 1))
    one.arrive("a")
    for round in (1, 2, 3):
        await one.until(lambda number=round: one["a"].world is not None and one["a"].world.round == number)  # type: ignore[misc]
        one["a"].member.workers_failed("rank 0 has failed", 3)
    await one.stored(one.keys.host("a"), lambda value: b'"free_from":4' in value)
    await store.land()
    entry = await store.get(one.keys.host("a"))
    assert entry is not None
    assert b'"free_from":4' in entry.value
    one["a"].member.leave()
    await one["a"].task
    await store.close()


async def test_workers_run_on_while_the_store_is_away_for_less_than_the_lease() -> None:
    store = ShakyStore()
    one = Job(store, "shaky", Rules(1, 1))
    one.arrive("a")
    await one.world_of("a")
    store.away = True
    await one.until(lambda: StoreLost("no route to host") in one["a"].news)
    store.away = False
    await one.until(lambda: StoreFound() in one["a"].news)
    assert [type(news) for news in one["a"].news] == [WorldCame, StoreLost, StoreFound]
    one["a"].member.leave()
    await one["a"].task
    await store.close()


async def test_a_host_without_workers_does_not_wait_for_ever_for_a_store_that_is_away() -> None:
    """Its worker has failed, and nobody can be told."""
    store = ShakyStore()
    one = Job(store, "shaky", Rules(1, 1, join_for=1.0))
    one.arrive("a")
    await one.world_of("a")
    store.away = True
    one["a"].member.workers_failed("rank 0 has failed", 3)
    one["a"].member.workers_gone()
    await one.until(lambda: isinstance(one["a"].news[-1], NoWorld))
    assert one["a"].news[-1] == NoWorld("the store has not answered for 1 s: no route to host", away=True)
    store.away = False
    await one["a"].task
    await store.close()


async def test_a_store_that_refuses_us_costs_no_workers() -> None:
    """As when a password has been changed: they go on, and without any the refusal is the end."""
    store = StrictStore()
    one = Job(store, "strict", Rules(1, 1))
    one.arrive("a")
    await one.world_of("a")
    store.refuses = True
    await MemoryStore.transact(store, [], [Put(one.keys.leader + "s", b"wakes all watches")])
    await one.until(lambda: StoreLost("permission denied") in one["a"].news)
    store.refuses = False
    await one.until(lambda: StoreFound() in one["a"].news)
    assert [type(news) for news in one["a"].news] == [WorldCame, StoreLost, StoreFound]
    one["a"].member.workers_failed("rank 0 has failed", 3)
    await one.until(lambda: one["a"].restarts == 1 and one["a"].world is not None)
    store.refuses = True
    one["a"].world = None
    one["a"].member.workers_failed("rank 0 has failed", 3)
    one["a"].member.workers_gone()
    with pytest.raises(StoreRefused, match="permission denied"):
        await one["a"].task
    await store.close()


async def test_a_spare_that_has_waited_for_long_survives_a_moment_without_the_store() -> None:
    store = ShakyStore()
    one = Job(store, "shaky", Rules(1, 1, join_for=1.0))
    one.arrive("a")
    await one.world_of("a")
    one.arrive("b")
    await one.until(lambda: one["b"].waits_for.startswith("waits as a spare"))
    await asyncio.sleep(1.0)
    store.away = True
    one["a"].member.leave()
    await one.until(lambda: StoreLost("no route to host") in one["b"].news)
    store.away = False
    await one.world_of("b")
    one["b"].member.leave()
    await one["b"].task
    await store.close()


async def test_workers_are_stopped_when_the_lease_may_have_ended_if_that_is_wanted() -> None:
    """And not before: the store is away for less than the lease at first."""
    store = ShakyStore()
    one = Job(store, "shaky", Rules(1, 1))
    one.arrive("a", stop_when_lost=True)
    await one.world_of("a")
    store.away = True
    began = time.monotonic()
    await one.until(lambda: one["a"].world is None)
    assert TTL * 2 / 3 < time.monotonic() - began < TTL + 1
    assert one["a"].news[-1] == WorldEnded("the lease of this host may have ended, and others may have taken its place")
    store.away = False
    await one.world_of("a")
    one["a"].member.leave()
    await one["a"].task
    await store.close()


async def test_a_leader_that_starts_anew_leads_again_before_its_old_lease_has_ended(either: Either) -> None:
    async with job(either, "leader", 2, 2) as one:
        one.arrive("a")
        await one.stored(one.keys.leader)
        one.arrive("b")
        await one.world_of("a", "b")
        await one["a"].die()
        one.arrive("a")
        assert await one.world_of("a", "b") < TTL / 2
