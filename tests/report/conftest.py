"""A health listener on a free port of loopback, and clients for it; all are closed after the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from supervisor import clock
from supervisor.report.counts import Counts
from supervisor.report.history import History
from supervisor.report.http import HealthListener
from supervisor.report.listen import BoundListener, bind
from supervisor.report.ring import Ring
from tests.report.client import Client
from tests.report.views import Standing


class Served:
    """A listener at work. ``bugs`` are what it told the loop's exception handler."""

    def __init__(self, standing: Standing, listeners: Sequence[BoundListener], **options: Any) -> None:
        self.standing = standing
        self.counts = Counts()
        self.bugs: list[dict[str, Any]] = []
        self.addresses: list[str] = []
        self._listeners = listeners
        self._clients: list[Client] = []
        self.ring = Ring(lambda event, seq: f'{{"seq":{seq},"event":"{event.name}"}}'.encode(), options.pop("size", 8))
        self.history = History()
        self._listener = HealthListener(
            standing,
            self.counts,
            started_at=clock.now(),
            about={"service": "rankd", "host": "host-a", "run_id": "job-42"},
            ring=self.ring,
            history=self.history,
            **options,
        )

    @property
    def open_streams(self) -> int:
        return len(self._listener._streams._wakes)

    async def start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.bugs.append(context))
        self.addresses = await self._listener.start(self._listeners)

    async def client(self, address: str | None = None) -> Client:
        client = await Client.to(address or self.addresses[0])
        self._clients.append(client)
        return client

    async def stop(self) -> None:
        await self._listener.stop()
        for client in self._clients:
            await client.close()


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(standing, listen=[...], limits=...)`` starts a listener."""
    running: list[Served] = []

    async def start(
        standing: Standing | None = None, *, listen: Sequence[str] = ("127.0.0.1:0",), **options: Any
    ) -> Served:
        listeners = options.pop("listeners", None) or bind(listen)
        running.append(Served(standing or Standing(), listeners, **options))
        await running[-1].start()
        return running[-1]

    yield start
    for served in running:
        await served.stop()
    for served in running:
        assert not served.bugs, served.bugs
