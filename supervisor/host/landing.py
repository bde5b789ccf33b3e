"""Starts wait here until the disk that they will write to has answered: finding out by starting would stop the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from supervisor.core.messages import Worker
from supervisor.host.apart import Apart
from supervisor.host.disk import SILENT, STUCK_AFTER
from supervisor.host.spawn import Identity, NotStarted, make_directory
from supervisor.plan import WorkerPlan

PATIENCE = 10.0
"""Seconds that a start waits for a disk; a file server that comes back sooner costs nobody an attempt."""

Start = tuple[Worker, Callable[[], WorkerPlan]]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    group: str
    directory: str
    starts: tuple[Start, ...]


class Landing:
    """Lives in one event loop; has to be closed."""

    def __init__(
        self,
        apart: Apart,
        begin: Callable[[str, Iterable[Start]], None],
        refuse: Callable[[str, Worker, str], None],
    ) -> None:
        """``begin`` is given a group's starts whose disk answers, ``refuse`` each of those that none does in time."""
        self._apart = apart
        self._begin = begin
        self._refuse = refuse
        self._waiting: dict[_Batch, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self.clear = asyncio.Event()
        """Set while no start waits that is likely to begin any moment."""
        self.clear.set()

    def wait(self, group: str, place: str, directory: str, starts: Iterable[Start]) -> None:
        """Let them begin when it has been possible to make ``directory``, below ``place``."""
        batch = _Batch(group, directory, tuple(starts))
        self._waiting[batch] = self._loop.call_later(PATIENCE, self._give_up, batch)
        self._loop.call_later(STUCK_AFTER, self.clear.set)
        self.clear.clear()
        self._apart.do(place, partial(_try, directory), lambda _: self._answered(batch))

    def abandon(self, group: str) -> list[Worker]:
        """Those of the group that wait: none of them begins."""
        batches = [batch for batch in self._waiting if batch.group == group]
        for batch in batches:
            self._waiting.pop(batch).cancel()
        return [worker for batch in batches for worker, _ in batch.starts]

    def close(self) -> None:
        """Nothing begins any more."""
        for alarm in self._waiting.values():
            alarm.cancel()
        self._waiting.clear()

    def _answered(self, batch: _Batch) -> None:
        alarm = self._waiting.pop(batch, None)
        if alarm is not None:
            alarm.cancel()
            self._begin(batch.group, batch.starts)
        if not self._waiting:
            self.clear.set()

    def _give_up(self, batch: _Batch) -> None:
        del self._waiting[batch]
        for worker, _ in batch.starts:
            self._refuse(batch.group, worker, f"{batch.directory}: {SILENT}")


def _try(directory: str) -> None:
    """In the thread: a write, and one that has to be done anyway. What is wrong with it is said at the start."""
    with suppress(NotStarted):
        make_directory(directory, Identity())
