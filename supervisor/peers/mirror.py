"""A part of the store as it is, kept current by a watch."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from supervisor import clock
from supervisor.peers.store import Entry, Store, StoreAway

LOOK_AGAIN_AFTER = 0.5
"""Seconds before a store that was away is asked anew. The store has its own, growing pauses within each call."""


class Mirror:
    """Entries under ``prefix`` by their keys, as they were at ``revision``; 0: not read yet."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self._store = store
        self._prefix = prefix
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep it current until cancelled. Raises ``StoreRefused``."""
        while True:
            try:
                found = await self._store.range(self._prefix)
            except StoreAway:
                await asyncio.sleep(LOOK_AGAIN_AFTER)
            else:
                break
        self._take({entry.key: entry for entry in found.entries}, found.revision)
        async with aclosing(self._store.watch(self._prefix, found.revision)) as watch:
            async for news in watch:
                entries = {} if news.whole else self.entries
                entries.update({entry.key: entry for entry in news.written})
                for key in news.deleted:
                    entries.pop(key, None)
                self._take(entries, news.revision)

    def touch(self) -> None:
        """Wake who waits for a change, for a reason that is not in the store."""
        self._changed.set()

    async def changed(self, until: float | None = None) -> None:
        """Return once something has changed since the last time, or at the instant ``until``."""
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - clock.now())):
                await self._changed.wait()
        except TimeoutError:
            return
        finally:
            self._changed.clear()

    def _take(self, entries: dict[str, Entry], revision: int) -> None:
        self.entries, self.revision = entries, revision
        self._changed.set()
