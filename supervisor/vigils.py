"""Every group's watchdog: its doors in the runtime directory, who is under watch, and what follows from silence."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from supervisor import clock
from supervisor.core import events, watchdog
from supervisor.core.events import Event, Who
from supervisor.core.health import Snapshot, WorkerView
from supervisor.core.messages import (
    EvidenceTaken,
    Input,
    Worker,
    WorkerExited,
    WorkerHeld,
    WorkerLetGo,
    WorkerReady,
    WorkerSilent,
    WorkerStarted,
    WorkerUnready,
)
from supervisor.core.sparing import Sparing
from supervisor.core.timers import TimerExpired
from supervisor.core.watchdog import Expired
from supervisor.host import evidence
from supervisor.host.apart import Apart
from supervisor.host.learnt_file import LearntFile
from supervisor.host.proc import Process
from supervisor.host.sleepers import Sleepers
from supervisor.host.spawn import Identity, NotStarted
from supervisor.host.vigil import Vigil
from supervisor.plan import DaemonPlan, GroupPlan, WatchdogRules, attempts_dir
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
        last_lines: Callable[[str, Worker], str],
        leave_alone: Callable[[int], None],
        apart: Apart,
        ran: Callable[[float], float] = lambda _by: float("-inf"),
        keeps_state: bool = True,
    ) -> None:
        """``plan`` is that of the start: see ``go_by``. ``whose``: which worker of that group a process belongs to.
        ``who``: how events call a worker.
        ``last_lines``: the end of a worker's stderr. ``leave_alone`` is told of children of ours that are no workers.
        ``apart`` writes files. ``ran``: at which last instant up to the given one the loop was running.
        ``keeps_state``: what is learnt is kept in the state directory, which is ours.
        Raises ``Unusable`` when there can be no doors, and leaves nothing behind then.
        """
        self._whose = whose
        self._who = who
        self._post = post
        self._tell = tell
        self._last_lines = last_lines
        self._leave_alone = leave_alone
        self._apart = apart
        self._ran = ran
        self._refusals: defaultdict[str, Sparing] = defaultdict(Sparing)
        self._plan = plan
        self._tasks: TaskGroup | None = None
        self._looked_for: dict[str, list[Worker]] = {}
        self._patience: dict[str, anyio.CancelScope] = {}
        self._pids: dict[tuple[str, Worker], int] = {}
        self._vigils: dict[str, Vigil] = {}
        self._sleepers: dict[str, Sleepers] = {}
        self._plans: dict[str, GroupPlan] = {}
        self._jumped_at = float("-inf")
        self._learnt = LearntFile(plan.state_dir, self._all_learnt, self._unkept) if keeps_state else None
        self._directory: tuple[str, int] | None = None
        try:
            for group in plan.groups.values():
                self._watch(group)
        except Unusable:
            self.close()
            raise
        self._remember(list(self._vigils))

    async def run(self) -> None:
        """Until cancelled, take what evidence is asked for; before and after that there is none."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                await anyio.sleep_forever()
            finally:
                self._tasks = None

    def prepare(self, plan: GroupPlan) -> None:
        """The group's workers, of whom there is none yet, will be watched by this plan.

        Raises ``Unusable`` when there can be no doors for them.
        """
        if self._watch(plan):
            self._remember([plan.name])

    def go_by(self, plan: GroupPlan) -> None:
        """The group's workers are held to the limits of this plan from here on, unless it needs other doors: these
        come with ``prepare``."""
        known = self._plans.get(plan.name)
        if known is not None and _doors(known) == _doors(plan):
            self._hold_to(plan)

    def keep(self, groups: AbstractSet[str]) -> None:
        """There are no other groups than these any more, and nobody of any other."""
        for gone in self._plans.keys() - groups:
            del self._plans[gone]
            for watch in (self._vigils.pop(gone, None), self._sleepers.pop(gone, None)):
                if watch is not None:
                    watch.close()

    def environment(self, group: str) -> Mapping[str, str]:
        """What that group's workers need to know to be heard."""
        vigil = self._vigils.get(group)
        return vigil.environment if vigil is not None else {}

    def observe(self, group: str, input: Input) -> None:
        """Something has happened to a worker: it is under watch from its start to its end."""
        vigil, sleepers = self._vigils.get(group), self._sleepers.get(group)
        match input:
            case WorkerStarted(worker, pid):
                self._pids[group, worker] = pid
                if vigil is not None:
                    vigil.started(worker, pid)
                if sleepers is not None:
                    sleepers.started(worker, pid)
            case WorkerReady(worker, "probe"):
                if vigil is not None:
                    vigil.found_ready(worker)
            case WorkerExited(worker):
                pid = self._pids.pop((group, worker), 0)
                if vigil is not None:
                    vigil.ended(worker, pid)
                if sleepers is not None:
                    sleepers.ended(worker)
                if group in self._patience and not any(name == group for name, _ in self._pids):
                    self._patience[group].cancel()

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
        for sleepers in self._sleepers.values():
            sleepers.close()
        if self._learnt is not None:
            self._learnt.close()
        for vigil in self._vigils.values():
            vigil.close()
        if self._directory is not None:
            path, lock = self._directory
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            self._directory = None

    def _watch(self, plan: GroupPlan) -> bool:
        """Open doors for the group where there are none, or others; true if it has some, and nothing is learnt yet."""
        name, known = plan.name, self._plans.get(plan.name)
        if known is not None and _doors(known) == _doors(plan):
            self._hold_to(plan)
            return False
        earlier = self._vigils.pop(name, None)
        if earlier is not None:
            earlier.close()
        if plan.watchdog.timer_file or plan.watchdog.notify:
            try:
                self._vigils[name] = self._vigil(self._plan.runtime_dir, plan)
            except (OSError, NotStarted) as error:
                self._plans.pop(name, None)
                where, why = self._plan.runtime_dir, error.strerror if isinstance(error, OSError) else error
                raise Unusable(f"{where}: no doors for the workers of {name} there: {why}") from error
            if earlier is not None:
                self._vigils[name].learnt.restore(earlier.learnt.to_json())
        self._hold_to(plan)
        return earlier is None and name in self._vigils

    def _hold_to(self, plan: GroupPlan) -> None:
        name, known = plan.name, self._plans.get(plan.name)
        self._plans[name] = plan
        limit = plan.watchdog.uninterruptible
        if limit and name not in self._sleepers:
            sleepers = self._sleepers[name] = self._look_for_sleepers(name)
            for worker, pid in [(worker, pid) for (of, worker), pid in self._pids.items() if of == name]:
                sleepers.started(worker, pid)
        if known is None or _rules(known) == _rules(plan):
            return
        if name in self._vigils:
            self._vigils[name].go_by(_rules(plan))
        if name in self._sleepers:
            self._sleepers[name].go_by(limit)

    def _vigil(self, runtime_dir: str, group: GroupPlan) -> Vigil:
        if self._directory is None:
            self._directory = _own_directory(runtime_dir)
        user = None
        if group.user or group.group:
            identity = Identity.named(group.user, group.group)
            user = (-1 if identity.uid is None else identity.uid, -1 if identity.gid is None else identity.gid)
            for directory in (runtime_dir, self._directory[0]):  # to pass through, not to look into
                os.chmod(directory, 0o711)  # noqa: S103
        directory = os.path.join(self._directory[0], group.name)
        os.makedirs(directory, exist_ok=True)
        os.chmod(directory, 0o700 if user is None else 0o711)
        return Vigil(
            _rules(group),
            directory,
            whose=partial(self._whose, group.name),
            found=partial(self._found, group.name),
            refused=partial(self._refused, group.name),
            ready=lambda worker: self._post(group.name, WorkerReady(worker, "notify")),
            stopping=lambda worker: self._post(group.name, WorkerUnready(worker, "notify", "it says that it stops")),
            stood_still=self._stood_still,
            probed=group.probe is not None,
            learnt=self._has_learnt,
            ran=self._ran,
            user=user,
        )

    def _look_for_sleepers(self, group: str) -> Sleepers:
        def limit() -> float:
            return self._plans[group].watchdog.uninterruptible

        return Sleepers(
            limit(),
            lambda worker, pid, details: self._post(group, WorkerHeld(worker, pid, limit(), details)),
            lambda worker: self._post(group, WorkerLetGo(worker)),
        )

    def take_evidence(self, group: str, worker: Worker, reason: str) -> None:
        """See what this worker and its peers do, and answer. Who is found meanwhile has been seen by that as well."""
        if self._tasks is None:
            self._post(group, EvidenceTaken(worker, ""))
        elif group in self._looked_for:
            self._looked_for[group].append(worker)
        else:
            self._looked_for[group] = [worker]
            self._tasks.start_soon(self._take_evidence, group, worker, reason)

    async def dump(self, group: str, firsts: Sequence[Worker], reason: str) -> tuple[str, str]:
        """See what the group's workers do, the first of ``firsts`` that runs first, because a person has asked.

        Its path, or why there is none.
        """
        if group in self._looked_for:
            return "", "it is looked at already"
        self._looked_for[group] = []
        # A name of its own: files of evidence are counted, and those of a worker that hangs must not find none left.
        name = f"dump_{clock.rfc3339(clock.now()).replace(':', '')}"
        path, why = await self._take_evidence(group, firsts[0], reason, name)
        return (path, why) if path else ("", "its workers have ended meanwhile")

    async def _take_evidence(self, group: str, worker: Worker, reason: str, name: str = "") -> tuple[str, str]:
        """Its path, and why it is not there.

        The worker may be ended as soon as it has been looked at: it does not wait for the disk to have all of it.
        """
        if (group, worker) not in self._pids:
            self._answer(group, "")
            return "", ""
        plan, who = self._plans[group], self._who(group, worker)
        path = f"{attempts_dir(self._plan, plan)}/attempt_{who.attempt}/{name or f'evidence_{who.local_rank}'}.txt"
        with anyio.CancelScope(shield=True):  # it is soon done, at the latest when the last of the group has ended
            text = await self._seen(group, worker, f"rank {who.rank} {reason}")
            path, why = await self._keep(group, plan.disk, path, text)
        self._tell(events.worker_dumped(clock.now(), who, reason, path, why))
        return path, why

    async def _keep(self, group: str, disk: str, path: str, text: str) -> tuple[str, str]:
        """Answer as soon as there is a file, and write it; gives its path, and why that could not be."""
        try:
            file, path = await self._apart.ask(disk, partial(evidence.create, path), lambda made: os.close(made[0]))
        except OSError as error:
            self._answer(group, "")
            return path, error.strerror or str(error)
        self._answer(group, path)
        try:
            return path, await self._apart.ask(disk, partial(evidence.write, file, text), lambda _: None)
        except OSError as error:
            return path, error.strerror or str(error)

    async def _seen(self, group: str, worker: Worker, finding: str) -> str:
        others = [one for name, one in self._pids if name == group and one != worker]
        peers = [self._peer(group, one) for one in (worker, *others)]
        patience = self._patience[group] = anyio.CancelScope()
        dump = self._plans[group].watchdog.dump
        text = await evidence.gather(finding, peers, dump, self._leave_alone, patience)
        del self._patience[group]
        return text

    def _answer(self, group: str, path: str) -> None:
        for worker in self._looked_for.pop(group):
            self._post(group, EvidenceTaken(worker, path))

    def _found(self, group: str, worker: Worker, expired: Expired) -> None:
        pid = self._pids.get((group, worker), 0)
        words = watchdog.words(expired, pid)
        if not pid or _has_ended(pid):
            return  # and what it has ended with is on its way
        if not isinstance(expired, TimerExpired):
            found = WorkerSilent(
                worker, "heartbeat", words, int(signal.SIGKILL), expired.what, expired.section, expired.limit
            )
            self._post(group, found)
        elif expired.signal:
            limit = expired.at - expired.set_at
            self._post(group, WorkerSilent(worker, "timer", words, expired.signal, "timer", expired.scope, limit))
        else:
            self._tell(events.timer_reported(clock.now(), self._who(group, worker), expired.pid, expired.scope, words))

    def _peer(self, group: str, worker: Worker) -> evidence.Peer:
        rank, pid = self._who(group, worker).rank, self._pids[group, worker]
        told = self._vigils[group].told(worker)
        return evidence.Peer(rank, worker.rank, pid, told, partial(self._last_lines, group, worker))

    def _stood_still(self, away_for: float) -> None:
        """Each vigil finds it out by itself: it is told of once."""
        now = clock.now()
        if now - self._jumped_at > away_for:
            self._tell(events.daemon_clock_jumped(now, away_for))
        self._jumped_at = now

    def _remember(self, groups: Sequence[str]) -> None:
        """What an earlier daemon has learnt of these groups is not to be learnt anew."""
        learning = [name for name in groups if self._vigils[name].learnt]
        if self._learnt is None or not learning:
            return
        try:
            written = self._learnt.read()
            for name in learning:
                self._vigils[name].learnt.restore(written.get(name, {}))
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
        now = clock.now()
        left_out = self._refusals[group].tell(now)
        if left_out is not None:
            self._tell(events.timer_refused(now, group, expired.pid, expired.scope, left_out))


def _with_words(vigil: Vigil, view: WorkerView) -> WorkerView:
    told = vigil.told(Worker(view.local_rank, view.attempt))
    if told is None:
        return view
    sections = tuple((section.name, section.begun_at) for section in told.sections)
    return replace(view, status=told.status, progress=told.progress, sections=sections)


def _has_ended(pid: int) -> bool:
    """Whether the child of ours has, with all of its threads, and is not waited for yet."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def _rules(plan: GroupPlan) -> WatchdogRules:
    """With the end of its stop ladder as the limit of who says that he stops, unless another is set."""
    rules = plan.watchdog
    return rules if rules.stopping else replace(rules, stopping=sum(rung.wait for rung in plan.stop.ladder))


def _doors(plan: GroupPlan) -> tuple[object, ...]:
    """What of a plan workers have in their environment: it holds from their start to their end."""
    rules = plan.watchdog
    return rules.timer_file, rules.timer_path, rules.notify, rules.heartbeat, plan.user, plan.group


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
