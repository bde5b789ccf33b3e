"""A store that is far away: requests and answers take their time, are lost, and land when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from supervisor.peers.memory import Ledger
from supervisor.peers.store import (
    Changes,
    Committed,
    Conflict,
    Delete,
    Entry,
    Found,
    Lease,
    Put,
    StoreAway,
    StoreError,
    Unchanged,
)

T = TypeVar("T")

ANSWERED_WITHIN = 1.5
"""Seconds that a request is waited for."""


@dataclass(eq=False)
class Link:
    """Between a host and the store. ``deaf``: answers and news do not come through; ``mute``: requests do not.

    ``pace``: how fast the store's clock runs beside that of the host. ``life``: the last that has begun there.
    """

    host: str
    pace: float = 1.0
    deaf: bool = False
    mute: bool = False
    life: str = ""


@dataclass(eq=False)
class Watching:
    """A watch that waits for news."""

    link: Link
    prefix: str
    after: int
    news: asyncio.Future[Changes]
    told: bool = False


Watched = Callable[[Link, Sequence[Put | Delete]], None]


class Network:
    """The one ledger, the leases in it that end, and what is on its way.

    ``writing`` is called before a transaction of a host is written, ``written`` after anything has been.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, chance: random.Random, writing: Watched, written: Callable[[], None]
    ) -> None:
        self.ledger = Ledger()
        self.down = False
        self.slow = self.calm = False
        self._loop = loop
        self._chance = chance
        self._writing = writing
        self._written = written
        self._watching: list[Watching] = []
        self._ends: dict[int, tuple[asyncio.TimerHandle, float]] = {}
        self._nowhere = contextvars.Context()

    # ---- the way

    def delay(self) -> float:
        """Seconds: mostly little, at times longer than anybody waits."""
        luck = self._chance.random()
        if self.calm:
            return 0.01 * luck
        if self.slow or luck < 0.01:
            return self._chance.uniform(0.0, 4.0)
        return 0.3 * luck if luck < 0.1 else 0.01 * luck

    def later(self, seconds: float, do: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Outside of all hosts."""
        return self._loop.call_later(seconds, do, *args, context=self._nowhere)

    def ask(self, link: Link, do: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        """``do`` is done where the store is, once, or never; what comes of it may never arrive."""
        self.later(self.delay(), self._arrive, link, do, answer)

    def _arrive(self, link: Link, do: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        if link.mute or self.down:
            return
        try:
            come = do()
        except StoreError as why:
            self.later(self.delay(), self._answer, link, answer.set_exception, answer, why)
        else:
            self.later(self.delay(), self._answer, link, answer.set_result, answer, come)

    @staticmethod
    def _answer(link: Link, give: Callable[[Any], None], answer: asyncio.Future[Any], come: Any) -> None:
        if not link.deaf and not answer.done():
            give(come)

    # ---- watches

    def watch(self, watching: Watching) -> None:
        self._watching.append(watching)
        self._look(watching)

    def look(self) -> None:
        """Who waits for news gets what there is, if it can be reached."""
        self._watching = [one for one in self._watching if not one.news.done()]
        for watching in self._watching:
            self._look(watching)

    def _look(self, watching: Watching) -> None:
        if watching.told or self.down or watching.link.deaf:
            return
        news = self.ledger.since(watching.prefix, watching.after)
        if news is not None:
            watching.told = True
            self.later(self.delay(), self._tell, watching, news)

    def _tell(self, watching: Watching, news: Changes) -> None:
        watching.told = False
        if watching.link.deaf or self.down:
            return  # it is told again when it can be reached
        if not watching.news.done():
            watching.news.set_result(news)

    # ---- what the store does

    def transact(
        self, link: Link, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        if all(self._revision_of(one.key) == one.revision for one in conditions):
            self._writing(link, operations)
        outcome = self.ledger.transact(conditions, operations)
        if isinstance(outcome, Committed):
            self._changed()
        return outcome

    def grant(self, link: Link, ttl: float) -> Lease:
        lease = self.ledger.grant(ttl)
        self._extend(lease.id, ttl * link.pace)
        link.life = f"{lease.id:x}"
        return lease

    def keep_alive(self, lease: int) -> float | None:
        ttl = self.ledger.leases.get(lease)
        if ttl is not None:
            self._extend(lease, self._ends[lease][1])
        return ttl

    def revoke(self, lease: int) -> None:
        """End it, and what is written under it."""
        if lease in self._ends:
            self._ends.pop(lease)[0].cancel()
            self.ledger.revoke(lease)
            self._changed()

    def fail(self) -> None:
        """No member of the store answers."""
        self.down = True
        for timer, _ in self._ends.values():
            timer.cancel()

    def recover(self) -> None:
        """Another member leads: it knows all that was acknowledged, and begins the time of every lease anew (etcd)."""
        self.down = False
        for lease, (_, lasts) in list(self._ends.items()):
            self._extend(lease, lasts)
        self.look()

    def _extend(self, lease: int, seconds: float) -> None:
        if lease in self._ends:
            self._ends[lease][0].cancel()
        self._ends[lease] = (self.later(seconds, self.revoke, lease), seconds)

    def _changed(self) -> None:
        self._written()
        self.look()

    def _revision_of(self, key: str) -> int:
        entry = self.ledger.get(key)
        return entry.revision if entry is not None else 0


class FarStore:
    """The ``Store`` of one host: every request goes over its link."""

    def __init__(self, network: Network, link: Link, chance: random.Random) -> None:
        self._network = network
        self._link = link
        self._chance = chance

    async def range(self, prefix: str) -> Found:
        return await self._ask(lambda: self._network.ledger.range(prefix))

    async def get(self, key: str) -> Entry | None:
        return await self._ask(lambda: self._network.ledger.get(key))

    async def transact(
        self, conditions: Sequence[Unchanged], operations: Sequence[Put | Delete]
    ) -> Committed | Conflict:
        return await self._ask(lambda: self._network.transact(self._link, conditions, operations))

    async def grant(self, ttl: float) -> Lease:
        return await self._ask(lambda: self._network.grant(self._link, ttl))

    async def keep_alive(self, lease: int) -> float | None:
        return await self._ask(lambda: self._network.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._ask(lambda: self._network.revoke(lease))

    async def watch(self, prefix: str, after: int) -> AsyncGenerator[Changes, None]:
        while True:
            watching = Watching(self._link, prefix, after, asyncio.get_running_loop().create_future())
            self._network.later(self._network.delay(), self._network.watch, watching)
            news = await watching.news
            after = news.revision
            yield news
            if self._chance.random() < 0.05:
                yield news  # once more, as after a connection that broke before it was known how far it had come

    async def close(self) -> None:
        return

    async def _ask(self, do: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        self._network.ask(self._link, do, answer)
        alarm = loop.call_later(ANSWERED_WITHIN, self._give_up, answer)
        try:
            return await answer
        finally:
            alarm.cancel()

    @staticmethod
    def _give_up(answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(StoreAway("no answer in time"))
