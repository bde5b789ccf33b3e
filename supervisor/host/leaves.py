"""Each worker's processes in a control group of its own: nothing leaves it by setsid(2), by losing its parent or its
environment, and one write kills it all.

What ``Sessions`` knows is kept: orphans are reaped by us, and named; and a worker that runs as our user may move itself
to another group, where it is told by descent, session and mark as everybody else is.
"""

from __future__ import annotations

import select
import signal as signals
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import suppress

from supervisor.host import cgroup
from supervisor.host.cgroup import NotDelegated
from supervisor.host.containment import Alarm, Sessions, Tree
from supervisor.host.ground import Ground
from supervisor.host.proc import Process
from supervisor.host.spawn import not_started
from supervisor.plan import Resources

_NAMED = 200  # bytes of a group's name in that of a leaf, which has 255 at most


def contain(unclaimed: Callable[[Process], None], wanted: Iterable[Resources]) -> Sessions:
    """The best containment that this process can have. In control groups, it is moved to one of its own.

    ``wanted``: what workers will be given, so that the controllers for it are turned on. Orphans are expected to come
    to us: see ``become_subreaper``.
    """
    found = cgroup.available()
    if isinstance(found, NotDelegated):
        return Sessions(adopts=True, unclaimed=unclaimed, flavour=cgroup.describe(found))
    controllers = {"memory"}  # which counts whom it kills
    for resources in wanted:
        controllers |= {needs for key, needs in cgroup.CONTROLLERS.items() if getattr(resources, key)}
        controllers |= {"cpuset"} if resources.cpus else set()
    try:
        ground = Ground(found, frozenset(controllers))
    except OSError as error:
        reason = f"{found.path} cannot be divided: {error.strerror}"
        return Sessions(adopts=True, unclaimed=unclaimed, flavour=cgroup.describe(NotDelegated(reason)))
    return Leaves(ground, unclaimed)


class Leaves(Sessions):
    """The trees of all workers, each with its leaf."""

    def __init__(self, ground: Ground, unclaimed: Callable[[Process], None]) -> None:
        super().__init__(adopts=True, unclaimed=unclaimed)
        self._ground = ground
        self.ground = ground.path
        self.controllers = ground.controllers
        self.flavour = f"cgroup v2 (controllers: {' '.join(sorted(ground.controllers)) or 'none'})"
        self.earlier = ground.earlier
        self._by_leaf: dict[str, Tree] = {}

    def open(self, name: str = "", wanted: Resources | None = None, local_rank: int = 0) -> Tree:
        """Raises ``NotStarted`` when there can be no leaf, or it cannot have the limits that are wanted."""
        try:
            leaf = self._ground.leaf(name[-_NAMED:])
        except OSError as error:
            raise not_started(f"a control group '{name}' cannot be made", error) from error
        for key, refusal in cgroup.limit(leaf, wanted or Resources(), local_rank, self.controllers):
            cgroup.remove(leaf)
            raise not_started(f"resources.{key} cannot be had", refusal)
        tree = super().open()
        tree.leaf = leaf
        self._by_leaf[leaf] = tree
        return tree

    def close(self, tree: Tree) -> None:
        super().close(tree)
        del self._by_leaf[tree.leaf]
        cgroup.remove(tree.leaf)  # else, with somebody in it, at our end or at the start of the next daemon

    def left(self, ended: Collection[Tree]) -> dict[Tree, list[Process]]:
        left = super().left(ended)
        for tree in ended:
            if cgroup.is_populated(tree.leaf):
                _add(left.setdefault(tree, []), cgroup.processes(tree.leaf))
        return {tree: found for tree, found in left.items() if found or cgroup.is_populated(tree.leaf)}

    def members(self, trees: Collection[Tree]) -> Generator[None, None, dict[Tree, list[Process]]]:
        found = yield from super().members(trees)
        for tree in trees:
            inside = [one for one in cgroup.processes(tree.leaf) if one.pid != tree.leader or tree.leader_reaped]
            if inside:
                _add(found.setdefault(tree, []), inside)
            yield
        return found

    def whose(self, process: Process) -> Tree | None:
        return self._by_leaf.get(self._ground.leaf_of(process.pid)) or super().whose(process)

    def pursue(self, trees: Collection[Tree], signal: int, reached: Collection[Tree]) -> Generator[None, None, None]:
        for tree in trees:
            if signal == signals.SIGKILL:
                try:
                    cgroup.kill(tree.leaf)
                except PermissionError:  # see cgroup._FORBIDDEN
                    yield from super().pursue({tree}, signal, reached)
            else:
                yield from cgroup.pursue(tree.leaf, signal, tree.leader if tree in reached else 0)
            yield

    def alarm(self, tree: Tree, strays: Sequence[Process]) -> Alarm | None:
        events = cgroup.watch(tree.leaf)
        return Alarm(events, select.EPOLLPRI) if events is not None else super().alarm(tree, strays)

    def oom_kills(self, tree: Tree) -> int:
        return cgroup.oom_kills(tree.leaf)

    def remains(self, tree: Tree, strays: Sequence[Process]) -> list[Process]:
        remains = super().remains(tree, strays)
        _add(remains, cgroup.processes(tree.leaf))
        return remains

    def _by_evidence(self, process: Process) -> Tree | None:
        """A dead process has no environment any more, but is in its group until it is waited for."""
        return self._by_leaf.get(self._ground.leaf_of(process.pid)) or super()._by_evidence(process)

    def give_back(self) -> None:
        with suppress(OSError):  # a worker that is our own user may have made its group unreadable: the next one cares
            self._ground.close()


def _add(processes: list[Process], more: Iterable[Process]) -> None:
    known = {process.pid for process in processes}
    processes += [process for process in more if process.pid not in known]
