"""What the loop does not do itself because a disk may not answer: a thread for each place does it, in order."""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from supervisor.host.disk import SILENT, STUCK_AFTER, Disk

Result = TypeVar("Result")


class Apart:
    """Belongs to one event loop. Has to be closed."""

    def __init__(self) -> None:
        self._disks: defaultdict[str, Disk] = defaultdict(Disk)

    def do(self, place: str, job: Callable[[], Result], done: Callable[[Result | OSError], object]) -> None:
        """Have the thread of that place call ``job``, and the loop then ``done`` with what it gives or raises.

        A place is any name for one file system.
        """
        disk = self._disks[place]
        disk.do(_run, disk, job, done)

    async def ask(
        self, place: str, job: Callable[[], Result], late: Callable[[Result], object], within: float = STUCK_AFTER
    ) -> Result:
        """As ``do``, for an answer that is waited for. Raises ``OSError``, also when none comes within so many seconds:
        ``late`` is given what comes after all."""
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(outcome: Result | OSError) -> None:
            if isinstance(outcome, OSError):
                if not answer.done():
                    answer.set_exception(outcome)
            elif answer.done():
                late(outcome)
            else:
                answer.set_result(outcome)

        self.do(place, job, done)
        try:
            return await asyncio.wait_for(answer, within)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, SILENT) from None

    def close(self) -> None:
        """All is done that a disk takes in a moment."""
        for disk in self._disks.values():
            disk.close()
        self._disks.clear()


def _run(disk: Disk, job: Callable[[], Result], done: Callable[[Result | OSError], object]) -> None:
    try:
        outcome: Result | OSError = job()
    except OSError as error:
        outcome = error
    disk.tell(done, outcome)
