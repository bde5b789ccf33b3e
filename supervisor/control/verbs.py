"""What may be asked of a daemon over its control socket: each verb checked against how things stand, then done at once.

A verb begins something and is answered; it waits for nothing but a reload. Whoever wants to see the end of it listens
to ``/events`` from ``seq`` on.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from supervisor import clock
from supervisor.core import events
from supervisor.core.events import Event, signal_name
from supervisor.core.groups import Arrival, DrainRequested, Groups, Of, UndrainRequested, missing_for, why_not_reload
from supervisor.core.messages import RankRequested, RunRequested, StopRequested, Worker
from supervisor.core.reload import compare
from supervisor.core.running import why_not_alone
from supervisor.core.state import Group, Phase
from supervisor.plan import DaemonPlan, Reach

OF_A_GROUP = ("start", "stop", "restart", "signal")
OF_THE_DAEMON = ("drain", "undrain", "reload")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks, by the kernel's word for it (SO_PEERCRED of unix(7))."""

    uid: int
    name: str


@dataclass(frozen=True, slots=True)
class Reply:
    """``status`` as in HTTP; ``body`` has ``error``, one sentence, unless it was done."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)


class Unreloaded(Protocol):
    """Why a reload was refused, and each mistake of the file."""

    @property
    def why(self) -> str: ...
    @property
    def mistakes(self) -> tuple[str, ...]: ...
    @property
    def fault(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Verbs:
    """``seq`` is the number of the last record told; ``signal`` reaches workers that run.

    ``read`` says what a configuration file has. ``look`` takes evidence of a group, these workers first:
    its path, or why there is none. ``hosts`` of a group are ``leader``, and under ``hosts`` how each stands, or under
    ``error`` why nobody knows.
    """

    state: Callable[[], Groups]
    arrive: Callable[[Arrival], None]
    tell: Callable[[Event], None]
    signal: Callable[[str, list[Worker], int, Reach], None]
    reload: Callable[[], Awaitable[Unreloaded | None]]
    set_workers: Callable[[str, int], Awaitable[Unreloaded | None]]
    seq: Callable[[], int]
    hosts: Callable[[str], Awaitable[Mapping[str, Any]]]
    read: Callable[[str], Awaitable[DaemonPlan | Unreloaded]]
    look: Callable[[str, list[Worker], str], Awaitable[tuple[str, str]]]

    async def plan(self, path: str, asker: Asker) -> Reply:
        """What a reload with that file would change. For those alone who may read what the daemon may."""
        if asker.uid not in (0, os.geteuid()):
            return _no(403, f"{asker.name} may not have this daemon read files")
        if not os.path.isabs(path):
            return _no(400, "the path of a file is absolute")
        plan = await self.read(path)
        if not isinstance(plan, DaemonPlan):
            return _unread(plan, "no plan")
        state = self.state()
        changes = compare(state.plan, plan)
        groups = {}
        for name in (*state.plan.groups, *changes.added):
            what, keys = changes.of(name)
            groups[name] = {"what": what, "keys": list(keys)}
        refused = why_not_reload(state, plan)
        return Reply(200, {"groups": groups, "applied": list(changes.applied), "refused": refused})

    async def dump(self, name: str, rank: str, asker: Asker) -> Reply:
        """See what a group's workers do, as before one that hangs is ended, and say where that is written."""
        group = self.state().groups.get(name)
        if group is None:
            return self._no_group(name)
        running = _running(group)
        firsts = [worker for worker in running if not rank or str(group.rank(worker.rank)) == rank]
        if not firsts:
            return _no(409, f"rank {rank} of group {name} does not run" if rank else f"no worker of group {name} runs")
        self._told("dump", asker, name, f"rank {rank}" if rank else "")
        path, why = await self.look(name, firsts, f"is looked at: asked by {asker.name} with `rankd dump`")
        return _no(503, f"group {name}: {why}") if why else Reply(200, {"path": path})

    async def scale(self, name: str, workers: str, asker: Asker) -> Reply:
        """Have a group go on with so many workers a host, until the file is read again."""
        state, seq = self.state(), self.seq()
        group = state.groups.get(name)
        if group is None:
            return self._no_group(name)
        if not _is_number(workers) or int(workers) < 1:
            return _no(400, "a number of workers is one from 1 on")
        if refusal := _why_not(state, group, "scale"):
            return _no(409, refusal)
        self._told("scale", asker, name, f"to {workers}")
        refused = await self.set_workers(name, int(workers))
        return (
            _unread(refused, "not scaled")
            if refused is not None
            else Reply(200, {"seq": seq, "attempt": group.attempt})
        )

    async def hosts_of(self, name: str) -> Reply:
        """Who leads a group's job, and how its hosts stand, read where they meet."""
        if name not in self.state().groups:
            return self._no_group(name)
        return Reply(200, await self.hosts(name))

    async def do(self, verb: str, asker: Asker) -> Reply:
        """A verb of the daemon's."""
        state, seq = self.state(), self.seq()
        if state.stage not in ("starting", "running"):
            return _no(409, f"the daemon is {state.stage}: {state.why}")
        self._told(verb, asker, None)
        if verb == "reload":
            refused = await self.reload()
            if refused is not None:
                return _unread(refused, "not reloaded")
        else:
            self.arrive(DrainRequested(asker.name) if verb == "drain" else UndrainRequested(asker.name))
        return Reply(200, {"seq": seq})

    def do_to(self, name: str, verb: str, options: Mapping[str, str], asker: Asker) -> Reply:
        """A verb of a group's."""
        state, seq = self.state(), self.seq()
        group = state.groups.get(name)
        if group is None:
            return self._no_group(name)
        if verb == "signal":
            return self._signal(group, options, asker)
        if "rank" in options:
            return self._do_to_rank(group, verb, options["rank"], asker)
        if refusal := _why_not(state, group, verb):
            return _no(409, refusal)
        self._told(verb, asker, name)
        match verb:
            case "stop":
                self.arrive(Of(name, StopRequested(f"stopped by {asker.name} with `rankd stop`", by=asker.name)))
            case "start":
                self.arrive(Of(name, RunRequested(f"asked by {asker.name} with `rankd start`")))
            case _:
                self.arrive(Of(name, RunRequested(f"asked by {asker.name} with `rankd restart`", anew=True)))
        return Reply(200, {"seq": seq, "attempt": group.attempt})

    def _do_to_rank(self, group: Group, verb: str, rank: str, asker: Asker) -> Reply:
        """Start or restart one rank. ``attempt`` is that of the worker that it has had."""
        name, anew = group.plan.name, verb == "restart"
        if verb == "stop" or not _is_number(rank):
            return _no(400, "one rank can be started and restarted; a rank is a number from 0 on")
        local = int(rank) - group.rank(0)
        if refusal := _why_not(self.state(), group, "start") or why_not_alone(group, local, anew):
            return _no(409, refusal)
        seq, slot, ended = self.seq(), group.live.get(local), group.ended.get(local)
        before = slot.worker.attempt if slot is not None else ended.worker.attempt if ended is not None else -1
        self._told(verb, asker, name, f"rank {rank}")
        self.arrive(Of(name, RankRequested(local, f"asked by {asker.name} with `rankd {verb}`", anew)))
        return Reply(200, {"seq": seq, "attempt": before})

    def _signal(self, group: Group, options: Mapping[str, str], asker: Asker) -> Reply:
        number, rank = options.get("signal", ""), options.get("rank", "")
        if not _is_number(number) or not 0 < int(number) <= 64 or (rank and not _is_number(rank)):
            return _no(400, "a signal is a number from 1 to 64, a rank one from 0 on")
        running = _running(group)
        reached = [worker for worker in running if not rank or group.rank(worker.rank) == int(rank)]
        if not reached:
            name = group.plan.name
            return _no(409, f"rank {rank} of group {name} does not run" if rank else f"no worker of group {name} runs")
        self._told("signal", asker, group.plan.name, f"{f'rank {rank} ' if rank else ''}{signal_name(int(number))}")
        self.signal(group.plan.name, reached, int(number), "leader")
        return Reply(200, {"seq": self.seq(), "ranks": [group.rank(worker.rank) for worker in reached]})

    def _no_group(self, name: str) -> Reply:
        return _no(404, f"there is no group {name}; there are: {', '.join(self.state().groups)}")

    def _told(self, verb: str, asker: Asker, group: str | None, details: str = "") -> None:
        self.tell(events.control_command(clock.now(), verb, asker.name, asker.uid, group, details))


def _running(group: Group) -> list[Worker]:
    return [slot.worker for slot in group.live.values() if slot.pid is not None and slot.status is None]


def _unread(refused: Unreloaded, what: str) -> Reply:
    status = {"file": 422, "host": 503}.get(refused.fault, 500)
    return Reply(status, {"error": f"{what}: {refused.why}", "mistakes": list(refused.mistakes)})


def _why_not(state: Groups, group: Group, verb: str) -> str:
    """Why that cannot be done to the group now; empty: it can."""
    name = group.plan.name
    if verb == "stop":
        return ""
    if state.stage not in ("starting", "running"):
        return f"the daemon is {state.stage}: {state.why}"
    if name in state.leaving:
        return f"the configuration has group {name} no more"
    if group.unkillable:
        ranks = ", ".join(str(group.rank(rank)) for rank in sorted(group.unkillable))
        return f"group {name} has workers that cannot be killed (rank {ranks}): their slots are not used again"
    if verb == "restart" and group.phase is not Phase.WAITING and (why := missing_for(state, name)):
        return f"group {name} could not start again: it {why}"
    return ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9


def _no(status: int, why: str) -> Reply:
    return Reply(status, {"error": why})
