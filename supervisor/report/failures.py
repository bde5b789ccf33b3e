"""Failures told to people and kept: ``failures.jsonl`` for each run of a group, a post-mortem when a group gives up."""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from supervisor import clock
from supervisor.core import events, failure
from supervisor.core.events import Event, Who
from supervisor.core.state import Group
from supervisor.plan import DaemonPlan, Places, attempts_dir
from supervisor.report.log import to_json
from supervisor.report.prose import printable

NAME = "failures.jsonl"
LIMIT = 8 << 20
"""A file of so many bytes becomes ``failures.jsonl.1``, in place of the one before it."""

REMEMBERED = 32
"""Root causes of each group, and other failures of its last attempt, that a post-mortem can name."""


class Failures:
    """Hears every event; remembers the last failures of each group and writes each into its file.

    A record is the event's fields beside ``timestamp``, ``host``, ``run_id``, ``group`` and ``directory``, which is the
    worker's own. What a full disk does not take is lost and told once.
    """

    def __init__(
        self,
        plan: DaemonPlan,
        groups: Callable[[], Mapping[str, Group]],
        *,
        tell: Callable[[Event], None],
        show: Callable[[bytes], object],
        soon: Callable[[Callable[[], None]], object],
        apart: Callable[[str, Callable[[], None], Callable[[OSError | None], object]], object],
    ) -> None:
        """``groups`` are as they stand when an event is heard; ``show`` takes lines for people.

        ``soon`` runs a callback in the loop's next turn: then files are written, by ``apart``. It is given a place,
        what is to be called where waiting for its disk holds up nobody, and whom to tell what came of it.
        """
        self._plan = plan
        self._groups = groups
        self._tell = tell
        self._show = show
        self._soon = soon
        self._apart = apart
        self._roots: defaultdict[str, deque[Event]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._others: defaultdict[str, list[Event]] = defaultdict(list)
        self._unwritten: defaultdict[str, list[Event]] = defaultdict(list)
        self._in_trouble: set[str] = set()
        self.places: Callable[[Who], Places | None] = lambda _: None
        """Where the output of a worker went, if not into its own directory."""

    def go_by(self, plan: DaemonPlan) -> None:
        """From here on the configuration is this one. A group that is not in it may still have something to tell."""
        self.flush()
        self._plan = replace(plan, groups={**self._plan.groups, **plan.groups})

    def observe(self, event: Event) -> None:
        """Note a failure, explain a group that has given up; anything else is passed over."""
        if event.group is None:
            return
        if event.name == "worker.failed":
            others = self._others[event.group]
            if event.fields["root_cause"]:
                self._roots[event.group].append(event)
                attempt = event.fields["attempt"]
                others[:] = [one for one in others if one.fields["attempt"] == attempt]  # before a hung one had ended
            elif len(others) < REMEMBERED:
                others.append(event)
            if not self._unwritten:
                self._soon(self.flush)
            self._unwritten[event.group].append(event)
        elif event.name == "group.failed":
            self._explain(event.group)

    def root_cause(self, group: str) -> Event | None:
        """What that group has failed for, if a worker is to blame."""
        return failure.root_cause(self._groups()[group], list(self._roots[group]))

    def directory(self, event: Event) -> str:
        """The directory of the worker that an event of ours is about."""
        who = failure.who(event)
        return f"{attempts_dir(self._plan, self._plan.groups[who.group])}/attempt_{who.attempt}/{who.local_rank}"

    def error_file(self, event: Event) -> str:
        """Where that worker was to say what went wrong; "" for nowhere."""
        places = self.places(failure.who(event))
        said = places.error_file if places is not None else None
        return f"{self.directory(event)}/error.json" if said is None else said

    def flush(self) -> None:
        """Everything heard so far is on its way into its file. Never raises."""
        unwritten, self._unwritten = self._unwritten, defaultdict(list)
        for group, heard in unwritten.items():
            plan = self._plan.groups[group]
            directory = attempts_dir(self._plan, plan)
            text = b"".join(to_json(self._record(event)) + b"\n" for event in heard)
            self._apart(plan.disk, partial(_append, directory, text), partial(self._written, group, directory))

    def _written(self, group: str, directory: str, error: OSError | None) -> None:
        if error is None:
            self._in_trouble.discard(group)
        elif group not in self._in_trouble:
            self._in_trouble.add(group)
            why = f"{directory}/{NAME}: {error.strerror}"
            self._tell(events.group_failures_unwritten(clock.now(), group, why))

    def _record(self, event: Event) -> dict[str, Any]:
        return {
            "timestamp": clock.rfc3339(event.at),
            "host": self._plan.node_id,
            "run_id": self._plan.run_id,
            "group": event.group,
            **event.fields,
            "directory": self.directory(event),
        }

    def _explain(self, name: str) -> None:
        group = self._groups().get(name)
        if group is None:  # it was to leave, and has
            return
        lines = failure.post_mortem(
            group,
            list(self._roots[name]),
            self._others[name],
            host=self._plan.node_id,
            directory=attempts_dir(self._plan, self._plan.groups[name]),
            date=clock.rfc3339,
            places=self.places,
        )
        if lines:
            self._show("".join(f"{printable(line)}\n" for line in lines).encode(errors="replace"))


def _append(directory: str, text: bytes) -> None:
    """Raises ``OSError``."""
    os.makedirs(directory, exist_ok=True)  # a worker may have failed for want of just this
    path = f"{directory}/{NAME}"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(FileNotFoundError):
        if os.lstat(path).st_size + len(text) > LIMIT:
            os.replace(path, f"{path}.1")
    file = os.open(path, flags, 0o640)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        while text:
            text = text[os.write(file, text) :]
    finally:
        os.close(file)
