"""Every worker that has a probe is asked by a task of its own, from its start to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio
from anyio.abc import TaskGroup

from supervisor import clock, values
from supervisor.core.messages import (
    Input,
    Worker,
    WorkerExited,
    WorkerNotStarted,
    WorkerReady,
    WorkerStarted,
    WorkerUnready,
)
from supervisor.core.probes import Tally, count, pause
from supervisor.host import ask
from supervisor.host.commands import Commands
from supervisor.plan import Probe, WorkerPlan


class Probes:
    """The questions to the workers of all groups. Lives in one event loop; its tasks are those of ``tasks``."""

    def __init__(
        self,
        tasks: TaskGroup,
        post: Callable[[str, Input], None],
        rules: Callable[[str], Probe | None],
        commands: Callable[[], Commands],
    ) -> None:
        """``post`` is given a group's name and an input for it. ``rules``: what the group's plan says of its probe by
        now; but each worker is asked where its own plan says. ``commands`` is called when a command is to be run."""
        self._tasks = tasks
        self._rules = rules
        self._post = post
        self._commands = commands
        self._expected: dict[tuple[str, Worker], WorkerPlan] = {}
        self._asking: dict[tuple[str, Worker], anyio.CancelScope] = {}

    def expect(self, group: str, worker: Worker, plan: WorkerPlan) -> None:
        """The worker is about to be started. Raises ``ValueError`` if it cannot be asked where its probe says."""
        if plan.probe is not None:
            check(plan.probe)
            self._expected[group, worker] = plan

    def hear(self, group: str, input: Input) -> None:
        """What becomes of a worker, as it is posted."""
        match input:
            case WorkerStarted(worker):
                plan = self._expected.pop((group, worker), None)
                if plan is not None:
                    scope = self._asking[group, worker] = anyio.CancelScope()
                    self._tasks.start_soon(self._watch, scope, group, worker, plan)
            case WorkerNotStarted(worker):
                self._expected.pop((group, worker), None)
            case WorkerExited(worker):
                asking = self._asking.pop((group, worker), None)
                if asking is not None:
                    asking.cancel()

    async def _watch(self, scope: anyio.CancelScope, group: str, worker: Worker, plan: WorkerPlan) -> None:
        tally = Tally()
        rules: Probe | None = None
        with scope:
            while True:
                asked_at = clock.now()
                if (newest := self._rules(group)) is not rules:
                    rules, plan = newest, _ruled(plan, newest)
                assert plan.probe is not None
                answer = await self._ask(group, plan, plan.probe)
                if answer.passed is not None:
                    tally, told = count(plan.probe, tally, answer.passed)
                    if told and answer.passed:
                        self._post(group, WorkerReady(worker, "probe"))
                    elif told:
                        self._post(group, WorkerUnready(worker, "probe", answer.reason, answer.output))
                await anyio.sleep(max(0.0, asked_at + pause(plan.probe, tally) - clock.now()))

    async def _ask(self, group: str, plan: WorkerPlan, probe: Probe) -> ask.Answer:
        if probe.exec:
            return await self._commands().ask(group, plan)
        if probe.http:
            return await ask.http(probe.http, probe.timeout)
        return await ask.tcp(probe.tcp, probe.timeout)


def _ruled(plan: WorkerPlan, rules: Probe | None) -> WorkerPlan:
    """Asked by these rules, where it is asked now."""
    if plan.probe is None or rules is None:
        return plan
    return replace(plan, probe=replace(rules, http=plan.probe.http, tcp=plan.probe.tcp, exec=plan.probe.exec))


def check(probe: Probe) -> None:
    """Raises ``ValueError`` when the address that a worker's environment has made of it is none."""
    if probe.http:
        values.http_url(probe.http)
    elif probe.tcp:
        values.tcp_address(probe.tcp)
