"""Everybody who is told what happens: consoles, the journal, the ring of ``/events``, hooks, files of failures, and who
reads torch's own records. Nobody of them is waited for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from supervisor import clock, premises
from supervisor.core import events
from supervisor.core.events import Event, Level, Who
from supervisor.core.health import Snapshot
from supervisor.core.state import Group
from supervisor.host import systemd
from supervisor.host.apart import Apart
from supervisor.host.console import Console
from supervisor.host.journal import Journal
from supervisor.host.journal_records import JournalRecords
from supervisor.host.names import node_id
from supervisor.host.sinks import Dropped
from supervisor.host.terminal import Terminal
from supervisor.plan import DaemonPlan
from supervisor.report.counts import Counts
from supervisor.report.failures import Failures
from supervisor.report.history import History
from supervisor.report.hooks import Deliver, Hooks
from supervisor.report.log import Records, resolve_format
from supervisor.report.progress import progress
from supervisor.report.ring import Ring
from supervisor.report.together import Together

if TYPE_CHECKING:
    from supervisor.report.torchelastic import TorchElastic

UNTOLD = 0
"""``seq`` of a record that a hook gets though ``log.level`` keeps it from everybody else."""

FAREWELL = 0.4
"""Seconds that the last records may take to be written to each console, if it is slow."""


class Streams(NamedTuple):
    """Where workers' output goes: ``teed`` copies of stdout and stderr, and what is ``inherited`` instead of files."""

    teed: tuple[Console | None, Console | None]
    inherited: tuple[int, int]


class Audience:
    """Lives in one event loop. Hears events, and is there to be asked for anything, only while it is ``listening``."""

    def __init__(
        self,
        plan: DaemonPlan,
        counts: Counts,
        apart: Apart,
        groups: Callable[[], Mapping[str, Group]],
        deliver: Deliver,
    ) -> None:
        """``apart`` writes files, and is closed after us. ``groups`` are as they stand when an event is told.
        ``deliver`` hands a record over to a hook.
        """
        self._plan = plan
        self._counts = counts
        self._apart = apart
        self._groups = groups
        self._deliver = deliver
        self._told_to = 2 if plan.as_job else 1
        self.format = resolve_format(plan.log_format, journal=systemd.is_journal(os.environ, 1), tty=os.isatty(1))
        self.terminal: Terminal | None = None
        self._entries: JournalRecords | None = None

    @contextmanager
    def listening(self) -> Iterator[Streams]:
        """Meanwhile everybody is told; at the end all that was told is written, as far as anybody reads it in time."""
        plan = self._plan
        with self._consoles() as (out, err):
            self._records = Records(
                self._lines.add,
                service=plan.name,
                host=plan.node_id,
                run_id=plan.run_id,
                level=plan.log_level,
                format=self.format,
                colour=_wants_colour(self._told_to),
                journal=self._entries.add if self._entries is not None else None,
            )
            self.ring = Ring(self._records.line)
            self.history = History()
            self.hooks = Hooks(plan.hooks, self._records.line, self._deliver, self.tell, self._counts.hooks)
            teed = {"console": (out, err), "json": (err, err), "journal": (None, None)}[self.format]
            inherited = (1, 2) if self.format == "console" else (2, 2)  # stdout is for records alone
            # For people. Every line of a unit's journal is a record, and the records have it all.
            show: dict[str, Callable[[bytes], object]] = {
                "console": self._lines.add,
                "json": partial(err.write, urgent=True),
                "journal": lambda _: None,
            }
            self.failures = Failures(
                plan,
                self._groups,
                tell=self.tell,
                show=show[self.format],
                soon=asyncio.get_running_loop().call_soon,
                apart=self._apart.do,
            )
            self._torchelastic = self._told_as_torch(err)
            yield Streams(teed, inherited)

    def go_by(self, plan: DaemonPlan) -> None:
        """From here on the configuration is this one, but for the level: see ``set_level``."""
        self.failures.go_by(plan)
        self.hooks.go_by(plan.hooks)

    def set_level(self, level: Level) -> None:
        """From here on, events below that level are not told."""
        self._records.set_level(level)

    def tell(self, event: Event) -> None:
        """Something has happened. Neither blocks nor raises."""
        self._counts.observe(event)
        told = self._records.tell(event)
        if told is not None:
            self.ring.add(*told)
        self.hooks.hear(*(told or (UNTOLD, event)), event)  # who wants a record has named it
        self.failures.observe(event)
        self.history.observe(event)
        if self._torchelastic is not None:
            self._torchelastic.observe(event)

    def output_dropped(self, dropped: Dropped) -> None:
        """What a worker wrote is not where it belongs, or has to wait."""
        labels = dropped.labels
        who = Who(labels["group"], int(labels["rank"]), int(labels["local_rank"]), int(labels["attempt"]))
        now, stream, into, why, over = clock.now(), dropped.stream, dropped.into, dropped.reason, dropped.over
        if dropped.waits:
            self.tell(events.worker_output_blocked(now, who, stream, into, why, over=over))
        else:
            self.tell(events.worker_output_dropped(now, who, stream, into, dropped.bytes, why, over=over))

    @contextmanager
    def progress(self, snapshot: Callable[..., Snapshot]) -> Iterator[None]:
        """Meanwhile a terminal's bottom line says how the groups stand; whatever ends us, the shell finds it clean."""
        terminal = self.terminal
        if terminal is None:
            yield
            return
        colour = _wants_colour(self._told_to)
        terminal.show(lambda columns: progress(snapshot(workers=False), columns, colour=colour))
        try:
            yield
        finally:
            terminal.take_down()

    @contextmanager
    def _consoles(self) -> Iterator[tuple[Console, Console]]:
        kind = Terminal if self._shows_progress() else Console
        records: Console = kind(
            self._told_to,
            mark=self._mark,
            on_broken=lambda why: self._console_lost(self._told_to, why, records.lines_at_break),
            colour=_wants_colour(self._told_to),
        )
        self.terminal = records if isinstance(records, Terminal) else None
        other = records
        if not os.path.sameopenfile(1, 2):
            fd = 3 - self._told_to
            other = Console(fd, on_broken=partial(self._console_lost, fd), colour=_wants_colour(fd))
        out, err = (other, records) if self._told_to == 2 else (records, other)
        self._lines = Together(partial(self._write_records, records), asyncio.get_running_loop().call_soon)
        if self.format == "journal" and systemd.is_journal(os.environ, self._told_to):
            with suppress(OSError):  # no descriptor to be had: lines on stdout are in the journal as well
                soon = asyncio.get_running_loop().call_soon
                self._entries = JournalRecords(Journal(), self._plan.run_id, self._lines.add, soon)
        try:
            yield out, err
        finally:
            if self._entries is not None:
                self._entries.close(FAREWELL)
            self._lines.flush()
            for console in {id(out): out, id(err): err}.values():
                console.flush(FAREWELL)
                console.close()

    def _shows_progress(self) -> bool:
        """On a terminal that can erase a line, and when nobody writes to it past us: a worker without a file would."""
        return (
            self.format == "console"
            and os.isatty(self._told_to)
            and os.environ.get("TERM", "dumb") != "dumb"
            and not any(
                group.logs.inherits(rank) for group in self._plan.groups.values() for rank in range(group.workers)
            )
        )

    def _told_as_torch(self, console: Console) -> TorchElastic | None:
        """Loaded where somebody has asked for it."""
        plan = self._plan
        if not (plan.torchelastic_events or plan.torchelastic_metrics):
            return None
        from supervisor.report.torchelastic import TorchElastic  # noqa: PLC0415

        def sink(place: str) -> Callable[[bytes], object] | None:
            if place == "console":
                return partial(console.write, urgent=True)
            return premises.appended(place, self._lost) if place else None

        return TorchElastic(
            plan,
            self._groups,
            hostname=node_id(),
            events=sink(plan.torchelastic_events),
            metrics=sink(plan.torchelastic_metrics),
        )

    def _lost(self, lines: bytes) -> None:
        self._counts.events_dropped += lines.count(b"\n")

    def _mark(self, lost: int) -> bytes:
        return self._records.dropped(lost)

    def _write_records(self, console: Console, lines: bytes) -> None:
        if not console.write(lines, urgent=True):
            self._lost(lines)

    def _console_lost(self, fd: int, why: str, records: int = 0) -> None:
        self._counts.events_dropped += records
        self.tell(events.daemon_console_lost(clock.now(), "stdout" if fd == 1 else "stderr", why))


def _wants_colour(fd: int) -> bool:
    return os.isatty(fd) and "NO_COLOR" not in os.environ
