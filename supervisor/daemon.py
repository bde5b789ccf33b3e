"""The composition root: builds the parts, wires them, and waits for the end. Owns nothing else."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from supervisor import __version__, clock
from supervisor.core import events, groups, health
from supervisor.core.events import Event, Who, signal_name
from supervisor.core.groups import Begun, EndRequested, Groups
from supervisor.core.messages import Input, Worker, WorkerExited, WorkerStarted
from supervisor.errors import BUG, UNAVAILABLE, AddressUnavailable, RankdError
from supervisor.host import leftovers, signals, systemd
from supervisor.host.console import Console
from supervisor.host.containment import Sessions, become_subreaper
from supervisor.host.guardian import Guardian, is_needed
from supervisor.host.output import Output
from supervisor.host.ports import PortClaim, PortRefused, claim_port, renew
from supervisor.host.proc import Process
from supervisor.host.process import Processes, seal_inherited_fds
from supervisor.host.sinks import Dropped
from supervisor.host.state import Held, StateFile, hold, this_daemon
from supervisor.plan import (
    DaemonPlan,
    Reach,
    WorkerPlan,
    World,
    attempts_dir,
    group_environment,
    single_host_world,
    worker_plan,
    world_environment,
)
from supervisor.report import listen
from supervisor.report.counts import Counts
from supervisor.report.log import Records, resolve_format
from supervisor.report.together import Together
from supervisor.runtime import Runtime

FAREWELL = 0.4
"""Seconds that the last records may take to be written to each console, if it is slow."""

ONE_REQUEST = 1.0
"""Seconds within which several signals are one request to stop."""

LAST_WAIT = 5.0
"""Seconds that killed workers may take to be gone when a bug ends us."""


class Unusable(RankdError):
    """A directory that the daemon needs cannot be had."""

    exit_code = 78


class InUse(RankdError):
    """Another daemon works in our state directory."""

    exit_code = UNAVAILABLE


def run(plan: DaemonPlan) -> int:
    """Supervise until the end; returns the exit code. Raises ``RankdError`` before any worker has been started."""
    signals.hold(plan.stop_signals)
    _open_standard_streams()
    seal_inherited_fds()
    _make_directories(plan)
    with ExitStack() as stack:
        inherited = _succeed(plan.state_dir, stack)
        passed = systemd.listen_fds(os.environ, os.getpid())
        if isinstance(passed, systemd.SocketsRefused):
            raise AddressUnavailable(f"health listener: {passed.reason}")
        # Bound before any worker starts, so that a taken address is refused in time; opened when HTTP is loaded.
        listeners = listen.adopt(sock for _, sock in passed) if passed else listen.bind(plan.listen)
        for listener in listeners:
            stack.callback(listener.close)
        daemon = Daemon(plan, listeners, inherited)
        systemd.forget(os.environ)
        return anyio.run(daemon.main, backend="asyncio")


class Daemon:
    """One daemon from start to end; also the hands of its runtime."""

    def __init__(
        self, plan: DaemonPlan, listeners: Sequence[listen.BoundListener], inherited: Sequence[Event] = ()
    ) -> None:
        """``inherited``: what there is to tell of an earlier daemon."""
        self._plan = plan
        self._listeners = listeners
        self._inherited = inherited
        self._began_at = clock.now()
        self._notifier = systemd.Notifier.from_environment(os.environ)
        self._watchdog_every = systemd.watchdog_interval(os.environ, os.getpid())
        self._format = resolve_format(plan.log_format, journal=systemd.is_journal(os.environ, 1), tty=os.isatty(1))
        self._shared = {name: group_environment(plan, group, os.environ) for name, group in plan.groups.items()}
        self._chance = random.Random()  # noqa: S311 - which port is nobody's secret
        self._claims: dict[str, PortClaim] = {}
        self._stop_heard_at: float | None = None
        self._stopped_by: int | None = None
        self._is_up = False

    async def main(self) -> int:
        """Everything between the first record and the last one."""
        plan = self._plan
        with self._consoles() as (out, err):
            self._records = Records(
                self._lines.add,
                service=plan.name,
                host=plan.node_id,
                run_id=plan.run_id,
                level=plan.log_level,
                format=self._format,
                colour=os.isatty(2 if plan.as_job else 1) and "NO_COLOR" not in os.environ,
            )
            self._counts = Counts()
            self._ending = anyio.Event()
            teed = {"console": (out, err), "json": (err, err), "journal": (None, None)}[self._format]
            inherited = (1, 2) if self._format == "console" else (2, 2)  # stdout is for records alone
            stdin = 0 if plan.as_job else None
            output = Output(*teed, inherited=inherited, stdin=stdin, on_dropped=self._output_dropped)
            self._counts.log_bytes = output.log_bytes
            self._counts.log_dropped_bytes = output.log_dropped_bytes
            become_subreaper()
            self._containment = Sessions(adopts=True, unclaimed=self._orphan_reaped)
            self._processes = Processes(self._post, output, self._containment)
            self._runtime = Runtime(self._beginning(), self, self._tell, self._changed)
            try:
                with (
                    self._processes.spawner.many_descriptors(),
                    signals.signal_door(self._on_signals()),
                    self._survived(),
                ):
                    await self._supervise()
            finally:
                self._runtime.close()
                self._processes.close()
                output.close()
                for claim in self._claims.values():
                    claim.release()
                self._notifier.close()
            return self._last_words()

    # ---- hands (see runtime.Hands)

    def form_world(self, group: str, attempt: int) -> World | str:
        """On one host a world is formed at once: all it needs is a port."""
        plan = self._plan.groups[group]
        claim: PortClaim | PortRefused
        if group in self._claims:
            claim = renew(self._claims[group], chance=self._chance)
        else:
            claim = claim_port(plan.master_port, chance=self._chance)
        if isinstance(claim, PortRefused):
            return f"no MASTER_PORT: {claim.reason}"
        self._claims[group] = claim
        return single_host_world(plan, attempt, plan.master_addr, claim.port)

    def start(self, group: str, workers: Sequence[Worker], world: World, restarts: int) -> None:
        plan = self._plan.groups[group]
        shared = self._shared[group] | world_environment(world)

        def plan_of(worker: Worker) -> WorkerPlan:
            return worker_plan(self._plan, plan, world, shared, worker.rank, attempt=worker.attempt, restarts=restarts)

        self._processes.enqueue(group, ((worker, partial(plan_of, worker)) for worker in workers))

    def abandon(self, group: str) -> None:
        self._processes.abandon(group)

    def signal(self, group: str, workers: Sequence[Worker], signal: int, reach: Reach) -> None:
        self._processes.signal(group, workers, signal, reach)

    # ---- the life of the daemon

    async def _supervise(self) -> None:
        """Until everything is over; if that is for a bug of ours, not before every worker has been killed."""
        asyncio.get_running_loop().set_exception_handler(self._callback_failed)
        try:
            self._introduce()
            await self._live()
        except Exception as bug:  # noqa: BLE001 - whatever it is, no worker must outlive us for it
            self._runtime.fail(bug)
        if self._runtime.bug is not None:
            self._processes.kill_all()
            with anyio.move_on_after(LAST_WAIT):
                await self._processes.all_gone()

    def _introduce(self) -> None:
        self._tell(
            events.daemon_started(
                clock.now(), __version__, os.getpid(), tuple(self._plan.groups), "session and subreaper"
            )
        )
        for event in self._inherited:
            self._tell(event)

    async def _live(self) -> None:
        runtime = self._runtime
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._processes.run)
            tasks.start_soon(self._ask_for_time_to_stop)
            if self._watchdog_every is not None:
                tasks.start_soon(
                    systemd.feed_watchdog, self._notifier, self._watchdog_every, lambda: runtime.bug is None
                )
            runtime.arrive(Begun())
            tasks.start_soon(self._serve_health)
            await runtime.over.wait()
            self._come_up()  # a job may be over before it was; systemd calls it failed if it never hears READY
            self._ending.set()
            self._notifier.stopping(self._status_line())
            tasks.cancel_scope.cancel()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Should we be killed, there are who end our workers: the guardian at once, the next daemon by our state."""
        loop = asyncio.get_running_loop()
        us = this_daemon(self._containment.mark)
        self._state = StateFile(self._plan.state_dir, us, self._plan.run_id, loop, self._state_unwritten)
        guardian = None
        if is_needed(os.environ, us.pid):
            leave_alone = self._containment.leave_alone
            guardian = Guardian(us, self._plan.state_dir, loop, leave_alone, self._guardian_lost)
        in_order = False
        try:
            yield
            in_order = self._runtime.bug is None
        finally:
            self._state.close(in_order=in_order)
            if guardian is not None:
                guardian.close(in_order=in_order)

    async def _serve_health(self) -> None:
        """Answer probes until the end. HTTP is loaded in a thread, once the first workers have been started: it takes
        longer to import than the daemon to come up, and the loop stays free meanwhile."""
        await self._processes.idle.wait()
        addresses: list[str] = []
        if self._listeners:
            with self._processes.spawner.beside_threads():
                try:
                    http = await anyio.to_thread.run_sync(_load_http)
                except RuntimeError:  # no thread to be had: the loop must wait, then
                    http = _load_http()
            listener = http(
                self._runtime.snapshot,
                self._counts,
                started_at=self._began_at,
                about={"service": self._plan.name, "host": self._plan.node_id, "run_id": self._plan.run_id},
                drain_status=self._plan.drain_status,
            )
        gc.collect()
        gc.freeze()  # what is here now stays: no later collection need look at it
        try:
            if self._listeners:
                addresses = await listener.start(self._listeners)
                self._tell(events.health_listening(clock.now(), tuple(addresses)))
            self._come_up()
            await systemd.settle(self._notifier)
            await anyio.sleep_forever()
        finally:
            if self._listeners:
                with anyio.CancelScope(shield=True):
                    await listener.stop()

    def _come_up(self) -> None:
        """Say once that the daemon is up, unless it is on its way down already."""
        if not self._is_up and not self._ending.is_set():
            self._is_up = True
            self._notifier.ready(self._status_line())
            self._tell(events.daemon_ready(clock.now(), clock.now() - self._began_at))

    async def _ask_for_time_to_stop(self) -> None:
        """While a stop is under way, systemd hears how long it may still take."""
        await self._ending.wait()
        await systemd.keep_extending(self._notifier, self._stop_deadline)

    def _beginning(self) -> Groups:
        plan = self._plan
        return groups.begin(
            plan,
            {name: _seed(plan, name) for name in plan.groups},
            {name: _last_attempt(attempts_dir(plan, group)) for name, group in plan.groups.items()},
            clock.now(),
        )

    def _last_words(self) -> int:
        state, bug = self._runtime.state, self._runtime.bug
        if bug is not None:
            sys.stderr.write("rankd: a bug in rankd itself; every worker was killed:\n")
            traceback.print_exception(bug)
        exit_code = BUG if bug is not None else state.exit_code
        if exit_code == 0 and self._stopped_by is not None and self._plan.as_job:
            exit_code = 128 + self._stopped_by
        why = "a bug in rankd" if bug is not None else state.why or "every group has finished"
        self._tell(events.daemon_stopped(clock.now(), exit_code, clock.now() - self._began_at, why))
        return exit_code

    # ---- doors

    def _post(self, group: str, input: Input) -> None:
        match input:
            case WorkerStarted(worker, pid):
                self._state.started(group, worker.rank, worker.attempt, pid)
            case WorkerExited(worker):
                self._state.ended(group, worker.rank)
        self._runtime.post(group, input)

    def _on_signals(self) -> Mapping[int, Callable[[], None]]:
        callbacks: dict[int, Callable[[], None]] = {}
        callbacks[signal.SIGCHLD] = self._processes.on_sigchld
        callbacks[signal.SIGUSR1] = callbacks[signal.SIGUSR2] = lambda: None  # without a handler they would end us
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else: started by nohup(1)
            callbacks[signal.SIGHUP] = self._hung_up
        callbacks.update({number: partial(self._asked_to_end, number) for number in self._plan.stop_signals})
        return callbacks

    def _asked_to_end(self, number: int) -> None:
        """The first signal stops in order, one that comes later without waiting for what ignores SIGTERM.

        Later, because one request may come as several signals: a session's end is SIGTERM and SIGHUP, and a wrapper
        forwards a Ctrl-C that we have heard ourselves.
        """
        now = clock.now()
        hurry = self._stop_heard_at is not None and now - self._stop_heard_at >= ONE_REQUEST
        self._stop_heard_at = self._stop_heard_at or now
        self._stopped_by = self._stopped_by or number
        self._runtime.arrive(
            EndRequested(
                signal_name(number),
                hurry=hurry and number != signal.SIGHUP,
                forward=number if self._plan.as_job else None,
            )
        )

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody awaits. In a callback of the loop it is one of our doors that is broken."""
        error = context.get("exception")
        if isinstance(error, Exception) and "handle" in context:
            self._runtime.fail(error)
        else:
            loop.default_exception_handler(context)

    def _hung_up(self) -> None:
        """With a terminal: it is gone, and we go as well. Without: somebody expects a daemon to reload."""
        if self._format == "console":
            self._asked_to_end(signal.SIGHUP)
        else:
            why = "this version cannot reload its configuration; restart it to apply a new one"
            self._tell(events.daemon_reload_refused(clock.now(), why))

    # ---- telling

    @contextmanager
    def _consoles(self) -> Iterator[tuple[Console, Console]]:
        out = Console(1, mark=self._mark, on_dropped=self._records_dropped)
        err = out if os.path.sameopenfile(1, 2) else Console(2)
        records = err if self._plan.as_job else out
        self._lines = Together(partial(records.write, urgent=True), asyncio.get_running_loop().call_soon)
        try:
            yield out, err
        finally:
            self._lines.flush()
            for console in {id(out): out, id(err): err}.values():
                console.flush(FAREWELL)
                console.close()

    def _tell(self, event: Event) -> None:
        self._counts.observe(event)
        self._records.tell(event)

    def _mark(self, lost: int) -> bytes:
        return self._records.dropped(lost)

    def _records_dropped(self, _lost: int) -> None:
        self._counts.events_dropped += 1

    def _output_dropped(self, dropped: Dropped) -> None:
        labels = dropped.labels
        who = Who(labels["group"], int(labels["rank"]), int(labels["local_rank"]), int(labels["attempt"]))
        self._tell(
            events.worker_output_dropped(
                clock.now(), who, dropped.stream, dropped.bytes, dropped.reason, over=dropped.over
            )
        )

    def _state_unwritten(self, error: OSError | None) -> None:
        why = "" if error is None else f"{self._plan.state_dir}: {error.strerror}"
        self._tell(events.daemon_state_unwritten(clock.now(), why, over=error is None))

    def _guardian_lost(self, why: str, again: bool) -> None:
        self._tell(events.daemon_guardian_lost(clock.now(), why, over=not again))

    def _orphan_reaped(self, process: Process) -> None:
        self._tell(events.orphan_reaped(clock.now(), str(process)))

    def _changed(self, state: Groups) -> None:
        line = self._status_line()
        if state.stage in ("draining", "stopping"):
            self._ending.set()
            self._notifier.stopping(line)
        else:
            self._notifier.status(line)

    def _status_line(self) -> str:
        return health.one_line(self._runtime.snapshot(workers=False))

    def _stop_deadline(self) -> float | None:
        return groups.stop_deadline(self._runtime.state, clock.now())


def _load_http() -> type:
    from supervisor.report.http import HealthListener  # noqa: PLC0415 - what takes long is loaded late: see caller

    return HealthListener


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 are open: a closed one (``>&-``) would be the number of the next socket."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so just this one
            os.set_inheritable(fd, True)


def _make_directories(plan: DaemonPlan) -> None:
    for path, mode in ((plan.state_dir, 0o755), (plan.runtime_dir, 0o700)):
        try:
            Path(path).mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise Unusable(f"{path}: cannot make this directory: {error.strerror}") from error


def _succeed(directory: str, stack: ExitStack) -> list[Event]:
    """Be the one daemon of this directory while ``stack`` is open, and end what the last one has left, if it could not.

    Returns what there is to tell. Raises ``InUse``.
    """
    try:
        lock = hold(directory)
    except OSError as error:  # a full or read-only disk: no reason not to supervise
        why = f"{directory} cannot be locked: {error.strerror}"
        return [events.daemon_state_unwritten(clock.now(), why, over=False)]
    if isinstance(lock, Held):
        raise InUse(
            f"state directory {directory}: in use by another rankd ({lock.by}); give each its own [daemon] state_dir"
        )
    stack.callback(os.close, lock)
    earlier = leftovers.end_earlier(directory)
    told = []
    if earlier.refused:
        told.append(events.daemon_state_refused(clock.now(), earlier.refused, earlier.aside))
    if killed := earlier.ended.killed:
        names, left = tuple(map(str, killed)), ", ".join(map(str, earlier.ended.left))
        told.append(events.leftovers_killed(clock.now(), earlier.pid, names, left))
    return told


def _seed(plan: DaemonPlan, group: str) -> int:
    """The same for the same run and group, so that a run's pauses can be replayed."""
    return int.from_bytes(hashlib.blake2b(f"{plan.run_id}/{group}".encode(), digest_size=8).digest())


def _last_attempt(directory: str) -> int:
    """The highest attempt that has logs already (a run id used again); -1 for none."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise Unusable(f"{directory}: cannot see which attempts have logs: {error.strerror}") from error
    numbers = [int(name[8:]) for name in names if name.startswith("attempt_") and name[8:].isdigit()]
    return max(numbers, default=-1)
