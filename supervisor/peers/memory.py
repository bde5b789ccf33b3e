"""The embedded store: one process, nothing written down, the same semantics as etcd's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from supervisor.peers.store import (
    Changes,
    Committed,
    Conflict,
    Delete,
    Entry,
    Found,
    Lease,
    LeaseLost,
    Put,
    StoreRefused,
    Unchanged,
    changes,
)

HISTORY = 10_000
"""Revisions that are kept for those who watch from an earlier one."""


@dataclass(frozen=True, slots=True)
class _Revision:
    number: int
    steps: tuple[tuple[str, Entry | None], ...]


class Ledger:
    """What a store holds: entries, their revisions, and which lease they belong to. No time passes here."""

    def __init__(self) -> None:
        self.revision = 1
        self.leases: dict[int, float] = {}
        self._entries: dict[str, Entry] = {}
        self._history: deque[_Revision] = deque(maxlen=HISTORY)
        self._compacted = 1
        self._next_lease = 1

    def range(self, prefix: str) -> Found:
        return Found(
            tuple(self._entries[key] for key in sorted(self._entries) if key.startswith(prefix)), self.revision
        )

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def transact(self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]) -> Committed | Conflict:
        if len({operation.key for operation in operations}) < len(operations):
            raise StoreRefused("a transaction may write a key only once")
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self.leases:
                raise LeaseLost(f"lease {operation.lease} has ended")
        if any(self._revision_of(condition.key) != condition.revision for condition in conditions):
            keys = sorted({condition.key for condition in conditions} & self._entries.keys())
            return Conflict(Found(tuple(self._entries[key] for key in keys), self.revision))
        self._commit(operations)
        return Committed(self.revision)

    def grant(self, ttl: float) -> Lease:
        lease = Lease(self._next_lease, ttl)
        self._next_lease += 1
        self.leases[lease.id] = ttl
        return lease

    def revoke(self, lease: int) -> None:
        if self.leases.pop(lease, None) is not None:
            self._commit([Delete(entry.key) for entry in self._entries.values() if entry.lease == lease])

    def compact(self) -> None:
        """Forget what was before now (etcd's compaction)."""
        self._history.clear()
        self._compacted = self.revision

    def since(self, prefix: str, after: int) -> Changes | None:
        """What has changed under ``prefix`` after that revision; None: nothing has."""
        oldest = self._history[0].number - 1 if len(self._history) == HISTORY else self._compacted
        if after < oldest:
            found = self.range(prefix)
            return Changes(found.entries, (), found.revision, whole=True)
        steps = [
            step
            for missed in self._history
            if missed.number > after
            for step in missed.steps
            if step[0].startswith(prefix)
        ]
        return changes(steps, self.revision) if steps else None

    def _revision_of(self, key: str) -> int:
        entry = self._entries.get(key)
        return entry.revision if entry is not None else 0

    def _commit(self, operations: Sequence[Put | Delete]) -> None:
        """Write. As with etcd, what changes nothing has no revision of its own."""
        number = self.revision + 1
        steps: list[tuple[str, Entry | None]] = []
        for operation in operations:
            before = self._entries.get(operation.key)
            if isinstance(operation, Put):
                created = before.created if before is not None else number
                entry = Entry(operation.key, operation.value, number, created, operation.lease)
                self._entries[operation.key] = entry
                steps.append((operation.key, entry))
            elif before is not None:
                del self._entries[operation.key]
                steps.append((operation.key, None))
        if steps:
            self.revision = number
            self._history.append(_Revision(number, tuple(steps)))


class MemoryStore:
    """A ``Ledger`` in whose leases time passes, by the clock of the running loop."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._ends: dict[int, asyncio.TimerHandle] = {}
        self._changed = asyncio.Event()

    async def range(self, prefix: str) -> Found:
        return self._ledger.range(prefix)

    async def get(self, key: str) -> Entry | None:
        return self._ledger.get(key)

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        outcome = self._ledger.transact(conditions, operations)
        self._wake()
        return outcome

    async def grant(self, ttl: float) -> Lease:
        lease = self._ledger.grant(ttl)
        self._extend(lease.id, ttl)
        return lease

    async def keep_alive(self, lease: int) -> float | None:
        ttl = self._ledger.leases.get(lease)
        if ttl is not None:
            self._extend(lease, ttl)
        return ttl

    async def revoke(self, lease: int) -> None:
        self._end(lease)

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        while True:
            changed = self._changed
            news = self._ledger.since(prefix, after)
            if news is None:
                after = max(after, self._ledger.revision)
                await changed.wait()
            else:
                after = news.revision
                yield news

    async def close(self) -> None:
        for handle in self._ends.values():
            handle.cancel()
        self._ends.clear()

    def compact(self) -> None:
        """Forget what was before now: who watches from an earlier revision gets the whole instead."""
        self._ledger.compact()

    def _extend(self, lease: int, ttl: float) -> None:
        if lease in self._ends:
            self._ends[lease].cancel()
        self._ends[lease] = asyncio.get_running_loop().call_later(ttl, self._end, lease)

    def _end(self, lease: int) -> None:
        handle = self._ends.pop(lease, None)
        if handle is not None:
            handle.cancel()
        self._ledger.revoke(lease)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
