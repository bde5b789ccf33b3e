"""Log files as the loop has them: what is written goes to the thread of their disk, and never waits here."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.host.disk import HELD_IN_ALL, HELD_OF_EACH, SETTLES_WITHIN, SILENT, Disk
from supervisor.host.logfile import LogFile
from supervisor.host.sinks import Dropped, Losses


class ToldLosses(Losses):
    """What the thread of a disk finds lost: counted and told by the loop."""

    __slots__ = ("_disk",)

    def __init__(self, disk: Disk, losses: Losses) -> None:
        super().__init__(*losses.told_to)
        self._disk = disk

    def count(self, lost: int) -> None:
        self._disk.tell(super().count, lost)

    def _say(self, dropped: Dropped) -> None:
        self._disk.tell(super()._say, dropped)


class HandedFile:
    """A ``LogFile`` that only the thread of its disk touches.

    ``HELD_OF_EACH`` bytes may wait for the disk. With more, nothing should be written until ``takes_more``: its worker
    has to wait. If the disk does not answer at all, worse: what comes then is dropped, and marked in the file once it
    does; with ``patient``, the worker waits on.
    """

    __slots__ = (
        "_disk", "_file", "_given", "_is_handed", "_losses", "_lost", "_missing", "_on_closed", "_on_room",
        "_retried", "_taken", "_wanted", "patient",
    )  # fmt: skip

    def __init__(
        self,
        disk: Disk,
        open_log_file: Callable[[Losses], LogFile],
        losses: Losses,
        *,
        patient: bool,
        on_room: Callable[[], object],
        on_closed: Callable[[HandedFile], None],
    ) -> None:
        """``on_room`` is called once more may be written again, ``on_closed`` when all is. Raises ``OSError``."""
        self.patient = patient
        self._disk = disk
        self._lost = ToldLosses(disk, losses)
        self._file = open_log_file(self._lost)
        self._losses = losses
        self._on_room = on_room
        self._on_closed = on_closed
        self._given = 0
        self._taken = 0
        self._is_handed = False  # until then nothing of it waits for the disk
        self._missing = False
        self._retried = True
        self._wanted = False

    def takes_more(self) -> bool:
        """Whether more may be written now: its worker is to wait otherwise."""
        if self.patient:
            return self._has_taken_all()
        if not self._is_full():
            return True
        self._wanted = True
        return self._disk.stuck

    def write(self, block: bytes) -> None:
        """Take the next bytes, or lose them if the disk does not answer and too many wait already."""
        if self._missing or (self._is_full() and self._disk.stuck):
            self._losses.add(len(block), SILENT)
            if not self._missing:
                self._missing = True
                self._disk.do(self._disk.tell, self._answers)
            return
        size = len(block)
        self._given += size
        self._is_handed = True
        self._disk.write(size, self._write, block)

    def reopen(self) -> None:
        """As ``LogFile.reopen``."""
        self._do(self._file.reopen)

    def give_up(self) -> None:
        """As ``LogFile.give_up``."""
        self.patient = False
        if self._is_handed:
            self._disk.do(self._file.give_up)

    def finish(self) -> None:
        """No more is written: the file is closed, after all that waits for the disk."""
        if self._is_handed:
            self._disk.do(self._close)
        else:
            self._file.finish()
            self._on_closed(self)

    def settle(self) -> None:
        """What was written is in the file, if that takes no longer than ``SETTLES_WITHIN``."""
        if self._given != self._taken:
            self._disk.settle(SETTLES_WITHIN)

    def abandon(self) -> None:
        """The disk is not waited for any longer: what it has not taken is counted as lost."""
        if self._given != self._taken:
            self._losses.add(self._given - self._taken, SILENT)
        self._losses.end()

    def _do(self, job: Callable[..., object], *args: object) -> None:
        self._is_handed = True
        self._disk.do(job, *args)

    def _has_taken_all(self) -> bool:
        """So that what is not written yet, a stream's end as well, stays with its worker."""
        if self._given != self._taken:
            self._wanted = True
            if self._disk.stuck:
                self._losses.wait(SILENT)
            return False
        if self._file.holds:
            if self._retried:
                self._retried = False
                self._do(self._retry)
            return False
        if self._retried:
            self._losses.waited()
        return self._retried

    def _is_full(self) -> bool:
        return self._given - self._taken >= HELD_OF_EACH or self._disk.behind >= HELD_IN_ALL

    def _answers(self) -> None:
        """The disk has done all that waited when we began to drop: what comes now stands behind a mark."""
        self._missing = False
        self._disk.do(self._file.lost, self._losses.bytes, SILENT)
        self._losses.bytes = 0

    # ---- for the thread

    def _write(self, block: bytes) -> None:
        if self._file.holds and not self._file.ready():
            self._file.hold(block)  # of streams that wait for this file, several may have come at once
        else:
            self._file.write(block)
        self._done_with(len(block))

    def _done_with(self, size: int) -> None:
        self._taken += size
        self._disk.taken += size
        if self._wanted and (behind := self._given - self._taken) < HELD_OF_EACH // 2 and not (self.patient and behind):
            self._wanted = False
            self._disk.tell(self._on_room)

    def _retry(self) -> None:
        self._file.ready()
        self._retried = True

    def _close(self) -> None:
        self._file.finish()
        self._disk.tell(self._on_closed, self)
