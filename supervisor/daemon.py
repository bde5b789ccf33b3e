"""The composition root: builds the parts, wires them, and waits for the end. Owns nothing else."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread

from supervisor import __version__, clock, premises
from supervisor.audience import FAREWELL, Audience
from supervisor.control import claim
from supervisor.control.verbs import Verbs
from supervisor.core import events, groups, health
from supervisor.core.events import Event, Who, signal_name
from supervisor.core.groups import Begun, EndRequested, Groups, ReloadRequested
from supervisor.core.health import Only, Snapshot
from supervisor.core.messages import ErrorReport, Input, ToPeers, Worker, WorkerExited, WorkerNotStarted, WorkerStarted
from supervisor.core.reload import compare
from supervisor.errors import BUG, AddressUnavailable, RankdError
from supervisor.host import error_file, signals, systemd
from supervisor.host.apart import Apart
from supervisor.host.cgroup import limits_without
from supervisor.host.commands import Commands
from supervisor.host.containment import become_subreaper
from supervisor.host.disk import Disk
from supervisor.host.guardian import Guardian, is_needed
from supervisor.host.hook import run_command
from supervisor.host.landing import Landing
from supervisor.host.leaves import contain
from supervisor.host.names import user_names
from supervisor.host.output import Output
from supervisor.host.placing import Placer, Placing
from supervisor.host.probes import Probes
from supervisor.host.proc import Process
from supervisor.host.process import Processes, seal_inherited_fds
from supervisor.host.state import StateFile, this_daemon
from supervisor.host.turns import Turns
from supervisor.plan import (
    DaemonPlan,
    GroupPlan,
    HookPlan,
    Probe,
    Reach,
    WorkerPlan,
    World,
    attempts_dir,
    group_environment,
    handed_on,
    worker_plan,
    world_environment,
)
from supervisor.reloading import Refused, reread
from supervisor.report import listen
from supervisor.report.agent import AgentListener
from supervisor.report.counts import Counts
from supervisor.runtime import Runtime
from supervisor.vigils import Vigils
from supervisor.worlds import Worlds

if TYPE_CHECKING:
    from supervisor.control.server import ControlListener
    from supervisor.report.http import HealthListener
    from supervisor.rounds import Rounds

ONE_REQUEST = 1.0
"""Seconds within which several signals are one request to stop."""

LAST_HOOKS = 10.0
"""Seconds that hooks have at the end for what is still to be delivered; ``FAREWELL`` if somebody asked for the end."""

Loaded = TypeVar("Loaded")

PostRecord = Callable[[str, bytes, Mapping[str, str], float], Awaitable[tuple[str, bool]]]

LAST_WAIT = 5.0
"""Seconds that killed workers may take to be gone when a bug ends us."""


def run(plan: DaemonPlan, source: str = "", placer: Placer | None = None) -> int:
    """Supervise until the end; returns the exit code. Raises ``RankdError`` before any worker has been started.

    ``source``: the file that ``plan`` is from, to be read anew on SIGHUP; empty: there is none. ``placer``: who says
    for each attempt where output goes.
    """
    signals.hold(plan.stop_signals)
    _open_standard_streams()
    seal_inherited_fds()
    premises.make_directories(plan)
    with ExitStack() as stack:
        inherited, keeps_state = premises.succeed(plan, stack)
        passed = systemd.listen_fds(os.environ, os.getpid())
        if isinstance(passed, systemd.SocketsRefused):
            raise AddressUnavailable(f"health listener: {passed.reason}")
        # Bound before any worker starts, so that a taken address is refused in time; opened when HTTP is loaded.
        listeners = listen.adopt(sock for _, sock in passed) if passed else listen.bind(plan.listen)
        agents = listen.bind([plan.agent_check] if plan.agent_check else [])
        for listener in [*listeners, *agents]:
            stack.callback(listener.close)
        control = claim.claim(plan)
        if isinstance(control, listen.BoundListener):
            stack.callback(control.close)
        turns = Turns()
        daemon = Daemon(
            plan, turns, listeners, agents, inherited,
            keeps_state=keeps_state, source=source, control=control, placer=placer,
        )  # fmt: skip
        systemd.forget(os.environ)
        loops = {"loop_factory": partial(asyncio.SelectorEventLoop, turns)}
        return anyio.run(daemon.main, backend="asyncio", backend_options=loops)


class Daemon:
    """One daemon from start to end; also the hands of its runtime."""

    def __init__(
        self,
        plan: DaemonPlan,
        turns: Turns,
        listeners: Sequence[listen.BoundListener],
        agents: Sequence[listen.BoundListener] = (),
        inherited: Sequence[Event] = (),
        *,
        keeps_state: bool = True,
        source: str = "",
        control: listen.BoundListener | str | None = None,
        placer: Placer | None = None,
    ) -> None:
        """``inherited``: what there is to tell of an earlier daemon. ``keeps_state``: ``state.json`` is ours.

        ``source`` and ``placer``: see ``run``. ``control``: see ``claim``.
        """
        self._plan = plan
        self._turns = turns
        self._listeners = listeners
        self._agents = agents
        self._inherited = inherited
        self._keeps_state = keeps_state
        self._began_at = clock.now()
        self._notifier = systemd.Notifier.from_environment(os.environ)
        self._watchdog_every = systemd.watchdog_interval(os.environ, os.getpid())
        self._counts = Counts()
        self._apart = Apart()
        self._audience = Audience(plan, self._counts, self._apart, lambda: self._runtime.state.groups, self._deliver)
        self._shared: dict[str, tuple[GroupPlan, Mapping[str, str]]] = {}
        self._worlds = Worlds(self._open_rounds)
        self._placer = placer
        self._placing = Placing(placer, self._apart, self._refuse_start) if placer is not None else None
        self._state: StateFile | None = None
        self._commands: Commands | None = None
        self._post_record: PostRecord | None = None
        self._probes: Probes | None = None
        self._has_terminal = any(map(os.isatty, (0, 1, 2)))  # later it may be gone
        self._stop_heard_at: float | None = None
        self._stopped_by: int | None = None
        self._is_up = False
        self._source = source
        self._control = control
        self._reload_asked = anyio.Event()
        self._reloading = anyio.Lock()
        self._not_reloaded = ""
        self._http: HealthListener | None = None

    async def main(self) -> int:
        """Everything between the first record and the last one."""
        plan = self._plan
        with self._audience.listening() as listening:
            self._turns.heard = self._counts.loop_lag.observe
            self._ending = anyio.Event()
            stdin = 0 if plan.as_job else None
            output = self._output = Output(
                *listening.teed,
                inherited=listening.inherited,
                stdin=stdin,
                on_dropped=self._audience.output_dropped,
            )
            self._counts.log_bytes = output.log_bytes
            self._counts.log_dropped_bytes = output.log_dropped_bytes
            become_subreaper()
            self._containment = contain(self._orphan_reaped, [group.resources for group in plan.groups.values()])
            if self._placer is not None:
                self._containment.leave_alone(self._placer.pid)
            self._containment.adopt_children()
            self._processes = Processes(self._post, output, self._containment)
            if self._placing is not None:
                self._audience.failures.places = self._placing.of
            self._landing = Landing(self._apart, self._processes.enqueue, self._refuse_start)
            self._vigils = Vigils(
                plan,
                whose=self._processes.whose,
                who=self._who,
                post=self._post,
                tell=self._tell,
                last_lines=self._processes.last_lines,
                leave_alone=self._containment.leave_alone,
                ran=self._turns.ran,
                apart=self._apart,
                keeps_state=self._keeps_state,
            )
            self._counts.watched = self._vigils.by_group
            self._runtime = Runtime(self._beginning(), self, self._tell, self._changed)
            try:
                with (
                    self._processes.spawner.many_descriptors(),
                    signals.signal_door(self._on_signals()),
                    self._audience.progress(self._runtime.snapshot),
                    self._survived(),
                ):
                    self._on_sigchld()  # some of what came with us may have ended before we listened
                    await self._supervise()
            finally:
                self._runtime.close()
                self._vigils.close()
                self._landing.close()
                self._processes.close()
                if self._commands is not None:
                    self._commands.close()
                self._containment.give_back()
                output.close()
                self._audience.failures.flush()
                self._apart.close()
                self._worlds.keep(())
                self._notifier.close()
            return self._last_words()

    # ---- hands (see runtime.Hands)

    def form_world(self, group: str, attempt: int) -> World | str | None:
        plan = self._plan_of(group)
        try:
            self._vigils.prepare(plan)
        except premises.Unusable as error:
            return str(error)
        return self._worlds.form(plan, attempt)

    def tell_peers(self, group: str, word: ToPeers) -> None:
        self._worlds.tell_peers(group, word)

    def start(self, plan: GroupPlan, workers: Sequence[Worker], world: World, restarts: int) -> None:
        group = plan.name
        shared = {**self._environment(plan), **self._vigils.environment(group), **world_environment(world)}

        def plan_of(worker: Worker) -> WorkerPlan:
            made = worker_plan(self._plan, plan, world, shared, worker.rank, attempt=worker.attempt, restarts=restarts)
            if self._probes is not None:
                self._probes.expect(group, worker, made)
            return made

        first = workers[0]
        directory = f"{attempts_dir(self._plan, plan)}/attempt_{first.attempt}/{first.rank}"
        starts = ((worker, partial(plan_of, worker)) for worker in workers)
        land = partial(self._landing.wait, group, plan.disk, directory)
        if self._placing is None:
            land(starts)
        else:
            self._placing.wait(group, starts, land)

    def _environment(self, plan: GroupPlan) -> Mapping[str, str]:
        """What all workers of a group share; put together once for each plan of it."""
        known = self._shared.get(plan.name)
        if known is None or known[0] is not plan:
            known = self._shared[plan.name] = (plan, group_environment(self._plan, plan, os.environ))
        return known[1]

    def abandon(self, group: str) -> None:
        unplaced = [] if self._placing is None else self._placing.abandon(group)
        for worker in [*unplaced, *self._landing.abandon(group)]:
            self._post(group, WorkerNotStarted(worker, "abandoned", "its start was called off"))
        self._processes.abandon(group)

    def _refuse_start(self, group: str, worker: Worker, why: str) -> None:
        self._post(group, WorkerNotStarted(worker, "transient", why))

    async def _first_starts(self) -> None:
        """Return once whoever was to be started at the beginning has been, or waits for a disk."""
        await self._landing.clear.wait()
        await self._processes.idle.wait()

    def take_evidence(self, group: str, worker: Worker, reason: str) -> None:
        self._vigils.take_evidence(group, worker, reason)

    def signal(self, group: str, workers: Sequence[Worker], signal: int, reach: Reach) -> None:
        self._processes.signal(group, workers, signal, reach)

    def _plan_of(self, group: str) -> GroupPlan:
        """By which the group goes now: a reload may have given it another one than it began with."""
        return self._runtime.state.groups[group].plan

    def _newest_probe(self, group: str) -> Probe | None:
        return self._runtime.state.groups[group].newest_plan.probe

    def _open_rounds(self) -> Rounds:
        from supervisor.rounds import Rounds, open_etcd  # noqa: PLC0415 - most daemons meet nobody

        return Rounds(
            self._plan,
            self._tasks,
            lambda *store: self._load(partial(open_etcd, *store)),
            self._runtime.post,
            self._tell,
        )

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
        contained = self._containment
        self._tell(
            events.daemon_started(clock.now(), __version__, os.getpid(), tuple(self._plan.groups), contained.flavour)
        )
        for event in [*self._inherited, *premises.told_of(0, contained.earlier)]:
            self._tell(event)
        self._tell_what_is_unlimited(self._plan.groups.values())

    def _tell_what_is_unlimited(self, plans: Iterable[GroupPlan]) -> None:
        contained = self._containment
        for group in plans:
            if keys := limits_without(group.resources, contained.controllers):
                self._tell(events.group_unlimited(clock.now(), group.name, keys, contained.flavour))

    async def _live(self) -> None:
        runtime = self._runtime
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._probes = Probes(
                tasks,
                self._post,
                self._newest_probe,
                self._commands_of_probes,
            )
            tasks.start_soon(self._processes.run)
            tasks.start_soon(self._vigils.run)
            tasks.start_soon(self._ask_for_time_to_stop)
            tasks.start_soon(self._reload_when_asked)
            if self._watchdog_every is not None:
                tasks.start_soon(
                    systemd.feed_watchdog, self._notifier, self._watchdog_every, lambda: runtime.bug is None
                )
            runtime.arrive(Begun())
            tasks.start_soon(self._serve_health)
            tasks.start_soon(self._serve_control)
            tasks.start_soon(self._run_hooks)
            await runtime.over.wait()
            if runtime.bug is None:
                await self._worlds.part(None if self._stop_heard_at is None else FAREWELL)
                await self._audience.hooks.finish(LAST_HOOKS if self._stop_heard_at is None else FAREWELL)
            self._come_up()  # a job may be over before it was; systemd calls it failed if it never hears READY
            self._ending.set()
            self._notifier.stopping(self._status_line())
            tasks.cancel_scope.cancel()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """Should we be killed, there are who end our workers: the guardian at once, the next daemon by our state."""
        loop = asyncio.get_running_loop()
        us = this_daemon(self._containment.mark)
        if self._keeps_state:
            state_dir, run_id = self._plan.state_dir, self._plan.run_id
            self._state = StateFile(state_dir, us, run_id, loop, self._state_unwritten, Disk())
        guardian = None
        if is_needed(os.environ, us.pid):
            leave_alone = self._containment.leave_alone
            guardian = Guardian(
                us, self._plan.state_dir, loop, leave_alone, self._guardian_lost, self._containment.ground
            )
        in_order = False
        try:
            yield
            in_order = self._runtime.bug is None
        finally:
            if self._state is not None:
                self._state.close(in_order=in_order and self._processes.all_are_gone)
            if guardian is not None:
                guardian.close(in_order=in_order)

    async def _serve_health(self) -> None:
        """Answer probes until the end. HTTP is loaded in a thread, once the first workers have been started: it takes
        longer to import than the daemon to come up, and the loop stays free meanwhile."""
        await self._first_starts()
        agent = AgentListener(self._runtime.snapshot)
        if self._listeners:
            http = await self._load(_load_http)
            listener = self._http = http(
                self._look,
                self._counts,
                started_at=self._began_at,
                about=self._about(),
                drain_status=self._plan.drain_status,
                ring=self._audience.ring,
                history=self._audience.history,
            )
        gc.collect()
        gc.freeze()  # what is here now stays: no later collection need look at it
        try:
            agents = await agent.start(self._agents)
            addresses = await listener.start(self._listeners) if self._listeners else []
            if addresses or agents:
                self._tell(events.health_listening(clock.now(), tuple(addresses), tuple(agents)))
            self._come_up()
            await systemd.settle(self._notifier)
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await agent.stop()
                if self._listeners:
                    await listener.stop()

    async def _serve_control(self) -> None:
        """Do what is asked over the control socket, from when the first workers have been started."""
        control = self._control
        if not isinstance(control, listen.BoundListener):
            if control:
                self._tell(events.control_unavailable(clock.now(), control))
            return
        await self._first_starts()
        ring = self._audience.ring
        verbs = Verbs(
            lambda: self._runtime.state,
            self._runtime.arrive,
            self._tell,
            self.signal,
            self._reload_now,
            self._scale_now,
            lambda: ring.last,
            self._worlds.hosts_of,
            lambda path: reread(path, self._plan),
            self._vigils.dump,
        )
        listener = (await self._load(_load_control))(
            control,
            verbs,
            self._look,
            allowed=await self._load(partial(user_names, {0, os.geteuid(), *self._plan.control_users})),
            about=self._about(),
            logs=lambda snapshot: {name: attempts_dir(self._plan, self._plan_of(name)) for name in snapshot.groups},
            ring=ring,
        )
        try:
            await listener.start()
            self._tell(events.control_listening(clock.now(), self._plan.control))
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await listener.stop()

    def _about(self) -> Mapping[str, str]:
        return {"service": self._plan.name, "host": self._plan.node_id, "run_id": self._plan.run_id}

    async def _load(self, load: Callable[[], Loaded]) -> Loaded:
        """Import in a thread what takes long: the loop stays free meanwhile."""
        with self._processes.spawner.beside_loading():
            try:
                return await anyio.to_thread.run_sync(load)
            except RuntimeError:  # no thread to be had: the loop must wait, then
                return load()

    async def _run_hooks(self) -> None:
        """Deliver what hooks want, once the first workers have been started."""
        await self._first_starts()
        await self._audience.hooks.run()

    async def _deliver(self, hook: HookPlan, record: bytes, event: Event) -> tuple[str, bool]:
        if hook.url:
            if self._post_record is None:
                self._post_record = await self._load(_load_webhook)
            return await self._post_record(hook.url, record, hook.headers, hook.timeout)
        env = handed_on(os.environ) | {
            "RANKD_EVENT": event.name,
            "RANKD_GROUP": event.group or "",
            "RANKD_RUN_ID": self._plan.run_id,
        }
        return await run_command(hook.command, record, env, hook.timeout, self._containment.leave_alone), True

    def _commands_of_probes(self) -> Commands:
        if self._commands is None:
            self._commands = Commands(self._containment, self._processes.spawner)
        return self._commands

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
        return groups.begin(self._plan, *_firsts(self._plan, self._plan.groups), clock.now())

    async def _reload_when_asked(self) -> None:
        """One reload after the other; what is asked for during one is one more."""
        while True:
            await self._reload_asked.wait()
            self._reload_asked = anyio.Event()
            await self._reload_now()

    async def _reload_now(self) -> Refused | None:
        """A reload of which systemd hears; returns why it was refused, if it was."""
        return await self._heard_of(self._reload)

    async def _scale_now(self, group: str, workers: int) -> Refused | None:
        """As a reload that changes nothing but how many workers the group has."""
        return await self._heard_of(partial(self._reload, (group, workers)))

    async def _heard_of(self, reload: Callable[[], Awaitable[Refused | None]]) -> Refused | None:
        async with self._reloading:
            if self._is_up and not self._ending.is_set():
                self._notifier.reloading()
            try:
                refused = await reload()
                self._not_reloaded = f"not reloaded: {refused.why}" if refused else ""
                if refused:
                    self._tell(events.daemon_reload_refused(clock.now(), refused.why, refused.mistakes))
            except Exception as error:
                self._runtime.fail(error)  # whoever asked: nobody knows by which plan it goes now
                raise
            finally:
                if self._is_up and not self._ending.is_set():
                    self._notifier.ready(self._status_line())
            return refused

    async def _reload(self, scaled: tuple[str, int] | None = None) -> Refused | None:
        """Go by the file as it is now; or go on as before, and say why. ``scaled``: a group, and its workers instead.

        Whoever scales a group does not mean what else has been written into the file since it was read.
        """
        plan = await reread(self._source, self._plan, dict([scaled] if scaled else []))
        if isinstance(plan, Refused):
            return plan
        state = self._runtime.state
        if scaled and not compare(state.plan, plan).is_but_scaling(scaled[0]):
            return Refused(f"{self._source} has other changes (rankd plan shows them): reload it first")
        try:
            firsts = _firsts(plan, plan.groups.keys() - state.groups.keys())
        except RankdError as error:
            return Refused(str(error))
        if why := groups.why_not_reload(state, plan):
            return Refused(why)
        changed = [group for name, group in plan.groups.items() if self._plan.groups.get(name) != group]
        self._plan = plan
        self._audience.go_by(plan)
        self._runtime.arrive(ReloadRequested(plan, *firsts))
        self._audience.set_level(plan.log_level)
        if self._http is not None:
            self._http.set_drain_status(plan.drain_status)
        for group in self._runtime.state.groups.values():
            self._vigils.go_by(group.newest_plan)
        self._tell_what_is_unlimited(changed)
        return None

    def _last_words(self) -> int:
        state, bug = self._runtime.state, self._runtime.bug
        if bug is not None:
            sys.stderr.write("rankd: a bug in rankd itself; every worker was killed:\n")
            traceback.print_exception(bug)
        exit_code = BUG if bug is not None else state.exit_code
        if bug is None and state.first_failed is not None:
            self._hand_on_error(state.first_failed)
        if exit_code == 0 and self._stopped_by is not None and self._plan.as_job:
            exit_code = 128 + self._stopped_by
        why = "a bug in rankd" if bug is not None else state.why or "every group has finished"
        self._tell(events.daemon_stopped(clock.now(), exit_code, clock.now() - self._began_at, why))
        return exit_code

    def _hand_on_error(self, group: str) -> None:
        """Whoever supervises us (torchrun, another rankd) reads in our error file what has failed here."""
        ours, failure = os.environ.get("TORCHELASTIC_ERROR_FILE"), self._runtime.state.groups[group].failure
        root = self._audience.failures.root_cause(group)
        if root is None or failure is None or not ours:
            return
        fields, status = root.fields, failure.status
        otherwise = ErrorReport(
            f"{failure.reason}: {fields['error']}" if "error" in fields else failure.reason,
            fields.get("traceback") or fields.get("stderr_tail", ""),
            fields.get("error_timestamp") or int(clock.wall(root.at)),
        )
        code = -status.signal if status is not None and status.signal is not None else failure.exit_code
        try:
            error_file.hand_on(self._audience.failures.error_file(root), ours, otherwise, code)
        except OSError as error:
            sys.stderr.write(f"rankd: cannot write the error file '{ours}': {error.strerror}\n")

    # ---- doors

    def _post(self, group: str, input: Input) -> None:
        if self._state is not None:
            match input:
                case WorkerStarted(worker, pid):
                    self._state.started(group, worker.rank, worker.attempt, pid)
                case WorkerExited(worker):
                    self._state.ended(group, worker.rank)
        self._vigils.observe(group, input)
        self._runtime.post(group, input)
        if isinstance(input, WorkerExited):
            self._counts.detection[group].observe(clock.now() - self._turns.pending_since)
        if self._probes is not None:
            self._probes.hear(group, input)

    def _who(self, group: str, worker: Worker) -> Who:
        rank = self._runtime.state.groups[group].rank(worker.rank)
        return Who(group, rank, worker.rank, worker.attempt)

    def _on_signals(self) -> Mapping[int, Callable[[], None]]:
        callbacks: dict[int, Callable[[], None]] = {}
        callbacks[signal.SIGCHLD] = self._on_sigchld
        callbacks[signal.SIGUSR1] = self._reopen_logs
        callbacks[signal.SIGUSR2] = lambda: None  # without a handler it would end us
        if self._audience.terminal is not None:
            callbacks[signal.SIGWINCH] = self._audience.terminal.refresh
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else: started by nohup(1)
            callbacks[signal.SIGHUP] = self._hung_up
        callbacks.update({number: partial(self._asked_to_end, number) for number in self._plan.stop_signals})
        return callbacks

    def _on_sigchld(self) -> None:
        self._processes.on_sigchld()
        if self._commands is not None:
            self._commands.on_sigchld()

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

    def _reopen_logs(self) -> None:
        self._output.reopen()
        self._tell(events.daemon_logs_reopened(clock.now()))

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody awaits. In a callback of the loop it is one of our doors that is broken."""
        error = context.get("exception")
        if isinstance(error, Exception) and "handle" in context:
            self._runtime.fail(error)
        else:
            loop.default_exception_handler(context)

    def _hung_up(self) -> None:
        """With a terminal: it is gone, and we go as well. Without: somebody expects a daemon to reload."""
        if self._plan.as_job or self._has_terminal:
            self._asked_to_end(signal.SIGHUP)
        else:
            self._reload_asked.set()

    # ---- telling

    def _tell(self, event: Event) -> None:
        if event.name == "worker.unkillable":
            event = self._with_remains(event)
        self._audience.tell(event)

    def _with_remains(self, event: Event) -> Event:
        """The core knows who cannot be killed; what is left of it, and where that hangs, is seen in /proc."""
        rank, local_rank, attempt, pid = (event.fields[name] for name in ("rank", "local_rank", "attempt", "pid"))
        assert event.group is not None
        who = Who(event.group, rank, local_rank, attempt)
        return events.worker_unkillable(
            event.at, who, pid, self._processes.remains(event.group, Worker(local_rank, attempt))
        )

    def _state_unwritten(self, error: OSError | None) -> None:
        why = "" if error is None else f"{self._plan.state_dir}: {error.strerror}"
        self._tell(events.daemon_state_unwritten(clock.now(), why, over=error is None))

    def _guardian_lost(self, why: str, again: bool) -> None:
        self._tell(events.daemon_guardian_lost(clock.now(), why, over=not again))

    def _orphan_reaped(self, process: Process) -> None:
        self._tell(events.orphan_reaped(clock.now(), str(process)))

    def _changed(self, state: Groups) -> None:
        self._worlds.keep(state.groups.keys())
        self._vigils.keep(state.groups.keys())
        if self._audience.terminal is not None:
            self._audience.terminal.refresh()
        line = self._status_line()
        if state.stage in ("draining", "stopping"):
            self._ending.set()
            self._notifier.stopping(line)
        else:
            self._notifier.status(line)

    def _look(self, *, workers: bool | Only = True) -> Snapshot:
        snapshot = self._runtime.snapshot(workers=workers)
        return self._worlds.with_rendezvous(self._vigils.with_words(snapshot)) if workers is True else snapshot

    def _status_line(self) -> str:
        line = health.one_line(self._runtime.snapshot(workers=False))
        return f"{self._not_reloaded}; {line}" if self._not_reloaded else line

    def _stop_deadline(self) -> float | None:
        return groups.stop_deadline(self._runtime.state, clock.now())


def _load_http() -> type[HealthListener]:
    from supervisor.report.http import HealthListener  # noqa: PLC0415 - what takes long is loaded late: see caller

    return HealthListener


def _load_control() -> type[ControlListener]:
    from supervisor.control.server import ControlListener  # noqa: PLC0415 - likewise

    return ControlListener


def _load_webhook() -> PostRecord:
    from supervisor.report.webhook import post  # noqa: PLC0415 - likewise

    return post


def _open_standard_streams() -> None:
    """Descriptors 0 to 2 are open: a closed one (``>&-``) would be the number of the next socket."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, so just this one
            os.set_inheritable(fd, True)


def _firsts(plan: DaemonPlan, names: Iterable[str]) -> tuple[dict[str, int], dict[str, int]]:
    """What groups of these names begin with: a seed, and the highest attempt that has logs already.

    Raises ``Unusable`` where nobody can see the second.
    """
    names = list(names)
    return {name: _seed(plan, name) for name in names}, {name: premises.last_attempt(plan, name) for name in names}


def _seed(plan: DaemonPlan, group: str) -> int:
    """The same for the same run and group, so that a run's pauses can be replayed."""
    return int.from_bytes(hashlib.blake2b(f"{plan.run_id}/{group}".encode(), digest_size=8).digest())
