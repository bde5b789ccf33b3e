"""Every group's watchdog: its doors in the runtime directory, who is under watch, and what follows from silence."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from supervisor import clock
from supervisor.core import events, watchdog
from supervisor.core.events import Event, Who
from supervisor.core.health import Snapshot, WorkerView
from supervisor.core.messages import Input, Worker, WorkerExited, WorkerReady, WorkerSilent, WorkerStarted
from supervisor.core.timers import TimerExpired
from supervisor.core.watchdog import Expired
from supervisor.host.learnt_file import LearntFile
from supervisor.host.proc import Process
from supervisor.host.spawn import Identity, NotStarted
from supervisor.host.vigil import Vigil
from supervisor.plan import DaemonPlan, GroupPlan
from supervisor.premises import Unusable

_PREFIX = "watch-"


class Vigils:
    """The vigils of all groups that have any. Lives in one event loop; has to be closed."""

    def __init__(
        self,
        plan: DaemonPlan,
        *,
        whose: Callable[[str, Process], Worker | None],
        who: Callable[[str, Worker], Who],
        post: Callable[[str, Input], None],
        tell: Callable[[Event], None],
        keeps_state: bool = True,
    ) -> None:
        """``whose``: which worker of that group a process belongs to. ``who``: how events call a worker.

        ``keeps_state``: what is learnt is kept in the state directory, which is ours.
        Raises ``Unusable`` when there can be no doors, and leaves nothing behind then.
        """
        self._whose = whose
        self._who = who
        self._post = post
        self._tell = tell
        self._pids: dict[tuple[str, Worker], int] = {}
        self._vigils: dict[str, Vigil] = {}
        self._jumped_at = float("-inf")
        self._learnt: LearntFile | None = None
        watched = [group for group in plan.groups.values() if group.watchdog.timer_file or group.watchdog.notify]
        self._directory = _own_directory(plan.runtime_dir) if watched else None
        try:
            for group in watched:
                self._vigils[group.name] = self._vigil(plan.runtime_dir, group)
        except (OSError, NotStarted) as error:
            self.close()
            why = error.strerror if isinstance(error, OSError) else error
            raise Unusable(f"{plan.runtime_dir}: no doors for the workers of {group.name} there: {why}") from error

        if keeps_state and any(group.watchdog.auto.sections for group in watched):
            self._learnt = LearntFile(plan.state_dir, self._all_learnt, self._unkept)
            self._remember(self._learnt)

    def environment(self, group: str) -> Mapping[str, str]:
        """What that group's workers need to know to be heard."""
        vigil = self._vigils.get(group)
        return vigil.environment if vigil is not None else {}

    def observe(self, group: str, input: Input) -> None:
        """Something has happened to a worker: it is under watch from its start to its end."""
        vigil = self._vigils.get(group)
        if vigil is None:
            return
        match input:
            case WorkerStarted(worker, pid):
                self._pids[group, worker] = pid
                vigil.started(worker, pid)
            case WorkerReady(worker, "probe"):
                vigil.found_ready(worker)
            case WorkerExited(worker):
                vigil.ended(worker, self._pids.pop((group, worker), 0))

    def with_words(self, snapshot: Snapshot) -> Snapshot:
        """With what the workers have said of themselves."""
        groups = {
            name: replace(
                view, workers=tuple(map(partial(_with_words, vigil), view.workers)), learnt=vigil.learnt.explained()
            )
            for name, view in snapshot.groups.items()
            if (vigil := self._vigils.get(name)) is not None and (vigil.heard or vigil.learnt)
        }
        return replace(snapshot, groups={**snapshot.groups, **groups}) if groups else snapshot

    @property
    def by_group(self) -> Mapping[str, Vigil]:
        """Of each group that has any."""
        return self._vigils

    def close(self) -> None:
        """Watch nobody, and leave no door behind. Idempotent."""
        if self._learnt is not None:
            self._learnt.close()
        for vigil in self._vigils.values():
            vigil.close()
        if self._directory is not None:
            path, lock = self._directory
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            self._directory = None

    def _vigil(self, runtime_dir: str, group: GroupPlan) -> Vigil:
        assert self._directory is not None
        user = None
        if group.user or group.group:
            identity = Identity.named(group.user, group.group)
            user = (-1 if identity.uid is None else identity.uid, -1 if identity.gid is None else identity.gid)
            for directory in (runtime_dir, self._directory[0]):  # to pass through, not to look into
                os.chmod(directory, 0o711)  # noqa: S103
        directory = os.path.join(self._directory[0], group.name)
        os.mkdir(directory)
        os.chmod(directory, 0o700 if user is None else 0o711)
        return Vigil(
            group.watchdog,
            directory,
            whose=partial(self._whose, group.name),
            found=partial(self._found, group.name),
            refused=partial(self._refused, group.name),
            ready=lambda worker: self._post(group.name, WorkerReady(worker, "notify")),
            stood_still=self._stood_still,
            learnt=self._has_learnt,
            user=user,
        )

    def _found(self, group: str, worker: Worker, expired: Expired) -> None:
        pid = self._pids.get((group, worker), 0)
        words = watchdog.words(expired, pid)
        if not isinstance(expired, TimerExpired):
            self._post(group, WorkerSilent(worker, "heartbeat", words, int(signal.SIGKILL)))
        elif expired.signal:
            self._post(group, WorkerSilent(worker, "timer", words, expired.signal))
        else:
            self._tell(events.timer_reported(clock.now(), self._who(group, worker), expired.pid, words))

    def _stood_still(self, away_for: float) -> None:
        """Each vigil finds it out by itself: it is told of once."""
        now = clock.now()
        if now - self._jumped_at > away_for:
            self._tell(events.daemon_clock_jumped(now, away_for))
        self._jumped_at = now

    def _remember(self, file: LearntFile) -> None:
        try:
            written = file.read()
            for name, vigil in self._vigils.items():
                vigil.learnt.restore(written.get(name, {}))
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            asyncio.get_running_loop().call_soon(self._unkept, why)  # whom it is told is only being built

    def _all_learnt(self) -> Mapping[str, Any]:
        return {name: vigil.learnt.to_json() for name, vigil in self._vigils.items() if vigil.learnt}

    def _has_learnt(self) -> None:
        if self._learnt is not None:
            self._learnt.changed()

    def _unkept(self, why: str) -> None:
        self._tell(events.daemon_learnt_unkept(clock.now(), why))

    def _refused(self, group: str, expired: TimerExpired) -> None:
        self._tell(events.timer_refused(clock.now(), group, expired.pid, expired.scope))


def _with_words(vigil: Vigil, view: WorkerView) -> WorkerView:
    told = vigil.told(Worker(view.local_rank, view.attempt))
    if told is None:
        return view
    sections = tuple((section.name, section.begun_at) for section in told.sections)
    return replace(view, status=told.status, progress=told.progress, sections=sections)


def _own_directory(runtime_dir: str) -> tuple[str, int]:
    """A directory that no other daemon uses, and its lock; those of daemons that were killed are removed."""
    for name in os.listdir(runtime_dir):
        if name.startswith(_PREFIX):
            path = os.path.join(runtime_dir, name)
            with suppress(OSError):  # gone, or another's: it is held by a lock
                os.close(_locked(path))
                shutil.rmtree(path, ignore_errors=True)
    path = tempfile.mkdtemp(prefix=_PREFIX, dir=runtime_dir)
    return path, _locked(path)


def _locked(directory: str) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
