"""Starts wait here until somebody else's class has said where the output of their attempt goes (``logs_dest``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from supervisor.core.events import Who
from supervisor.core.messages import Worker
from supervisor.host.apart import Apart
from supervisor.host.landing import Start
from supervisor.plan import CONTRACT, Places, WorkerPlan


class Placer(Protocol):
    """A child of ours that says where output goes."""

    @property
    def pid(self) -> int: ...

    def places(self, envs: Mapping[int, Mapping[str, str]]) -> Mapping[int, Places]:
        """Of workers with these variables, by local rank. May take its time; raises ``OSError`` with the reason."""


_WHOM = "logs specs"


class Placing:
    """Of attempts that are started as a whole: each is asked for once, and the next time when it is over."""

    def __init__(self, placer: Placer, apart: Apart, refuse: Callable[[str, Worker, str], None]) -> None:
        """``placer`` is asked by a thread of ``apart``; ``refuse`` is given each start for which there is no answer."""
        self._placer = placer
        self._apart = apart
        self._refuse = refuse
        self._waiting: dict[str, list[Start]] = {}
        self._places: dict[str, tuple[int, Mapping[int, Places]]] = {}

    def wait(self, group: str, starts: Iterable[Start], go_on: Callable[[Iterable[Start]], None]) -> None:
        """``go_on`` with these starts when it is known where their output goes."""
        waiting = self._waiting[group] = list(starts)
        try:
            plans = {worker.rank: make() for worker, make in waiting}
        except ValueError:
            self._waiting.pop(group)
            go_on(waiting)  # they cannot be started, and are told why by who tries
            return
        envs = {rank: own_variables(plan) for rank, plan in plans.items()}
        self._apart.do(_WHOM, partial(self._placer.places, envs), partial(self._answered, group, waiting, plans, go_on))

    def abandon(self, group: str) -> list[Worker]:
        """Those of the group that wait: none of them goes on."""
        return [worker for worker, _ in self._waiting.pop(group, [])]

    def of(self, who: Who) -> Places | None:
        """Where that worker's output went; None: nobody has said so, or it is too long ago."""
        attempt, places = self._places.get(who.group, (-1, {}))
        return places.get(who.local_rank) if attempt == who.attempt else None

    def _answered(
        self, group: str, waiting: list[Start], plans: Mapping[int, WorkerPlan],
        go_on: Callable[[Iterable[Start]], None], found: Mapping[int, Places] | OSError,
    ) -> None:  # fmt: skip
        if self._waiting.get(group) is not waiting:
            return  # abandoned
        self._waiting.pop(group)
        if isinstance(found, OSError):
            for worker, _ in waiting:
                self._refuse(group, worker, found.strerror or str(found))
            return
        self._places[group] = waiting[0][0].attempt, found
        go_on([(worker, partial(plans[worker.rank].placed, found[worker.rank])) for worker, _ in waiting])


def own_variables(plan: WorkerPlan) -> dict[str, str]:
    """What the worker is told beside what it inherits; torch's classes are not told more."""
    return {
        name: value
        for name, value in plan.env.items()
        if name != "TORCHELASTIC_ERROR_FILE" and (name in CONTRACT or os.environ.get(name) != value)
    }
