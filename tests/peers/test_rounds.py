"""A group's part in a job: who has failed for good says so to those in its world, and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from supervisor import rounds
from supervisor.core.messages import (
    Input,
    JobEnded,
    LeaveWorld,
    PeersFound,
    PeersLost,
    ReportFailure,
    WorldFormed,
    WorldLost,
)
from supervisor.peers.memory import MemoryStore
from supervisor.peers.store import Store
from supervisor.plan import DaemonPlan, RendezvousRules, StorePlan
from supervisor.rounds import Rounds
from tests.stories.story import job

GROUP = job(rendezvous=RendezvousRules("etcd", 2, min_hosts=2, lease_ttl=60.0))


class Side:
    """One host's daemon, as far as it has to do with others."""

    def __init__(self, name: str, store: MemoryStore, tasks: anyio.abc.TaskGroup, addr: str | None = None) -> None:
        self.inbox: asyncio.Queue[Input] = asyncio.Queue()
        place = StorePlan(("http://nowhere:1",), "/rankd", f"{name}.example" if addr is None else addr)
        plan = DaemonPlan("rankd", name, "run", "/state", "/run", {GROUP.name: GROUP}, store=place)

        async def the_store(_place: StorePlan, _lease_ttl: float) -> Store:
            return store

        self.rounds = Rounds(
            plan, tasks, the_store, lambda _group, word: self.inbox.put_nowait(word), lambda _event: None
        )

    async def hears(self, kind: type[Input]) -> Input:
        """The next of that kind; what comes before it is passed over."""
        async with asyncio.timeout(45):
            while not isinstance(word := await self.inbox.get(), kind):
                pass
            return word


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[Side, Side]]:
    """In one world."""
    store = MemoryStore()
    async with anyio.create_task_group() as tasks:
        sides = Side("a", store, tasks), Side("b", store, tasks)
        for side in sides:
            side.rounds.join(GROUP, 0)
        for side in sides:
            await side.hears(WorldFormed)
        yield sides
        for side in sides:
            side.rounds.tell(GROUP.name, LeaveWorld())
        for side in sides:
            await side.rounds.close(5.0)


async def test_who_fails_for_good_takes_its_world_along() -> None:
    async with two_hosts() as (a, b):
        a.rounds.tell(GROUP.name, LeaveWorld("rank 0 cannot be killed", 1))
        assert await b.hears(JobEnded) == JobEnded("failed", "rank 0 cannot be killed (host a)", 1)


async def test_who_fails_for_good_when_its_world_has_ended_is_not_waited_for() -> None:
    """A worker fails, and another one cannot be killed. The host would have stayed, and taken part in nothing."""
    async with two_hosts() as (a, b):
        a.rounds.tell(GROUP.name, ReportFailure("rank 0 exited with code 3", 3))
        for side in (a, b):
            await side.hears(WorldLost)
        a.rounds.tell(GROUP.name, LeaveWorld("rank 1 cannot be killed", 1))
        async with asyncio.timeout(5):
            await a.rounds.close(None)


async def test_a_network_that_is_not_up_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that boots. It was given up at once, where an etcd that is away is waited for."""
    reasons = ["Network is unreachable", "Temporary failure in name resolution"]

    def address(_endpoints: object) -> str:
        if reasons:
            raise OSError(reasons.pop(0))
        return "10.0.0.1"

    monkeypatch.setattr(rounds, "address_for_others", address)
    store = MemoryStore()
    async with anyio.create_task_group() as tasks:
        late, other = Side("a", store, tasks, addr=""), Side("b", store, tasks)
        for side in (late, other):
            side.rounds.join(GROUP, 0)
        assert await late.hears(PeersLost) == PeersLost("Network is unreachable")
        assert await late.hears(PeersFound) == PeersFound()
        world = await late.hears(WorldFormed)
        assert isinstance(world, WorldFormed)
        assert world.world.master_addr == "10.0.0.1"
        for side in (late, other):
            side.rounds.tell(GROUP.name, LeaveWorld())
        for side in (late, other):
            await side.rounds.close(5.0)


async def test_who_leaves_while_there_is_no_network_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def address(_endpoints: object) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(rounds, "address_for_others", address)
    async with anyio.create_task_group() as tasks:
        side = Side("a", MemoryStore(), tasks, addr="")
        side.rounds.join(GROUP, 0)
        await side.hears(PeersLost)
        side.rounds.tell(GROUP.name, LeaveWorld())
        await side.rounds.close(45.0)
        assert side.inbox.empty(), "it has nothing more to say"
