"""One history of a few hosts with the real ``Member`` on a far store: what happens to them, and what must hold.

All of it follows from a seed. What happens is written down as it would be told to a person.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from supervisor import clock
from supervisor.core.rendezvous import Host, Round, Rules, Seat
from supervisor.peers.membership import (
    JobOver,
    Member,
    News,
    NoWorld,
    StoreFound,
    StoreLost,
    Waiting,
    WorldCame,
    WorldEnded,
)
from supervisor.peers.records import Keys, read_host, read_round, read_seat
from supervisor.peers.store import Delete, Put
from supervisor.plan import World
from tests.simulation.network import FarStore, Link, Network
from tests.simulation.virtual import WHO, VirtualLoop

KEYS = Keys.of("/rankd", "simulated", "trainer")
LEASE = 3.0
STOPS = (0.01, 0.1, 4.0)
"""Seconds that workers take to stop: some longer than the last call."""

FAULTS_FOR = 15.0
"""Seconds in which things happen to the hosts."""

SETTLED_WITHIN = 60.0
"""Seconds after the last of them: longer than a host waits for a world, and all that leads to it."""

FAULTS = {
    "arrive": 5, "die": 4, "leave": 2, "hold": 3, "part": 4, "fail": 5, "give_up": 1, "succeed": 2, "store_fails": 1,
    "forget": 1, "slow": 1,
}  # fmt: skip


@dataclass(eq=False)
class Running:
    """The workers of one life of a host in one round."""

    host: str
    life: str
    world: World
    failed: bool = False
    succeeded: bool = False


class SimulatedHost:
    """One start of rankd on a host, with workers that take some time to stop."""

    def __init__(self, history: History, name: str, workers: int) -> None:
        self.name = name
        self.link = Link(name, pace=history.chance.uniform(0.9, 1.1))
        self.running: Running | None = None
        self.outcome: JobOver | NoWorld | None = None
        self.away = False
        self.left = False
        self.dead = False
        self._history = history
        self._ports = iter(range(1024 + 1000 * len(history.started_hosts), 65536))
        self.member = Member(
            FarStore(history.network, self.link, history.chance), KEYS,
            Host(name, "", f"{name}.example", 0, workers, "trainer"), history.rules, lease_ttl=LEASE,
            choose_port=lambda: next(self._ports), tell=self.hear, stop_when_lost=history.chance.random() < 0.2,
        )  # fmt: skip
        context = contextvars.copy_context()
        context.run(WHO.set, name)
        self.task = history.loop.create_task(self.member.run(), context=context)

    @property
    def over(self) -> bool:
        return self.task.done()

    @property
    def life(self) -> str:
        return self.running.life if self.running is not None else ""

    def hear(self, news: News) -> None:
        if self.dead:
            return
        history = self._history
        match news:
            case WorldCame(world):
                assert self.running is None, f"{self.name} is to run round {world.round} beside {self.running}"
                self.running = Running(self.name, self.link.life, world)
                history.note_start(self.running)
            case WorldEnded(why):
                history.tell(f"{self.name} stops its workers: {why}")
                history.loop.call_later(history.chance.choice(STOPS), self._gone)
            case JobOver() | NoWorld():
                history.tell(f"{self.name} ends: {news}")
                self.outcome = news
            case Waiting():
                pass
            case StoreLost(why):
                history.tell(f"{self.name} hears nothing of the store: {why}")
                self.away = True
            case StoreFound():
                history.tell(f"{self.name} hears of the store again")
                self.away = False
            case _:
                raise AssertionError(f"{self.name} is told {news}")

    def _gone(self) -> None:
        self.running = None
        if not self.dead:
            self.member.workers_gone()


class History:
    """Seeded. ``play`` it; ``told`` is what has happened."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        least = chance.randint(1, 3)
        self.rules = Rules(
            least, least + chance.randint(0, 2), join_for=20.0, last_call_for=2.0, lease_for=LEASE,
            stop_for=max(STOPS), max_restarts=chance.choice((-1, 0, 1, 3)),
        )  # fmt: skip
        self.told = [f"seed {seed}: {self.rules}"]
        self.loop = VirtualLoop()
        self.network = Network(self.loop, chance, self._writing, self._written)
        self.names = "abcdef"[: chance.randint(1, self.rules.max_hosts + 2)]
        self.workers = {name: chance.randint(1, 3) for name in self.names}
        self.hosts: dict[str, SimulatedHost] = {}
        self.started_hosts: list[SimulatedHost] = []
        self.formed: dict[int, Round] = {}
        self.started: dict[int, dict[int, Running]] = {}
        self._last: Round | None = None
        self._written_at = 0
        self._bug: BaseException | None = None
        self.loop.set_exception_handler(self._note_bug)

    def tell(self, what: str) -> None:
        self.told.append(f"{self.loop.time():8.3f}  {what}")

    # ---- what happens

    def play(self) -> None:
        """Raises ``AssertionError`` when something is not as it must be."""
        with self._in_its_time():
            try:
                self.loop.run_until_complete(self._happen())
            finally:
                self._end()

    async def _happen(self) -> None:
        chance = self.chance
        for name in self.names:
            if chance.random() < 0.8:
                self.arrive(name)
        faults = chance.choices(list(FAULTS), list(FAULTS.values()), k=chance.randint(0, 12))
        began, due = self.loop.time(), 0.0
        for at in sorted(chance.uniform(0.0, FAULTS_FOR) for _ in faults):
            await asyncio.sleep(at - due)
            due = at
            getattr(self, faults.pop())(chance.choice(self.names))
            self._hear_of_bugs()
        await asyncio.sleep(began + FAULTS_FOR - self.loop.time())
        self.tell("nothing more happens to the hosts")
        self._heal()
        await self._settle()

    async def _settle(self) -> None:
        settled = 0
        for left in reversed(range(int(SETTLED_WITHIN))):
            await asyncio.sleep(1.0)
            self._hear_of_bugs()
            try:
                self._check_settled()
            except AssertionError:
                if left == 0:
                    raise
                settled = 0
            else:
                settled += 1
            if settled == 2:
                return

    def arrive(self, name: str) -> None:
        """rankd starts, where it does not run."""
        host = self.hosts.get(name)
        if host is not None and not host.over and not host.dead:
            return
        self.tell(f"{name} arrives")
        self.hosts[name] = SimulatedHost(self, name, self.workers[name])
        self.started_hosts.append(self.hosts[name])

    def die(self, name: str) -> None:
        """Power is lost."""
        if host := self._alive(name):
            self.tell(f"{name} dies")
            host.dead = host.link.deaf = host.link.mute = True
            host.running = None
            host.task.cancel()
            self.loop.release(name)
            if self.chance.random() < 0.3:
                self.network.later(self.chance.uniform(0.0, 5.0), self._in_no_host, self.arrive, name)

    def leave(self, name: str) -> None:
        """SIGTERM."""
        if host := self._alive(name):
            self.tell(f"{name} leaves")
            host.left = True
            host.running = None
            host.member.leave()

    def hold(self, name: str) -> None:
        """rankd is not run for a while: SIGSTOP, a machine that is suspended, a disk that hangs. Its workers run on."""
        if self._alive(name):
            self.tell(f"{name} is held")
            self.loop.hold(name)
            self.network.later(self.chance.uniform(0.1, 9.0), self._go_on, name)

    def part(self, name: str) -> None:
        """The network between the host and the store is cut, both ways or one."""
        if host := self._alive(name):
            host.link.deaf, host.link.mute = self.chance.choice(((True, True), (True, False), (False, True)))
            self.tell(f"{name} is cut off: deaf {host.link.deaf}, mute {host.link.mute}")
            self.network.later(self.chance.uniform(0.1, 9.0), self._join, host)

    def fail(self, name: str) -> None:
        """A worker fails."""
        self._fail(name, final=False)

    def give_up(self, name: str) -> None:
        """A worker fails with an exit code that is fatal."""
        self._fail(name, final=True)

    def succeed(self, _: str) -> None:
        """The workers of some hosts have done what they were to do."""
        for name in self.names:
            host = self._alive(name)
            if host is not None and host.running is not None and self.chance.random() < 0.7:
                self.tell(f"{name} succeeds")
                host.running.succeeded = True
                host.member.workers_succeeded()

    def store_fails(self, _: str) -> None:
        if not self.network.down:
            self.tell("the store is away")
            self.network.fail()
            self.network.later(self.chance.uniform(0.1, 9.0), self._store_is_back)

    def forget(self, _: str) -> None:
        self.tell("the store forgets what was before now")
        self.network.ledger.compact()

    def slow(self, _: str) -> None:
        self.tell("the network is slow")
        self.network.slow = True
        self.network.later(self.chance.uniform(0.1, 5.0), self._is_quick)

    def _fail(self, name: str, *, final: bool) -> None:
        host = self._alive(name)
        if host is not None and host.running is not None and not host.running.succeeded:
            self.tell(f"a worker of {name} fails" + " for good" * final)
            host.running.failed = True
            host.member.workers_failed(f"rank of {name} has failed", 3, final=final)

    def _alive(self, name: str) -> SimulatedHost | None:
        host = self.hosts.get(name)
        return host if host is not None and not host.over and not host.dead else None

    def _in_no_host(self, do: Callable[[str], None], name: str) -> None:
        do(name)

    def _go_on(self, name: str) -> None:
        self.tell(f"{name} goes on")
        self.loop.release(name)

    def _join(self, host: SimulatedHost) -> None:
        if not host.dead:
            self.tell(f"{host.name} is reached again")
            host.link.deaf = host.link.mute = False
            self.network.look()

    def _store_is_back(self) -> None:
        if self.network.down:
            self.tell("the store is back")
            self.network.recover()

    def _is_quick(self) -> None:
        self.network.slow = False

    def _heal(self) -> None:
        self.network.calm = True
        self._store_is_back()
        for host in self.hosts.values():
            self.loop.release(host.name)
            self._join(host)

    # ---- what must hold

    def note_start(self, running: Running) -> None:
        """Never do two workers have the same RANK in the same round, now or at different times."""
        world = running.world
        self.tell(f"{running.host} runs {list(_ranks(world))} of round {world.round}")
        taken = self.started.setdefault(world.round, {})
        for rank in _ranks(world):
            assert rank not in taken, f"rank {rank} of round {world.round} runs here and there: {taken[rank]}"
            taken[rank] = running
        formed = self.formed[world.round]
        assert (world.master_addr, world.master_port) == (formed.master_addr, formed.master_port)
        assert (world.world_size, world.group_world_size) == (formed.world_size, formed.hosts)

    def _writing(self, link: Link, operations: Sequence[Put | Delete]) -> None:
        """Who plans seats or forms a round leads at that instant."""
        for operation in operations:
            planned = KEYS.seat_of(operation.key) not in (None, link.host)
            formed = (
                isinstance(operation, Put)
                and operation.key == KEYS.round
                and read_round(operation.value).phase == "formed"
            )
            if planned or formed:
                leader = self.network.ledger.get(KEYS.leader)
                assert leader is not None, f"{link.host} writes {operation} while nobody leads"
                assert leader.value == link.host.encode(), f"{link.host} writes {operation} and {leader} leads"

    def _written(self) -> None:
        entry = self.network.ledger.get(KEYS.round)
        if entry is None or entry.revision == self._written_at:
            return
        self._written_at = entry.revision
        round, last = read_round(entry.value), self._last
        self.tell(f"round {round.number} is {round.phase}, {round.restarts} restarts: {round.why}")
        self._last = round
        before = last.number if last is not None else 0
        assert round.number in (before, before + 1)
        assert round.number == before or last is None or last.phase == "formed", "an open round has been left"
        assert last is None or last.phase != "closed", "what was over goes on"
        if round.phase == "formed":
            self._check_formed(round)
        self._check_charge(last, round)

    def _check_formed(self, round: Round) -> None:
        assert round.number not in self.formed, "a round is formed twice"
        self.formed[round.number] = round
        assert self.rules.min_hosts <= round.hosts <= self.rules.max_hosts
        seats = sorted(self._seats_of(round).values(), key=lambda seat: seat.group_rank)
        assert [seat.group_rank for seat in seats] == list(range(round.hosts))
        ranks = [rank for seat in seats for rank in range(seat.base_rank, seat.base_rank + self.workers[seat.host])]
        assert ranks == list(range(round.world_size)), f"{ranks} are not the ranks of {round.world_size}"
        for seat in seats:
            host = self._alive(seat.host)
            if host is not None and host.running is not None and not host.left:
                assert host.life != seat.life, f"{seat.host} has a seat and still runs {host.running}"

    def _check_charge(self, last: Round | None, round: Round) -> None:
        """Only a failure of a worker is charged, once a round, and given back only for a host that is gone."""
        restarts = last.restarts if last is not None else 0
        assert self.rules.max_restarts < 0 or round.restarts <= self.rules.max_restarts, "the budget is exceeded"
        failed = round.phase == "open" and round.because == "failed" and last is not None and last.phase == "formed"
        if failed:
            ran = self.started.get(round.number - 1, {}).values()
            assert any(one.failed for one in ran if one.host == round.host), f"nothing has failed on {round.host}"
            assert round.restarts == restarts + (round.verdict is None)
        elif round.restarts < restarts:
            assert round.restarts == restarts - 1
            assert last is not None
            assert last.because == "failed"
            assert (round.phase, round.because) == ("open", "left")
            seat = self._seats_of(replace(round, number=round.number - 1)).get(round.host)
            assert seat is not None
            assert seat.life != self._life_in_store(round.host), f"{round.host} is not gone"
        else:
            assert round.restarts == restarts, f"a restart is charged: {round.why}"

    def _seats_of(self, round: Round) -> dict[str, Seat]:
        found = self.network.ledger.range(f"{KEYS.base}/seats/").entries
        seats = (read_seat(entry.value, KEYS.seat_of(entry.key) or "") for entry in found)
        return {seat.host: seat for seat in seats if seat.round == round.number}

    def _life_in_store(self, name: str) -> str:
        entry = self.network.ledger.get(KEYS.host(name))
        return read_host(entry.value, name, 0).life if entry is not None else ""

    def _check_settled(self) -> None:
        """All who live are in one world, or wait beside it for a place, or have been told how it ended."""
        for host in self.hosts.values():
            if host.over and not host.dead and not host.left:
                assert host.outcome is not None, f"{host.name} has ended without a word"
        ends = {host.outcome.verdict for host in self.hosts.values() if isinstance(host.outcome, JobOver)}
        assert len(ends) <= 1, f"not the same verdict everywhere: {ends}"
        living = [host for host in self.hosts.values() if not host.over and not host.dead]
        assert not any(host.left for host in living), "who leaves is gone"
        assert not any(host.away for host in living), "the store is there, and not everybody knows"
        if not living:
            return
        round = self._last
        assert round is not None
        assert round.phase == "formed", f"{[host.name for host in living]} wait for {round}"
        seats = self._seats_of(round)
        ranks = [rank for seat in seats.values() if seat.succeeded for rank in self._ranks_of(seat)]
        for host in living:
            seat = seats.get(host.name)
            if host.running is None:
                complete = round.hosts == self.rules.max_hosts or any(one.succeeded for one in seats.values())
                seated = seat is not None and not seat.succeeded and seat.life == self._life_in_store(host.name)
                assert not seated, f"{host.name} has a seat and runs nothing"
                assert complete, f"{host.name} waits, and there is room for it"
                continue
            assert seat is not None
            assert host.running.world.round == round.number, f"{host.name} still runs {host.running}"
            if not seat.succeeded:
                ranks += _ranks(host.running.world)
        assert sorted(ranks) == list(range(round.world_size)), f"{sorted(ranks)} of {round.world_size} ranks"

    def _ranks_of(self, seat: Seat) -> range:
        return range(seat.base_rank, seat.base_rank + self.workers[seat.host])

    # ---- its end

    def _note_bug(self, _loop: asyncio.AbstractEventLoop, what: dict[str, Any]) -> None:
        self._bug = self._bug or what.get("exception") or AssertionError(what["message"])

    def _hear_of_bugs(self) -> None:
        if self._bug is not None:
            raise self._bug
        for host in self.started_hosts:
            if host.task.done() and not host.task.cancelled() and (error := host.task.exception()) is not None:
                raise error

    @contextmanager
    def _in_its_time(self) -> Iterator[None]:
        really, clock.now = clock.now, self.loop.time
        try:
            yield
        finally:
            clock.now = really

    def _end(self) -> None:
        for host in self.started_hosts:
            host.dead = True
            host.task.cancel()
            self.loop.release(host.name)
        if self.started_hosts:
            self.loop.run_until_complete(asyncio.wait([host.task for host in self.started_hosts]))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def _ranks(world: World) -> range:
    return range(world.base_rank, world.base_rank + world.local_world_size)
