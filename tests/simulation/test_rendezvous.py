"""Hosts that follow the rendezvous on a real ledger, with stale views, deaths, leaders that stop halfway, and failures.

Each host acts on what it saw last, which may be long past; only the conditions of its transactions protect the others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from supervisor.core import rendezvous
from supervisor.core.rendezvous import (
    Call,
    Failed,
    Finish,
    Form,
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
    Turn,
    Verdict,
    attend,
    preside,
    waiting,
)
from supervisor.peers.memory import Ledger
from supervisor.peers.records import Keys, pieces, read_host, read_round, read_seat, written
from supervisor.peers.store import Committed, Delete, Entry, Put, Unchanged
from supervisor.plan import World

KEYS = Keys.of("/rankd", "simulated", "trainer")
NAMES = "abcdef"


@dataclass
class Running:
    """Workers of one host in one round, as the whole world would see them."""

    host: str
    life: str
    world: World


@dataclass
class SimulatedHost:
    """One life of rankd on one host, and what it knows."""

    name: str
    life: str
    workers: int
    lease: int
    me: Myself
    round: Entry | None = None
    leader: Entry | None = None
    table: Table = field(default_factory=Table)
    surveyed_round: int = 0
    seen_at: int = 0
    wrote_at: int = 0
    call: Call = field(default_factory=Call)
    plan: list[tuple[Put | Delete, ...]] = field(default_factory=list)
    fence: list[Unchanged] = field(default_factory=list)
    running: Running | None = None
    outcome: Finish | GiveUp | None = None


class Simulation:
    """What happens is a list of steps; what must hold is checked after each."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.ledger = Ledger()
        self.now = 0.0
        self.lives = 0
        self.hosts: dict[str, SimulatedHost] = {}
        self.formed: dict[int, Round] = {}
        self.started: dict[int, dict[int, tuple[str, str]]] = {}
        self.failures = 0
        self.last: Round | None = None
        self.checked = 0

    # ---- what may happen

    def arrive(self, name: str) -> None:
        if name in self.hosts:
            return
        self.lives += 1
        life = str(self.lives)
        lease = self.ledger.grant(5).id
        host = Host(name, life, f"{name}.example", 1024 + self.lives, 1 + self.lives % 3, "trainer")
        self.hosts[name] = SimulatedHost(name, life, host.workers, lease, Myself(host, waiting_since=self.now))
        self._say(self.hosts[name])

    def die(self, name: str) -> None:
        """Power is lost: host, workers and, later for others to see, the lease."""
        if name in self.hosts:
            self.ledger.revoke(self.hosts.pop(name).lease)

    def expire(self, name: str) -> None:
        """The lease ends while its host is only slow: it goes on with what it was about, and learns of it later."""
        if host := self.hosts.get(name):
            self.ledger.revoke(host.lease)

    def keep_alive(self, name: str) -> None:
        """Learn whether the lease is still there. Without it the host begins a new life, its workers gone."""
        host = self.hosts.get(name)
        if host and host.lease not in self.ledger.leases and host.outcome is None:
            del self.hosts[name]
            self.arrive(name)

    def look(self, name: str) -> None:
        """See round and leader as they are; everything else a host knows stays as old as it is."""
        if host := self.hosts.get(name):
            found = {entry.key: entry for entry in self.ledger.range(KEYS.now).entries}
            host.round, host.leader = found.get(KEYS.round), found.get(KEYS.leader)

    def survey(self, name: str) -> None:
        """See all hosts and seats, as a leader does."""
        if host := self.hosts.get(name):
            self.look(name)
            hosts, seats = {}, {}
            for entry in self.ledger.range(KEYS.all).entries:
                if named := KEYS.host_of(entry.key):
                    hosts[named] = read_host(entry.value, named, entry.created)
                elif named := KEYS.seat_of(entry.key):
                    seats[named] = read_seat(entry.value, named)
            host.surveyed_round = host.round.revision if host.round else 0
            host.table = Table(read_round(host.round.value) if host.round else None, hosts, seats)
            host.seen_at = self.ledger.revision

    def stand(self, name: str) -> None:
        """Try to become the leader, as far as is known that there is none, or only an earlier life of the host."""
        host = self.hosts.get(name)
        if host is None or host.lease not in self.ledger.leases:
            return
        leader = host.leader
        if leader is None or (leader.value == name.encode() and leader.lease != host.lease):
            fence = Unchanged(KEYS.leader, leader.revision if leader else 0)
            self.ledger.transact([fence], [Put(KEYS.leader, name.encode(), host.lease)])

    def lead(self, name: str) -> None:
        """One transaction of a leader: of a plan it has begun, or of what it decides on what it knows."""
        host = self.hosts.get(name)
        if host is None or host.leader is None or host.leader.lease != host.lease:
            return
        if not host.plan and host.seen_at < max(host.leader.revision, host.wrote_at):
            return
        if not host.plan:
            host.call, action = preside(host.table, self.rules, host.call, self.now)
            host.fence = [
                Unchanged(KEYS.round, host.surveyed_round),
                Unchanged(KEYS.leader, host.leader.revision),
            ]
            if isinstance(action, Turn):
                host.plan = [(Put(KEYS.round, written(action.round)),)]
            elif isinstance(action, Form):
                host.plan = pieces(action, KEYS, most=2)
            else:
                return
        outcome = self.ledger.transact(host.fence, host.plan.pop(0))
        if isinstance(outcome, Committed):
            host.wrote_at = outcome.revision
        else:
            host.plan = []

    def act(self, name: str) -> None:
        """Do what a host has to do by what it saw."""
        host = self.hosts.get(name)
        if host is None or host.outcome is not None:
            return
        round = read_round(host.round.value) if host.round else None
        seats = [read_seat(entry.value, name) for entry in self.ledger.range(KEYS.seat(name)).entries]
        host.me = waiting(host.me, round, self.now)
        match attend(round, seats[0] if seats else None, host.me, self.rules, self.now):
            case Start(world):
                assert host.running is None
                host.running = Running(name, host.life, world)
                host.me = replace(host.me, running=world.round)
                self._note_start(host.running)
            case Stop():
                self.free(host, host.me.running + 1)
            case SayFree(free_from):
                self.free(host, free_from)
            case (Finish() | GiveUp()) as outcome:
                host.outcome = outcome

    def free(self, host: SimulatedHost, free_from: int) -> None:
        """The last worker is gone, or there was none: free for what comes after the round of that seat."""
        host.me = Myself(replace(host.me.host, free_from=free_from), waiting_since=self.now)
        host.running = None
        self._say(host)

    def fail(self, name: str) -> None:
        """A worker fails: the host asks for the next round, or ends the job, unless the round has been left already."""
        host = self.hosts.get(name)
        if host is None or host.running is None or host.round is None:
            return
        round = read_round(host.round.value)
        if round.phase == "formed" and round.number == host.running.world.round:
            after = rendezvous.failed(round, self.rules, Failed(name, f"rank of {name} has failed", 3))
            wrote = self.ledger.transact(
                [Unchanged(KEYS.round, host.round.revision)], [Put(KEYS.round, written(after))]
            )
            self.failures += isinstance(wrote, Committed) and after.restarts > round.restarts

    def succeed(self, name: str) -> None:
        """All workers of a host succeed."""
        host = self.hosts.get(name)
        if host is None or host.running is None or host.round is None:
            return
        entries = self.ledger.range(KEYS.seat(name)).entries
        seat = read_seat(entries[0].value, name) if entries else None
        if seat and seat.round == host.running.world.round and seat.life == host.life:
            self.ledger.transact(
                [Unchanged(KEYS.round, host.round.revision)],
                [Put(KEYS.seat(name), written(replace(seat, succeeded=True)))],
            )

    def wait(self, _: str) -> None:
        self.now += 7.0

    def _say(self, host: SimulatedHost) -> None:
        if host.lease in self.ledger.leases:
            self.ledger.transact([], [Put(KEYS.host(host.name), written(host.me.host), host.lease)])

    # ---- what must hold

    def _note_start(self, running: Running) -> None:
        """Never do two workers have the same RANK in the same round, now or at different times."""
        world = running.world
        taken = self.started.setdefault(world.round, {})
        for rank in range(world.base_rank, world.base_rank + world.local_world_size):
            assert rank not in taken, f"rank {rank} of round {world.round}: {taken[rank]} and {running}"
            taken[rank] = (running.host, running.life)
            assert rank < world.world_size
        formed = self.formed[world.round]
        assert (world.master_addr, world.master_port) == (formed.master_addr, formed.master_port)
        assert (world.world_size, world.group_world_size) == (formed.world_size, formed.hosts)

    def check(self) -> None:
        if self.checked == self.ledger.revision:
            return
        self.checked = self.ledger.revision
        entries = self.ledger.range(KEYS.round).entries
        if not entries:
            return
        round = read_round(entries[0].value)
        if round.phase == "formed":
            assert self.formed.setdefault(round.number, round) == round, "a round was formed twice"
            assert self.rules.min_hosts <= round.hosts <= self.rules.max_hosts
            seats = self._seats(round)
            assert [seat.group_rank for seat in seats] == list(range(round.hosts))
            for seat in seats:
                host = self.hosts.get(seat.host)
                if host and host.running and host.life == seat.life:
                    assert host.running.world.round == round.number, f"{seat.host} was seated before it was free"
        self._check_given_back(self.last, round)
        self.last = round
        assert round.number in {len(self.formed), len(self.formed) + 1}
        assert round.restarts == self.failures
        assert round.restarts <= self.rules.max_restarts or self.rules.max_restarts < 0

    def _check_given_back(self, last: Round | None, round: Round) -> None:
        """A failure is taken back only in an open round, and only for another host that has died."""
        if last is None or last.number != round.number or last.because != "failed" or round.because != "left":
            return
        assert last.phase == round.phase == "open"
        assert round.host != last.host
        seats = {seat.host: seat.life for seat in self._seats(replace(round, number=round.number - 1))}
        host = self.hosts.get(round.host)
        assert host is None or host.life != seats[round.host] or host.lease not in self.ledger.leases
        self.failures -= last.verdict is None
        assert round.verdict is None

    def _seats(self, round: Round) -> list[Seat]:
        entries = self.ledger.range(f"{KEYS.base}/seats/").entries
        seats = [read_seat(entry.value, KEYS.seat_of(entry.key) or "") for entry in entries]
        return sorted((seat for seat in seats if seat.round == round.number), key=lambda seat: seat.group_rank)

    def settle(self) -> None:
        """Nothing happens to the hosts any more: within a bound they are in one world, or all have one verdict."""
        quiet = 0
        for _ in range(40):
            if quiet == 3:
                break
            before = self.ledger.revision
            for name in tuple(self.hosts):
                for step in (
                    self.keep_alive,
                    self.look,
                    self.stand,
                    self.look,
                    self.survey,
                    self.lead,
                    self.look,
                    self.act,
                ):
                    step(name)
                    self.check()
            quiet = quiet + 1 if before == self.ledger.revision else 0
            self.now += self.rules.last_call_for
        assert quiet == 3, "it does not come to rest"
        self._check_settled()

    def _check_settled(self) -> None:
        living = [host for host in self.hosts.values() if not isinstance(host.outcome, GiveUp)]
        if not living:
            return
        round = read_round(self.ledger.range(KEYS.round).entries[0].value)
        if round.phase == "closed":
            assert [host.outcome for host in living] == [Finish(round.verdict or Verdict("failed", "none"))] * len(
                living
            )
        elif len(living) < self.rules.min_hosts:
            assert round.phase == "open" or any(seat.succeeded for seat in self._seats(round))
        else:
            assert round.phase == "formed", round
            inside = [host for host in living if host.running is not None]
            assert {host.running.world.round for host in inside if host.running} == {round.number}
            finished = [seat for seat in self._seats(round) if seat.succeeded]
            if not finished:
                assert len(inside) == round.hosts == min(len(living), self.rules.max_hosts)
                ranks = sorted(rank for host in inside for rank in _ranks(host))
                assert ranks == list(range(round.world_size))


def _ranks(host: SimulatedHost) -> list[int]:
    assert host.running is not None
    world = host.running.world
    return list(range(world.base_rank, world.base_rank + world.local_world_size))


WEIGHTS = {
    "turn": 20, "look": 4, "survey": 4, "stand": 3, "lead": 12, "act": 6, "arrive": 4, "keep_alive": 3,
    "wait": 4, "die": 1, "expire": 2, "fail": 2, "succeed": 1,
}  # fmt: skip


def play(rules: Rules, script: list[tuple[str, str]]) -> None:
    simulation = Simulation(rules)
    for step, name in script:
        if step == "turn":
            turn(simulation, name)
        else:
            getattr(simulation, step)(name)
        simulation.check()
    simulation.settle()


def turn(simulation: Simulation, name: str) -> None:
    """A host that is up to date does all that it can: what mostly happens."""
    for step in ("keep_alive", "look", "stand", "survey", "lead", "look", "act"):
        getattr(simulation, step)(name)
        simulation.check()


def rules_of(least: int, more: int, restarts: int) -> Rules:
    return Rules(least, least + more, join_for=1e6, last_call_for=30, max_restarts=restarts)


@seed(20261122)
@settings(max_examples=200)
@given(
    st.builds(rules_of, st.integers(1, 3), st.integers(0, 2), st.integers(0, 3)),
    st.lists(st.tuples(st.sampled_from(sorted(WEIGHTS)), st.sampled_from(NAMES)), max_size=100),
)
def test_every_history_is_safe_and_ends_in_one_world(rules: Rules, script: list[tuple[str, str]]) -> None:
    play(rules, script)


@pytest.mark.parametrize("first", range(0, 300, 100))
def test_long_histories_are_safe_and_end_in_one_world(first: int) -> None:
    """Histories by their seeds, which replay; what is likely in life is likely here."""
    for number in range(first, first + 100):
        chance = random.Random(number)
        rules = rules_of(chance.randint(1, 4), chance.randint(0, 3), chance.randint(-1, 4))
        names = NAMES[: chance.randint(1, len(NAMES))]
        steps = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=250)
        script = [("arrive", name) for name in names] + [(step, chance.choice(names)) for step in steps]
        print(f"seed {number}: {rules} {script}")
        play(rules, script)
