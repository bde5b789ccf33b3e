"""What a rendezvous needs of a store: compare-and-swap, leases, and a watch that misses nothing.

The words are etcd's (its API, version 3): every committed transaction has a *revision*, one more than the last; an
entry knows the revision that wrote it; a lease that is not kept alive takes its entries along. ``memory.py`` and
``etcd.py`` mean the same by them: one test suite runs against both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """The store has not done what was asked, and why."""


class StoreAway(StoreError):
    """No endpoint has answered in time. Whether a transaction has landed is not known: look before trying again."""


class StoreRefused(StoreError):
    """The store answers, but will never do this: no such user, no permission, not a request it knows."""


class LeaseLost(StoreError):
    """A write names a lease that has ended. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key with its value; ``revision`` wrote it last, ``created`` first. ``lease`` 0: it stays until deleted."""

    key: str
    value: bytes
    revision: int
    created: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Entries in the order of their keys, as they were at ``revision``."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """True while the key's last write is that of ``revision``; 0: while there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value. The key belongs to ``lease`` from then on, or with 0 to none."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key, if it is there."""

    key: str


@dataclass(frozen=True, slots=True)
class Committed:
    """All of it was written, with this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """Nothing was written: a condition does not hold. ``found`` is what there is under the keys of the conditions."""

    found: Found


@dataclass(frozen=True, slots=True)
class Lease:
    """``ttl`` in seconds is what the store grants, at least what was asked for."""

    id: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed up to ``revision``: of each key the last that was done to it, entries in the order of writing.

    ``whole``: ``written`` is all that there is now. The store no longer knew what had happened since the revision that
    was asked for.
    """

    written: tuple[Entry, ...]
    deleted: tuple[str, ...]
    revision: int
    whole: bool = False


def changes(steps: Iterable[tuple[str, Entry | None]], revision: int) -> Changes:
    """What is left of ``steps``, each a key with its new entry, or None where it was deleted."""
    last = dict(steps)
    written = sorted((entry for entry in last.values() if entry is not None), key=lambda entry: entry.revision)
    return Changes(tuple(written), tuple(key for key, entry in last.items() if entry is None), revision)


MAX_OPERATIONS = 128
"""Conditions or operations of one transaction: etcd's default (``--max-txn-ops``)."""


class Store(Protocol):
    """A store that several hosts share. Every call is bounded in time; raises ``StoreError`` and what comes from it."""

    async def range(self, prefix: str) -> Found:
        """All entries whose keys begin with ``prefix``, as they are now (linearizable)."""

    async def get(self, key: str) -> Entry | None:
        """The entry of just this key, as it is now (linearizable)."""

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        """Do all of it at once if every condition holds, else nothing. No key may be written twice.

        Raises ``LeaseLost`` when a ``Put`` names a lease that has ended.
        """

    async def grant(self, ttl: float) -> Lease:
        """A lease that ends ``ttl`` seconds after it was last kept alive."""

    async def keep_alive(self, lease: int) -> float | None:
        """Begin the lease's time anew: the seconds it has from now on. None: it has ended, and so have its entries."""

    async def revoke(self, lease: int) -> None:
        """End the lease now and delete its entries. One that has ended already is no error."""

    def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        """What changes under ``prefix`` after the revision ``after``, until closed. Of one transaction all at once.

        Goes on by itself where it was when the store was away. Raises ``StoreRefused`` only.
        """

    async def close(self) -> None:
        """Let go of connections. Leases go on: revoke them first where that is wanted."""
