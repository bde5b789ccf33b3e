"""One etcd for all tests that do not end or change it; each test has a prefix of its own in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from supervisor.peers.etcd import EtcdStore
from supervisor.peers.memory import MemoryStore
from tests.peers.etcd import INSTALLED, Etcd, ask, needs_etcd


@pytest.fixture(scope="session", autouse=True)
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Without being asked for, so that it is there before a test counts its own processes."""
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    if INSTALLED:
        server.start()
        asyncio.run(server.answers())
    yield server
    server.stop()


class Memory:
    """The embedded store, as the conformance suite meets it."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    async def compact(self) -> None:
        self.store.compact()


class Real:
    """etcd, as the conformance suite meets it."""

    def __init__(self, store: EtcdStore, endpoint: str) -> None:
        self.store = store
        self._endpoint = endpoint

    async def compact(self) -> None:
        found = await self.store.range("none")
        await ask(self._endpoint, "kv/compaction", {"revision": str(found.revision), "physical": True})


@pytest.fixture(params=["memory", pytest.param("etcd", marks=needs_etcd)])
async def either(request: pytest.FixtureRequest, etcd: Etcd) -> AsyncIterator[Memory | Real]:
    """A store of each kind, empty but for what other tests have left under their own prefixes."""
    if request.param == "memory":
        memory = Memory()
        yield memory
        await memory.store.close()
        return
    store = EtcdStore(etcd.endpoints, chance=random.Random(1))
    yield Real(store, etcd.endpoints[0])
    await store.close()
