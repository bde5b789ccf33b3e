"""What a round of many hosts costs the store: the real ``Member`` on a store that counts.

``python -m tests.simulation.scale 1000 10000`` prints a table: what a round needs, and what etcd allows.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass

from supervisor.core.rendezvous import Host, Rules
from supervisor.peers.membership import Member, News, WorldCame, WorldEnded
from supervisor.peers.memory import Ledger
from supervisor.peers.records import Keys
from supervisor.peers.store import Changes, Committed, Conflict, Delete, Entry, Found, Lease, Put, Unchanged, changes

KEYS = Keys.of("/rankd", "scale", "trainer")

MAX_REQUEST_BYTES = 3 << 19
MAX_TXN_OPS = 128
QUOTA_BACKEND_BYTES = 2 << 30
"""etcd's limits: the defaults of its flags of these names. A value has no other limit than the request it comes in."""


class CountedStore:
    """A ledger in which leases do not end by themselves, and what was asked of it.

    ``bytes_watched``: keys and values sent to all watchers. ``bytes_stored``: of all revisions, as etcd keeps them
    until it is told to compact. ``largest_request``: keys and values of one transaction. ``most_in_one``: its
    conditions or its operations, which etcd counts apart.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.operations: Counter[str] = Counter()
        self.bytes_watched = 0
        self.bytes_read = 0
        self.bytes_stored = 0
        self.largest_request = 0
        self.largest_value = 0
        self.most_in_one = 0
        self._watches: dict[str, set[asyncio.Queue[Changes]]] = defaultdict(set)

    async def range(self, prefix: str) -> Found:
        found = self.ledger.range(prefix)
        self._read("range", found.entries)
        return found

    async def get(self, key: str) -> Entry | None:
        entry = self.ledger.get(key)
        self._read("get", () if entry is None else (entry,))
        return entry

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        self.operations["transact"] += 1
        written = sum(map(_size, operations))
        asked = written + sum(len(condition.key) for condition in conditions)
        self.largest_request = max(self.largest_request, asked)
        self.largest_value = max([self.largest_value, *(len(one.value) for one in operations if isinstance(one, Put))])
        self.most_in_one = max(self.most_in_one, len(conditions), len(operations))
        outcome = self.ledger.transact(conditions, operations)
        if isinstance(outcome, Committed):
            self.bytes_stored += written
            self._tell([operation.key for operation in operations])
        return outcome

    async def grant(self, ttl: float) -> Lease:
        self.operations["grant"] += 1
        return self.ledger.grant(ttl)

    async def keep_alive(self, lease: int) -> float | None:
        self.operations["keep_alive"] += 1
        return self.ledger.leases.get(lease)

    async def revoke(self, lease: int) -> None:
        self.operations["revoke"] += 1
        keys = [entry.key for entry in self.ledger.range(KEYS.all).entries if entry.lease == lease]
        self.ledger.revoke(lease)
        self._tell(keys)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        self.operations["watch"] += 1
        news: asyncio.Queue[Changes] = asyncio.Queue()
        if missed := self.ledger.since(prefix, after):
            self._send(news, missed)
        self._watches[prefix].add(news)
        try:
            while True:
                yield await news.get()
        finally:
            self._watches[prefix].discard(news)

    async def close(self) -> None:
        return

    def _read(self, what: str, entries: Iterable[Entry]) -> None:
        self.operations[what] += 1
        self.bytes_read += sum(len(entry.key) + len(entry.value) for entry in entries)

    def _tell(self, keys: Sequence[str]) -> None:
        for prefix, watching in self._watches.items():
            steps = [(key, self.ledger.get(key)) for key in keys if key.startswith(prefix)]
            if steps:
                told = changes(steps, self.ledger.revision)
                for news in watching:
                    self._send(news, told)

    def _send(self, news: asyncio.Queue[Changes], told: Changes) -> None:
        self.bytes_watched += sum(len(entry.key) + len(entry.value) for entry in told.written)
        self.bytes_watched += sum(map(len, told.deleted))
        news.put_nowait(told)


def _size(operation: Put | Delete) -> int:
    return len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)


@dataclass(frozen=True)
class Cost:
    """Of forming a world: ``operations`` by their kind. ``took_for``: seconds of this one process for all hosts.

    The rest is as in ``CountedStore``.
    """

    hosts: int
    operations: Counter[str]
    bytes_watched: int
    bytes_read: int
    bytes_stored: int
    largest_request: int
    largest_value: int
    most_in_one: int
    took_for: float

    @property
    def needs(self) -> dict[str, tuple[int, int]]:
        """What etcd limits: how much of it the round needs, and how much there is."""
        return {
            "request": (self.largest_request, MAX_REQUEST_BYTES),
            "txn ops": (self.most_in_one, MAX_TXN_OPS),
            "value": (self.largest_value, MAX_REQUEST_BYTES),
            "stored": (self.bytes_stored, QUOTA_BACKEND_BYTES),
        }


class Scene:
    """So many hosts in one process, whose workers stop at once when they are to."""

    def __init__(self, hosts: int, lease_ttl: float) -> None:
        self.store = CountedStore()
        self.formed = asyncio.Event()
        self._running = 0
        self._hosts = hosts
        ports = itertools.cycle(range(1024, 65536))
        self.members: list[Member] = []
        for number in range(hosts):
            host = Host(f"host-{number:05}", "", f"10.0.{number // 250}.{number % 250}", 0, 8, "trainer")

            def hear(news: News, number: int = number) -> None:
                self._hear(number, news)

            self.members.append(
                Member(
                    self.store, KEYS, host, Rules(hosts - 1, hosts), lease_ttl=lease_ttl,
                    choose_port=lambda: next(ports), tell=hear,
                )
            )  # fmt: skip

    def _hear(self, number: int, news: News) -> None:
        match news:
            case WorldCame():
                self._running += 1
                if self._running == self._hosts:
                    self.formed.set()
            case WorldEnded():
                self._running -= 1
                asyncio.get_running_loop().call_soon(self.members[number].workers_gone)


async def form(hosts: int, lease_ttl: float = 3600.0, idle_for: float = 0.0) -> tuple[Cost, Counter[str]]:
    """What it costs until all run; and the operations of ``idle_for`` seconds after that."""
    scene = Scene(hosts, lease_ttl)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(member.run()) for member in scene.members]
        await scene.formed.wait()
        store = scene.store
        cost = Cost(
            hosts, store.operations.copy(), store.bytes_watched, store.bytes_read, store.bytes_stored,
            store.largest_request, store.largest_value, store.most_in_one, time.perf_counter() - began,
        )  # fmt: skip
        await asyncio.sleep(idle_for)
        after = store.operations - cost.operations
        for task in running:
            task.cancel()
    return cost, after


def main(*sizes: str) -> None:
    costs = [asyncio.run(form(int(size)))[0] for size in sizes]
    print(
        f"{'hosts':>12} {'operations':>10} {'a host':>7} {'watched':>9} {'a host':>7} {'read':>9} {'seconds':>8}"
        + "".join(f" {name:>18}" for name in costs[0].needs)
    )
    for cost in costs:
        operations = cost.operations.total()
        print(
            f"{cost.hosts:>12} {operations:>10} {operations / cost.hosts:>7.2f} {cost.bytes_watched:>9} "
            f"{cost.bytes_watched / cost.hosts:>7.0f} {cost.bytes_read:>9} {cost.took_for:>8.1f}"
            + "".join(f" {need:>9} {need / most:>8.2%}" for need, most in cost.needs.values())
        )
    print(f"{'etcd allows':>12} {'':>55}" + "".join(f" {most:>18}" for _, most in costs[0].needs.values()))
    print("Bytes are those of keys and values. Stored: all revisions of one round, before etcd compacts them.")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["1000", "10000"]))
