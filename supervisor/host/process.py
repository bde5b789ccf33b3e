"""All worker processes of this daemon: started one by one, watched by pidfd, signalled as trees, gone when all is gone.

What happens is posted as an input of the worker's group, from the event loop and synchronously. Each worker that was
asked for is answered once, by ``WorkerStarted`` or ``WorkerNotStarted``; each started one then by ``WorkerExited`` and
``WorkerGone``, in this order, with ``StraysFound`` between the two if it left others behind.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import select
import signal as signals
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from supervisor.core.messages import (
    ExitStatus,
    Input,
    StraysFound,
    Worker,
    WorkerExited,
    WorkerGone,
    WorkerNotStarted,
    WorkerStarted,
)
from supervisor.host import error_file, return_file
from supervisor.host.containment import MARK, Sessions, Tree
from supervisor.host.oom import Since, Witness, core_pattern
from supervisor.host.proc import NOT_CONTINUED, OUT_OF_REACH, Process, send, wait_channel
from supervisor.host.spawn import Identity, NotStarted, Spawner, not_started
from supervisor.host.threads import kernel_stack
from supervisor.plan import Reach, WorkerPlan

SLICE = 0.003
"""Seconds of work at a stretch before the loop may serve others."""

TURNS = 5
"""Of the loop between such stretches: a probe takes so many from its arrival to its answer, and they cost little."""

EXITS_A_TURN = 8
"""Taken from epoll at a time and worked off whole: it hands out the longest dead first, in the kernel's order."""

GRACE = 0.02
"""Seconds that what a worker leaves behind has to end by itself, as Python's resource tracker does."""

FLEETING = "processes that end before they can be named"

CROWD = 32
CROWD_LEAVES = 0.1
"""With more workers than that, so many seconds pass before those still there are searched for descendants elsewhere."""

_REST = 4.0  # a look may cost a millisecond with thousands of children: at most a fifth of the time goes there
_LONGEST_REST = 0.1
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})  # the last: of epoll's watches
_SHORT_FOR = 0.1  # seconds until what failed for want of these is tried again
_MANY = 8  # processes of a worker beyond which its end is a walk over /proc, and not one by one
_DESCRIBED = 8  # processes of a worker that are described one by one
_TRACED = 0.05  # seconds until a worker whose end a debugger is still looking at is asked for again


def seal_inherited_fds() -> None:
    """Every descriptor from 3 on that we were started with is close-on-exec, so that no worker inherits it.

    What Python opens is so from birth (PEP 446). For the first lines of a daemon.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the listing's own
                os.set_inheritable(int(name), False)


class Attached(Protocol):
    """The output of one worker, from before its start to after its end. Nothing here blocks or raises."""

    @property
    def stdin(self) -> int:
        """The descriptor to give the child, like the two below."""

    @property
    def stdout(self) -> int: ...

    @property
    def stderr(self) -> int: ...

    def started(self, pid: int) -> None:
        """The child has its ends: close our copies of them and begin to read."""

    def abort(self) -> None:
        """There is no child: close everything."""

    def drain(self) -> None:
        """Read what is there now."""

    def stderr_tail(self) -> str:
        """The last lines written to stderr, as far as they can be had."""

    def close(self) -> None:
        """Nobody writes any more: read to the end and close."""


class OutputDoor(Protocol):
    """Where workers' output goes."""

    def attach(self, plan: WorkerPlan) -> Attached:
        """Make the worker's directory and open what its output needs.

        Raises ``OSError`` or ``NotStarted`` and leaves nothing open then.
        """


class _Run:
    """One start of one worker.

    ``pidfd`` is the leader's; after its end what the containment gives as an alarm, or -1. ``killed``: whatever is left
    is to die; ``signal``: the last one that its leader was sent by us. ``ended`` is known, if perhaps not told, when
    epoll says so; ``asked``: a signal of ours came before. ``strays`` are those seen last; ``told``: they are about to
    be named; ``missed``: when we came to do so, there were none.
    """

    __slots__ = (
        "asked", "attached", "ended", "error_file", "group", "killed", "missed", "pidfd", "return_file", "signal",
        "since", "strays", "told", "tree", "worker",
    )  # fmt: skip

    def __init__(
        self, group: str, worker: Worker, tree: Tree, attached: Attached, since: Since, env: Mapping[str, str]
    ) -> None:
        self.group = group
        self.worker = worker
        self.tree = tree
        self.attached = attached
        self.error_file = env.get("TORCHELASTIC_ERROR_FILE", "")
        self.return_file = env.get("RANKD_RETURN_FILE", "")
        self.pidfd = -1
        self.ended = self.asked = False
        self.killed = False
        self.signal: int | None = None
        self.told = False
        self.missed = False
        self.strays: Sequence[Process] = ()
        self.since = since


class Processes:
    """The workers of all groups. Lives in one event loop; workers outlive ``close``."""

    def __init__(
        self,
        post: Callable[[str, Input], None],
        output: OutputDoor,
        containment: Sessions,
        spawner: Spawner | None = None,
    ) -> None:
        """``post`` is given a group's name and an input for it. ``spawner``: that of others, to be used as well."""
        self.idle = asyncio.Event()
        """Set while ``run`` has nothing to start."""
        self.spawner = spawner or Spawner(containment.leave_alone)
        self._post = post
        self._output = output
        self._containment = containment
        self._witness = Witness()
        self._since = self._witness.now()
        self._queue: deque[tuple[str, Worker, Callable[[], WorkerPlan]]] = deque()
        self._asked = asyncio.Event()
        self._emptied = asyncio.Event()
        self._runs: dict[tuple[str, Worker], _Run] = {}
        self._ended: dict[Tree, _Run] = {}
        self._by_tree: dict[Tree, _Run] = {}
        self._looking: asyncio.Handle | None = None
        self._rested_at = 0.0
        self._chased: set[Tree] = set()
        # One epoll for all pidfds, itself a single descriptor of the loop: an exit costs no Handle and no SelectorKey.
        self._epoll = select.epoll()
        self._watched: dict[int, _Run] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._pidfds_readable)

    # ---- starting

    def enqueue(self, group: str, items: Iterable[tuple[Worker, Callable[[], WorkerPlan]]]) -> None:
        """Start these workers as soon as may be, after all that were asked for before.

        The plan is made when the worker's turn has come; a ``ValueError`` from it means that there never will be one.
        """
        self._queue.extend((group, worker, plan) for worker, plan in items)
        if self._queue:
            self.idle.clear()
            self._asked.set()

    def abandon(self, group: str) -> None:
        """Start none of that group's workers that still wait for their turn: each is answered before this returns."""
        waiting = [worker for name, worker, _ in self._queue if name == group]
        self._queue = deque(item for item in self._queue if item[0] != group)
        for worker in waiting:
            self._post(group, WorkerNotStarted(worker, "abandoned", "its start was called off"))

    async def run(self) -> None:
        """Start what is asked for until cancelled, letting the loop take ``TURNS`` after every ``SLICE`` seconds."""
        while True:
            self._since = self._witness.now()
            while self._queue:
                until = self._loop.time() + SLICE
                while self._queue and self._loop.time() < until:
                    self.start_now(*self._queue.popleft())
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            self._asked.clear()
            self.idle.set()
            await self._asked.wait()

    def start_now(self, group: str, worker: Worker, plan: Callable[[], WorkerPlan]) -> None:
        """Start this one before all that wait, and answer before this returns."""
        try:
            run = self._spawn(group, worker, plan)
        except NotStarted as why:
            self._post(group, WorkerNotStarted(worker, why.fault, why.reason, why.exit_code))
            return
        self._post(group, WorkerStarted(worker, run.tree.leader))

    def _spawn(self, group: str, worker: Worker, make_plan: Callable[[], WorkerPlan]) -> _Run:
        try:
            plan = make_plan()
        except ValueError as error:
            raise NotStarted("permanent", str(error)) from error
        identity = Identity.of(plan)
        tree = self._containment.open(f"{group}.{worker.attempt}.{worker.rank}", plan.resources, plan.local_rank)
        try:
            attached = self._attach(plan)
            try:
                run = _Run(group, worker, tree, attached, self._since, plan.env)
                self._spawn_attached(run, plan, identity)
            except BaseException:
                attached.abort()
                raise
        except BaseException:
            self._containment.close(tree)
            raise
        self._runs[group, worker] = self._by_tree[tree] = run
        attached.started(tree.leader)
        return run

    def _attach(self, plan: WorkerPlan) -> Attached:
        try:
            return self._output.attach(plan)
        except OSError as error:
            raise not_started(f"cannot open the worker's output in '{plan.directory}'", error) from error

    def _spawn_attached(self, run: _Run, plan: WorkerPlan, identity: Identity) -> None:
        ends = run.attached
        env = {**plan.env, MARK: run.tree.mark}
        pid = self.spawner.spawn(plan, env, identity, ends.stdin, ends.stdout, ends.stderr, leaf=run.tree.leaf)
        try:
            self._watch(run, os.pidfd_open(pid))
        except OSError as error:
            os.killpg(pid, signals.SIGKILL)
            os.waitpid(pid, 0)
            raise not_started(f"'{plan.argv[0]}' cannot be watched", error) from error
        self._containment.spawned(run.tree, pid)

    # ---- ending

    def _watch(self, run: _Run, pidfd: int, events: int = select.EPOLLIN) -> None:
        try:
            self._epoll.register(pidfd, events)
        except OSError:
            os.close(pidfd)
            raise
        run.pidfd = pidfd
        self._watched[pidfd] = run

    def on_sigchld(self) -> None:
        """A child has ended: if it is an orphan that came to us, reap it. For the daemon's signal door."""
        try:
            waits = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if waits is not None:
            self._look_soon()

    def _pidfds_readable(self) -> None:
        readable = self._epoll.poll(0, EXITS_A_TURN)
        for pidfd, _ in readable:
            if pidfd in self._watched:
                self._watched[pidfd].ended = True  # what the first of them leads to did not end the others
        for pidfd, _ in readable:
            run = self._watched.pop(pidfd, None)
            if run is None:
                continue  # what was posted for one before it has led to ``close``
            self._epoll.unregister(pidfd)
            if run.tree.leader_reaped:
                self._forget_pidfd(run)
                self._look_soon()
            else:
                self._leader_ended(run)

    def _leader_ended(self, run: _Run) -> None:
        if run.pidfd < 0:
            return  # closed meanwhile
        try:
            pid, raw, usage = os.wait4(run.tree.leader, os.WNOHANG)
        except ChildProcessError:
            status = ExitStatus(255)  # somebody in this process waits for children not his own; asyncio says 255 too
        else:
            if pid == 0:  # a debugger has not let go of it: it is told of the end before we are (ptrace(2))
                self._loop.call_later(_TRACED, self._leader_ended, run)
                return
            status = _exit_status(raw, usage)
        self._forget_pidfd(run)
        self._containment.reaped(run.tree)
        self._ended[run.tree] = run
        self._look_soon()
        run.attached.drain()
        # Not of a crowd that is stopped: they die of our signal, or exit with 0.
        tells = status.code != 0 and (status.signal is None or status.signal != run.signal)
        tail = run.attached.stderr_tail() if tells else ""
        oom, evidence = self._evidence(run, status)
        # A worker that fails because its peers are stopped has nothing to add, and there may be a thousand of them.
        error = None if run.asked or status.code == 0 else error_file.read(run.error_file)
        returned = return_file.read(run.return_file) if status.code == 0 and run.return_file else None
        self._post(
            run.group,
            WorkerExited(run.worker, status, oom, evidence, tail, not run.asked, error, returned, run.signal),
        )

    def _evidence(self, run: _Run, status: ExitStatus) -> tuple[bool, str]:
        """Of an end that needs one: whether the kernel killed it for memory, and what else there is to say."""
        if status.core_dumped:
            return False, core_pattern()
        if status.signal != signals.SIGKILL or run.signal == signals.SIGKILL:
            return False, ""
        if self._containment.oom_kills(run.tree):
            return True, "in its control group"
        return self._witness.heard_of(run.tree.leader, run.since)

    def _forget_pidfd(self, run: _Run) -> None:
        os.close(run.pidfd)
        run.pidfd = -1

    def _look_soon(self, after: float = 0.0) -> None:
        """See what is left of ended workers: once for all that end in this turn, and not without rest."""
        if self._looking is None:
            after = max(after, self._rested_at - self._loop.time())
            self._looking = self._loop.call_later(after, self._look) if after > 0 else self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._looking = None
        began_at = self._loop.time()
        try:
            left = self._containment.left(self._ended)
            for tree, strays in left.items():
                self._hold(self._ended[tree], strays)
        except OSError as error:
            if error.errno not in _SHORTAGE:
                raise
            self._look_soon(_SHORT_FOR)  # and nobody is declared gone meanwhile
            return
        now = self._loop.time()
        self._rested_at = now + min(_REST * (now - began_at), _LONGEST_REST)
        if self._containment.cut_short:
            self._look_soon()  # the last of them may have ended already, and nothing else would tell us
        for tree in [tree for tree in self._ended if tree not in left]:
            self._gone(self._ended.pop(tree))

    def _hold(self, run: _Run, strays: Sequence[Process]) -> None:
        """The worker is not gone yet."""
        run.strays = strays
        if run.killed and run.tree not in self._chased:
            if len(strays) > _MANY:
                self._pursue([run], signals.SIGKILL, ())
            else:
                for process in strays:
                    send(process, signals.SIGKILL)
        if run.pidfd < 0:
            alarm = self._containment.alarm(run.tree, strays)
            if alarm is None:
                self._look_soon()
            else:
                self._watch(run, *alarm)
        if not run.told:
            run.told = True
            self._loop.call_later(GRACE, self._tell, run)

    def _tell(self, run: _Run) -> None:
        if run.tree in self._ended:
            self._in_slices(partial(self._name_strays, run))

    def _name_strays(self, run: _Run) -> Generator[None, None, None]:
        found = yield from self._containment.members({run.tree})
        if run.tree not in self._ended:
            return
        names = tuple(map(str, found.get(run.tree, ())))
        if not names and not run.missed:  # most likely all have ended meanwhile
            run.missed, run.told = True, False
            self._look_soon()
            return
        self._post(run.group, StraysFound(run.worker, names or (FLEETING,)))

    def _gone(self, run: _Run) -> None:
        if run.pidfd >= 0:
            self._epoll.unregister(run.pidfd)
            del self._watched[run.pidfd]
            self._forget_pidfd(run)
        del self._runs[run.group, run.worker], self._by_tree[run.tree]
        if not self._runs:
            self._emptied.set()
        self._containment.close(run.tree)
        run.attached.close()
        self._post(run.group, WorkerGone(run.worker))

    def whose(self, group: str, process: Process) -> Worker | None:
        """The worker of that group whose tree the process is in; None if it is in none."""
        tree = self._containment.whose(process)
        run = self._by_tree.get(tree) if tree is not None else None
        return run.worker if run is not None and run.group == group else None

    def last_lines(self, group: str, worker: Worker) -> str:
        """The end of what it has written to stderr so far, as far as that can be had."""
        run = self._runs.get((group, worker))
        if run is None:
            return ""
        run.attached.drain()
        return run.attached.stderr_tail()

    def remains(self, group: str, worker: Worker) -> str:
        """What is left of a worker, in words: pid, name, state, wait channel and kernel stack of each."""
        run = self._runs.get((group, worker))
        if run is None:
            return ""
        return ", ".join(map(_closely, self._containment.remains(run.tree, run.strays)[:_DESCRIBED]))

    # ---- signalling

    def signal(self, group: str, workers: Sequence[Worker], signal: int, reach: Reach) -> None:
        """Send ``signal``, and SIGCONT behind it, so that a stopped process can act on it.

        ``leader``: the worker's own process; ``group``: its process group; ``tree``: at once its process group, and as
        soon as they are found all its descendants elsewhere, also those that appear while we look. What outlives its
        leader is reached in any case. Workers that are gone, or not started, are passed over.
        """
        runs = [run for worker in workers if (run := self._runs.get((group, worker))) is not None]
        for run in runs:
            if not run.tree.leader_reaped:
                run.signal = signal
                run.asked = run.asked or not run.ended
            if reach == "tree" or run.tree.leader_reaped:
                run.killed = run.killed or signal == signals.SIGKILL
        self._in_slices(partial(self._send, runs, signal, reach))  # a crowd that wakes to die takes the processors

    def _send(self, runs: Sequence[_Run], signal: int, reach: Reach) -> Iterator[None]:
        led: set[Tree] = set()
        for number in (signal,) if signal in NOT_CONTINUED else (signal, signals.SIGCONT):
            for run in runs:
                if not run.tree.leader_reaped:
                    _send_led(run, number, reach)
                    led.add(run.tree)
                yield
        scattered = [run for run in runs if reach == "tree" or run.tree not in led]
        if scattered:
            # A walk over /proc costs as much as ending a crowd does: first let those go who needed no more than this.
            after = CROWD_LEAVES if len(scattered) > CROWD else 0.0
            self._loop.call_later(after, self._pursue, scattered, signal, led)

    def _pursue(self, runs: Sequence[_Run], signal: int, reached: Collection[Tree]) -> None:
        """Signal what is alive of these outside the process groups of ``reached``."""
        trees = {run.tree for run in runs if self._runs.get((run.group, run.worker)) is run}
        if trees:
            self._in_slices(partial(self._chase, trees, signal, reached))

    def _chase(self, trees: set[Tree], signal: int, reached: Collection[Tree]) -> Generator[None, None, None]:
        """While it kills, nobody else may: see ``Sessions.pursue``."""
        if signal == signals.SIGKILL:
            self._chased |= trees
        try:
            yield from self._containment.pursue(trees, signal, reached)
        finally:
            if signal == signals.SIGKILL:
                self._chased -= trees

    def _in_slices(self, work: Callable[[], Iterator[None]], steps: Iterator[None] | None = None) -> None:
        """Do the work, letting the loop turn after every ``SLICE`` seconds; from the beginning if it fails for want."""
        until = self._loop.time() + SLICE
        steps = work() if steps is None else steps
        try:
            for _ in steps:
                if self._loop.time() >= until:
                    self._after_turns(TURNS, partial(self._in_slices, work, steps))
                    return
        except OSError as error:
            if error.errno not in _SHORTAGE:
                raise
            self._loop.call_later(_SHORT_FOR, self._in_slices, work)

    def _after_turns(self, turns: int, work: Callable[[], None]) -> None:
        self._loop.call_soon(*((self._after_turns, turns - 1, work) if turns > 1 else (work,)))

    def kill_all(self) -> None:
        """Start nothing more, and send SIGKILL to every worker's whole tree, whoever's it is."""
        self._queue.clear()
        for group, worker in list(self._runs):
            self.signal(group, (worker,), signals.SIGKILL, "tree")

    @property
    def all_are_gone(self) -> bool:
        """No worker is left, nor anything of one: what could not be killed is still there."""
        return not self._runs

    async def all_gone(self) -> None:
        """Returns when no worker is left."""
        while self._runs:
            self._emptied.clear()
            await self._emptied.wait()

    def close(self) -> None:
        """Watch no more, and close what is open. Workers that are still there are left alone."""
        self._queue.clear()
        if self._looking is not None:
            self._looking.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        for run in self._runs.values():
            if run.pidfd >= 0:
                self._forget_pidfd(run)
            self._containment.close(run.tree)
            run.attached.close()
        self.spawner.close()
        self._witness.close()
        self._runs.clear()
        self._by_tree.clear()
        self._ended.clear()
        self._watched.clear()


def _send_led(run: _Run, signal: int, reach: Reach) -> None:
    """Signal a leader that is not reaped, so that its number is its own, or the group that it cannot leave."""
    with suppress(*OUT_OF_REACH):
        if reach == "leader":
            signals.pidfd_send_signal(run.pidfd, signal)
        else:
            os.killpg(run.tree.leader, signal)


def _closely(process: Process) -> str:
    channel, stack = wait_channel(process.pid), kernel_stack(process.pid, process.pid)
    waits = f", waits in {channel}" if channel else ""
    return f"{process} (state {process.state}{waits}{f': {stack}' if stack else ''})"


def _exit_status(raw: int, usage: resource.struct_rusage) -> ExitStatus:
    """``max_rss_bytes`` is never below what we used when we started it: exec(2) counts the image that it replaces."""
    killed = os.WIFSIGNALED(raw)
    return ExitStatus(
        code=None if killed else os.WEXITSTATUS(raw),
        signal=os.WTERMSIG(raw) if killed else None,
        core_dumped=killed and os.WCOREDUMP(raw),
        max_rss_bytes=usage.ru_maxrss * 1024,
        user_cpu_s=usage.ru_utime,
        system_cpu_s=usage.ru_stime,
    )
