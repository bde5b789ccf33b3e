"""Lines that somebody waits for, of all ranks in one file (torch.distributed.elastic.multiprocessing.api,
``duplicate_stdout_filters``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from supervisor.host.disk import Disk
from supervisor.host.handed import HandedFile
from supervisor.host.logfile import LogFile
from supervisor.host.sinks import LINE_LIMIT, Lines, Losses, stamped


class FilteredFile(HandedFile):
    """A log file that several streams write whole lines to; the last of them to leave closes it."""

    __slots__ = ("_left", "users")

    def __init__(
        self,
        disk: Disk,
        open_log_file: Callable[[Losses], LogFile],
        losses: Losses,
        *,
        patient: bool,
        on_room: Callable[[], object],
        on_closed: Callable[[HandedFile], None],
        left: Callable[[], object],
    ) -> None:
        """``left`` is called when the last user has gone."""
        super().__init__(disk, open_log_file, losses, patient=patient, on_room=on_room, on_closed=on_closed)
        self.users = 0
        self._left = left

    def write(self, block: bytes) -> None:
        """As ``HandedFile.write``. Of a stream at its end, which waits no more: lost if the disk takes nothing."""
        if self.patient and self._file.holds:
            self._given += len(block)
            self._disk.write(len(block), self._write_or_lose, block)
        else:
            super().write(block)

    def leave(self) -> None:
        """One user less."""
        self.users -= 1
        if not self.users:
            self._left()
            self.give_up()
            self.finish()

    # ---- for the thread

    def _write_or_lose(self, block: bytes) -> None:
        if self._file.ready():
            self._file.write(block)
        else:
            self._lost.count(len(block))
        self._done_with(len(block))


class FilteredLines(Lines):
    """Of one stream those lines that contain one of the ``texts``, each with the prefix that it has on the console."""

    __slots__ = ("_before", "_file", "_texts")

    def __init__(
        self, file: FilteredFile, texts: Sequence[str], before: bytes, losses: Losses, limit: int = LINE_LIMIT
    ) -> None:
        super().__init__(b"", losses, limit)
        self._file = file
        self._texts = [text.encode() for text in texts]
        self._before = before

    def _put(self, lines: bytes) -> None:
        if any(text in lines for text in self._texts):
            prefix = stamped(self._before)
            found = [line for line in lines.splitlines(keepends=True) if any(text in line for text in self._texts)]
            self._file.write(b"".join(prefix + line for line in found))
