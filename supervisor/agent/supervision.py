"""One run of a spec in the running loop: the daemon's core and hands, and what of them is different in a library."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from supervisor import clock
from supervisor.agent.calls import Calls, argv_of, pickled
from supervisor.agent.results import ProcessFailure, failure_of
from supervisor.agent.spec import MASTER_ADDR, WorkerSpec
from supervisor.core import groups
from supervisor.core.events import Event
from supervisor.core.groups import Begun, EndRequested
from supervisor.core.messages import EvidenceTaken, ToPeers, Worker, WorkerNotStarted
from supervisor.core.state import Group
from supervisor.errors import SupervisorBug
from supervisor.host.console import Console
from supervisor.host.containment import Sessions
from supervisor.host.landing import Start
from supervisor.host.output import Output
from supervisor.host.placing import own_variables
from supervisor.host.ports import PortClaim, PortRefused, claim_port, renew
from supervisor.host.process import Processes
from supervisor.logs_dest import Reifies, places_by
from supervisor.plan import (
    DaemonPlan,
    GroupPlan,
    Places,
    Reach,
    WorkerPlan,
    World,
    attempts_dir,
    group_environment,
    single_host_world,
    worker_plan,
    world_environment,
)
from supervisor.runtime import Runtime

FAREWELL = 0.4
"""Seconds that workers' last lines may take to be written to a slow console."""

LAST_WAIT = 5.0
"""Seconds that killed workers may take to be gone when a bug ends us."""


class Supervision:
    """Builds and wires the parts; also the hands of its runtime. Has to be awaited once, with ``supervise``."""

    def __init__(self, spec: WorkerSpec, plan: DaemonPlan, specs: Reifies | None = None) -> None:
        """``specs``: who says where output goes. Raises what pickling the spec's function and arguments raises."""
        self._spec = spec
        self._plan = plan
        self._specs = specs
        self._places: Mapping[int, Places] = {}
        (self._group,) = plan.groups.values()
        self._calls = pickled(spec)
        self._shared = group_environment(plan, self._group, os.environ)
        self._claim: PortClaim | None = None
        self._chance = random.Random()  # noqa: S311 - which port is nobody's secret
        self._failed: list[Event] = []
        state = groups.begin(plan, {self._group.name: self._chance.getrandbits(32)}, {}, clock.now())
        self._runtime = Runtime(state, self, self._tell, lambda _: None)

    @property
    def group(self) -> Group:
        """How the group stands now."""
        return self._runtime.state.groups[self._group.name]

    async def supervise(self) -> dict[int, Any]:
        """Until the group has finished; what its functions have returned, by global rank.

        A cancellation stops the workers first, as the stop ladder says, and a second one kills them; it is raised when
        they are gone. Raises ``SupervisorBug``, and ``RuntimeError`` for a value that cannot be unpickled.
        """
        with ExitStack() as stack:
            output = stack.enter_context(self._output())
            calls = Calls(output, self._calls)
            self._processes = Processes(
                self._runtime.post,
                calls if self._calls else output,
                Sessions(adopts=False, unclaimed=lambda _: None),
            )
            stack.callback(self._processes.close)
            stack.callback(self._runtime.close)
            # Somebody else's threads and working directory are not ours to borrow from.
            stack.enter_context(self._processes.spawner.beside_threads())
            await self._live()
        return {self.group.rank(rank): value for rank, value in calls.values().items()}

    def failures(self) -> dict[int, ProcessFailure]:
        """The workers of the last attempt that have failed, by global rank."""
        directory = attempts_dir(self._plan, self._group)
        found = {}
        for event in self._failed:
            fields = event.fields
            if fields["attempt"] != self.group.attempt:
                continue
            local_rank = fields["local_rank"]
            ended, places = self.group.ended.get(local_rank), self._places.get(local_rank)
            error_file = places.error_file if places is not None else None
            if error_file is None:
                error_file = f"{directory}/attempt_{fields['attempt']}/{local_rank}/error.json"
            status = ended.status if ended is not None else None
            found[fields["rank"]] = failure_of(event, status, error_file, int(clock.wall(event.at)))
        return found

    # ---- hands (see runtime.Hands)

    def form_world(self, group: str, attempt: int) -> World | str:  # noqa: ARG002
        fixed, addr = self._group.master_port, self._spec.master_addr or self._spec.local_addr or MASTER_ADDR
        claim = renew(self._claim, chance=self._chance) if self._claim else claim_port(fixed, chance=self._chance)
        if isinstance(claim, PortRefused):
            return f"no MASTER_PORT: {claim.reason}"
        self._claim = claim
        return single_host_world(self._group, attempt, addr, claim.port)

    def tell_peers(self, group: str, word: ToPeers) -> None:
        raise AssertionError(f"the workers of {group} are of one host, so there is nobody to be told {word}")

    def start(self, plan: GroupPlan, workers: Sequence[Worker], world: World, restarts: int) -> None:
        shared = self._shared | world_environment(world)

        def plan_of(worker: Worker) -> WorkerPlan:
            made = worker_plan(self._plan, plan, world, shared, worker.rank, attempt=worker.attempt, restarts=restarts)
            return replace(made, argv=argv_of(self._spec, worker.rank))

        starts: list[Start] = [(worker, partial(plan_of, worker)) for worker in workers]
        placed = starts if self._specs is None else self._placed(self._specs, starts)
        if not isinstance(placed, str):
            self._processes.enqueue(plan.name, placed)
            return
        for worker in workers:
            self._runtime.post(plan.name, WorkerNotStarted(worker, "transient", placed))

    def _placed(self, specs: Reifies, starts: list[Start]) -> list[Start] | str:
        """The starts with output where the caller's object says, or why it does not say so."""
        try:
            plans = {worker.rank: make() for worker, make in starts}
        except ValueError:
            return starts  # they cannot be started, and are told why by who tries
        try:
            self._places = places_by(specs, {rank: own_variables(plan) for rank, plan in plans.items()})
        except Exception as error:  # noqa: BLE001 - somebody else's code: whatever it raises is the reason
            return f"{type(specs).__qualname__}: {error}"
        return [(worker, partial(plans[worker.rank].placed, self._places[worker.rank])) for worker, _ in starts]

    def abandon(self, group: str) -> None:
        self._processes.abandon(group)

    def take_evidence(self, group: str, worker: Worker, reason: str) -> None:  # noqa: ARG002 - none is, here
        self._runtime.post(group, EvidenceTaken(worker, ""))

    def signal(self, group: str, workers: Sequence[Worker], signal: int, reach: Reach) -> None:
        self._processes.signal(group, workers, signal, reach)

    # ---- the run

    async def _live(self) -> None:
        starting = asyncio.create_task(self._processes.run())
        starting.add_done_callback(self._starting_ended)
        try:
            self._runtime.arrive(Begun())
            await self._over()
        finally:
            if self._claim is not None:
                self._claim.release()
            starting.cancel()
            await asyncio.wait([starting])

    async def _over(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        while not self._runtime.over.is_set():
            try:
                with anyio.CancelScope(shield=cancelled is not None):  # anyio says it again and again, asyncio once
                    await self._runtime.over.wait()
            except asyncio.CancelledError as again:
                hurry = cancelled is not None
                cancelled = cancelled or again
                self._runtime.arrive(EndRequested("the run was cancelled", hurry=hurry))
        if self._runtime.bug is not None:
            self._processes.kill_all()
            with anyio.move_on_after(LAST_WAIT, shield=True):
                await self._processes.all_gone()
            raise SupervisorBug(f"a bug in rankd itself: {self._runtime.bug!r}") from self._runtime.bug
        if cancelled is not None:
            raise cancelled

    def _starting_ended(self, starting: asyncio.Task[None]) -> None:
        if not starting.cancelled() and (bug := starting.exception()) is not None:
            self._runtime.fail(bug)

    def _tell(self, event: Event) -> None:
        if event.name == "worker.failed":
            self._failed.append(event)

    @contextmanager
    def _output(self) -> Iterator[Output]:
        """Consoles only if something is to be copied to them: else workers have the caller's own stdout and stderr."""
        logs = self._group.logs
        teed = self._specs is not None or any(logs.tee[rank] for rank in range(self._group.workers))
        out = Console(1) if teed else None
        err = out if out is None or os.path.sameopenfile(1, 2) else Console(2)
        output = Output(out, err)
        try:
            yield output
        finally:
            output.close()
            for console in {id(one): one for one in (out, err) if one is not None}.values():
                console.flush(FAREWELL)
                console.close()
