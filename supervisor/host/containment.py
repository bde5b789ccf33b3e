"""Which processes belong to a worker, and whether any is left, by session, descent and an inherited mark.

A worker leads a session of its own, so its descendants can be told by their session, until they leave it (setsid(2)).
They can be told by descent, until a parent dies. Where orphans come to us (PR_SET_CHILD_SUBREAPER), whatever outlives a
worker has a topmost process that is our child: one read of our list of children then says whether anything is left of
a thousand workers, and what has left both session and parents is known by the mark in its environment.

Numbers of processes are reused: only a child of ours that nobody but us waits for keeps its own. Everything else is
known by number and start time, and signalled through ``proc.send``.
"""

from __future__ import annotations

import os
import select
import signal as signals
import time
from collections.abc import Callable, Collection, Generator, Sequence
from typing import NamedTuple

from supervisor.host.proc import Ended, Process, inherited, open_proved, processes, read_process, send
from supervisor.plan import Resources

MARK = "RANKD_TREE"
"""The variable that carries the mark: a path, outermost first, when a worker is itself a supervisor of workers."""

_PR_SET_CHILD_SUBREAPER = 36
_PASSES = 16
_LOOKS_FOR = 0.05  # seconds, with more dead orphans than can be reaped in these, until others have their turn
_READS_A_STEP = 64
_ROUNDS = 8
_ROUNDS_OF_A_BOMB = 64


def become_subreaper() -> None:
    """Orphans among our descendants become our children instead of init's, existing descendants included (prctl(2)).

    Raises ``OSError``. Imports ctypes, which costs several ms: a daemon may do this when its first workers run.
    """
    import ctypes  # noqa: PLC0415 - the only use of it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Orphan(NamedTuple):
    """A child of ours that we did not start, as it was when first seen, and the tree that it came from."""

    process: Process
    owner: Tree | None


class Alarm(NamedTuple):
    """A descriptor that has one of ``events`` (epoll(7)) when it is time to look again. Whoever gets it closes it."""

    fd: int
    events: int


class Tree:
    """One worker's processes: its leader, named by its pid, and whatever came of it.

    ``leaf``: the path of its control group; empty where it has none.
    """

    __slots__ = ("leader", "leader_reaped", "leaf", "mark")

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.leaf = ""
        self.leader = 0
        self.leader_reaped = False


class Sessions:
    """The trees of all workers, told apart without cgroups.

    ``adopts``: orphans become our children. Without it (a library in somebody else's process) what has left its session
    and lost its parent is looked for by its mark, and not found if it has written over its environment.
    """

    controllers: frozenset[str] = frozenset()
    """Of control groups: what can be limited for a worker's whole tree."""
    ground = ""
    """The control group that has those of the workers; empty: they have none."""
    earlier = Ended()
    """What an earlier daemon had left in our place, and was killed."""

    cut_short = False
    """Whether the last look at what is ``left`` took too long: orphans may have died who were not looked at."""

    def __init__(
        self, *, adopts: bool, unclaimed: Callable[[Process], None], flavour: str = "session and subreaper"
    ) -> None:
        """``unclaimed`` is told of each orphan that came alive and belongs to no tree; we reap it all the same."""
        self.flavour = flavour
        self._adopts = adopts
        self._unclaimed = unclaimed
        self._me = os.getpid()
        self._session = os.getsid(0)
        me = read_process(self._me)
        self._began_at = me.started if me is not None else 0  # whatever is older is none of ours
        outer = os.environ.get(MARK)
        self._mark = f"{outer}/{os.urandom(6).hex()}" if outer else os.urandom(6).hex()
        self._opened = 0
        self._by_mark: dict[str, Tree] = {}
        self._by_leader: dict[int, Tree] = {}
        self._leaders: set[int] = set()
        self._orphans: dict[int, Orphan] = {}
        self._others: set[int] = set()
        self._inherited: set[int] = set()

    @property
    def mark(self) -> str:
        """What is common to the marks of all trees: the last part of each, up to its dot."""
        return self._mark.rpartition("/")[2]

    # ---- one tree's life

    # What goes unused below is of use where a tree has a control group.

    def open(self, name: str = "", wanted: Resources | None = None, local_rank: int = 0) -> Tree:  # noqa: ARG002
        """A tree for a worker about to be spawned, which must see ``MARK=tree.mark`` in its environment.

        ``name`` is for people; of what is ``wanted``, only limits of whole trees are meant here: see ``controllers``.
        """
        self._opened += 1
        tree = Tree(f"{self._mark}.{self._opened}")
        self._by_mark[tree.mark.rpartition("/")[2]] = tree
        return tree

    def spawned(self, tree: Tree, leader: int) -> None:
        """The worker runs as the process ``leader``, our child, which only ``reaped`` ends."""
        tree.leader = leader
        self._by_leader[leader] = tree
        self._leaders.add(leader)

    def reaped(self, tree: Tree) -> None:
        """The worker's own process has been waited for: its number is not its own any more."""
        tree.leader_reaped = True
        self._leaders.discard(tree.leader)

    def close(self, tree: Tree) -> None:
        """Nothing is left of the tree, or nothing ever was."""
        del self._by_mark[tree.mark.rpartition("/")[2]]
        if self._by_leader.get(tree.leader) is tree:
            del self._by_leader[tree.leader]

    def leave_alone(self, pid: int) -> None:
        """The child ``pid`` of ours is somebody else's to wait for. Needed only for one that has left our session."""
        self._others.add(pid)

    def adopt_children(self) -> None:
        """What are our children now came with us through exec(2): nobody else knows of them, and waits for them."""
        self._inherited = self._strange_children()

    # ---- what is left

    def left(self, ended: Collection[Tree]) -> dict[Tree, list[Process]]:
        """Of trees whose leader is reaped: those that still have living processes, and the topmost of these.

        Reaps every orphan that has died. Raises ``OSError`` when we are short of descriptors: ask again later.
        """
        if not self._adopts:
            return self._left_unadopted(ended)
        self.cut_short = True
        until = time.monotonic() + _LOOKS_FOR
        for _ in range(_PASSES):
            left: dict[Tree, list[Process]] = {}
            dead: list[Orphan] = []
            for pid in self._strange_children():
                if time.monotonic() > until:  # a fork bomb: whose are those that were not looked at?
                    return {tree: [] for tree in ended} | left
                orphan = self._orphan(pid)
                if orphan is None:
                    continue
                if _reap(pid):
                    del self._orphans[pid]
                    dead.append(orphan)
                elif orphan.owner is None and not _is_alive(pid):
                    dead.append(orphan)
                elif orphan.owner is not None and orphan.owner in ended:
                    left.setdefault(orphan.owner, []).append(orphan.process)
            if not dead:
                self.cut_short = False
                return left
            # the children of what was reaped are ours now, and may not have been in the list that was read
        # They end and leave a child faster than can be looked at; a dead one no longer tells whose it was.
        return {tree: [] for tree in ended} | left

    def members(self, trees: Collection[Tree]) -> Generator[None, None, dict[Tree, list[Process]]]:
        """Everything alive of these trees but leaders that are not reaped; yields now and then to let others run.

        Raises ``OSError`` like ``left``.
        """
        census: dict[int, Process] = {}
        for count, process in enumerate(processes(besides=self._leaders)):
            census[process.pid] = process
            if not count % _READS_A_STEP:
                yield
        owners: dict[int, Tree | None] = {pid: self._by_leader[pid] for pid in self._leaders}
        owners[self._me] = None
        found: dict[Tree, list[Process]] = {}
        for process in census.values():
            owner = self._owner(process, census, owners)
            if owner is not None and owner in trees and not process.dead:
                found.setdefault(owner, []).append(process)
        return found

    def pursue(self, trees: Collection[Tree], signal: int, reached: Collection[Tree]) -> Generator[None, None, None]:
        """Signal what is alive of ``trees`` outside the process groups of ``reached``, until nothing new is found.

        Of those that go on to multiply, whoever is killed makes room for two under the limit that bounds them. So what
        appears while we kill is only stopped at first, which keeps its place, and killed when nothing new appears.
        """
        sent: set[tuple[int, int]] = set()
        held: list[Process] = []
        for count in range(_ROUNDS if signal != signals.SIGKILL else _ROUNDS_OF_A_BOMB):
            found = yield from self.members(trees)
            new = [
                process
                for tree, processes in found.items()
                for process in processes
                if process.identity not in sent and not (tree in reached and process.group == tree.leader)
            ]
            holds = count > 0 and signal == signals.SIGKILL
            held += new if holds else []
            for process in new:
                send(process, signals.SIGSTOP if holds else signal)
                sent.add(process.identity)
                yield
            if not new:
                break
        for process in held:
            send(process, signals.SIGKILL)
            yield

    def alarm(self, tree: Tree, strays: Sequence[Process]) -> Alarm | None:  # noqa: ARG002
        """When to look again at a tree of which these are left; None for at once."""
        pidfd = next((fd for fd in map(open_proved, strays) if fd is not None), None)
        return None if pidfd is None else Alarm(pidfd, select.EPOLLIN)

    def oom_kills(self, tree: Tree) -> int:  # noqa: ARG002
        """How many of the tree's processes the kernel is known to have killed for memory."""
        return 0

    def remains(self, tree: Tree, strays: Sequence[Process]) -> list[Process]:
        """Without a walk over /proc: what of the tree is there now, if these were found last."""
        remains = [] if tree.leader_reaped else [read_process(tree.leader)]
        remains += [read_process(stray.pid) for stray in strays]
        known = {stray.identity for stray in strays}
        return [one for one in remains if one is not None and (one.pid == tree.leader or one.identity in known)]

    def give_back(self) -> None:
        """The end: what was taken for containment is as it was found."""

    # ---- whose is it

    def whose(self, process: Process) -> Tree | None:
        """The tree of this one process, a leader that is not reaped included: by its ancestors, read one by one."""
        line: dict[int, Process] = {}
        at: Process | None = process
        while at is not None and at.pid not in line:
            line[at.pid] = at
            at = read_process(at.parent) if at.pid not in self._leaders and at.parent != self._me else None
        owners: dict[int, Tree | None] = {pid: self._by_leader[pid] for pid in self._leaders & line.keys()}
        owners[self._me] = None
        return self._owner(process, line, owners)

    def _owner(self, process: Process, census: dict[int, Process], owners: dict[int, Tree | None]) -> Tree | None:
        line = []
        at: Process | None = process
        owner: Tree | None = None
        while at is not None and owner is None:
            if at.pid in owners:
                owner = owners[at.pid]
                break
            line.append(at.pid)
            owners[at.pid] = None  # parents of processes read one after the other may seem to go round in a circle
            if self._adopts and at.parent == self._me:
                orphan = self._orphan(at.pid)
                owner = orphan.owner if orphan else None
                break
            by_mark = not self._adopts and at.started >= self._began_at
            owner = (self._by_evidence(at) if by_mark else self._by_session(at)) or owners.get(at.parent)
            at = census.get(at.parent)
        owners.update(dict.fromkeys(line, owner))
        return owner

    def _orphan(self, pid: int) -> Orphan | None:
        """What came to us under that number; None for a child of our own.

        Its owner is looked for until it is found, and stays the same then, whatever becomes of its environment.
        """
        known = self._orphans.get(pid)
        if known is not None and known.owner is not None:
            return known
        process = read_process(pid)
        if process is None or process.parent != self._me or pid in self._others:
            return None
        came_with_us = pid in self._inherited
        if process.session == self._session and not came_with_us:
            return None  # setsid(2) gives no way back: no descendant of a worker is in there
        orphan = self._orphans[pid] = Orphan(process, self._by_evidence(process))
        if orphan.owner is None and known is None and not came_with_us and _is_alive(pid):
            self._unclaimed(process)  # of a dead one nothing can be known, and nothing needs to be
        return orphan

    def _by_evidence(self, process: Process) -> Tree | None:
        mark = "" if process.dead else inherited(process.pid, MARK)
        for part in reversed(mark.split("/")):
            if part in self._by_mark:
                return self._by_mark[part]
        return None if mark else self._by_session(process)

    def _by_session(self, process: Process) -> Tree | None:
        """The tree whose leader founded the session.

        A session's number is given to no process while the session has members (fork in POSIX; Linux counts sessions
        as it does groups). So whoever has a reaped leader's number now got it when that session was empty.
        """
        tree = self._by_leader.get(process.session)
        if tree is not None and tree.leader_reaped and read_process(tree.leader) is not None:
            return None
        return tree

    def _left_unadopted(self, ended: Collection[Tree]) -> dict[Tree, list[Process]]:
        left: dict[Tree, list[Process]] = {}
        for process in processes(besides=self._leaders):
            if not process.dead and process.started >= self._began_at:
                owner = self._by_evidence(process)
                if owner is not None and owner in ended:
                    left.setdefault(owner, []).append(process)
        return left

    def _strange_children(self) -> set[int]:
        """Our children that are not workers. Orphans come to the main thread as long as it lives (exit(2), kernel)."""
        try:
            with open(f"/proc/self/task/{self._me}/children", "rb", buffering=0) as file:
                children = set(map(int, file.readall().split()))
        except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
            children = {process.pid for process in processes(besides=()) if process.parent == self._me}
        self._others &= children
        self._inherited &= children
        for pid in self._orphans.keys() - children:
            del self._orphans[pid]  # somebody else has waited for it
        return children - self._leaders - self._others


def _is_alive(pid: int) -> bool:
    """False also for one on its way out, which has no memory any more, and so no environment to know it by."""
    process = read_process(pid)
    if process is None or process.dead:
        return False
    try:
        os.readlink(f"/proc/{pid}/exe")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:  # another user's: not for us to see
        pass
    return True


def _reap(pid: int) -> bool:
    """Whether the child ``pid`` has ended; it is waited for, then."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
