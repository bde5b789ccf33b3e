"""Hooks: chosen records are handed to a command or a webhook, each hook in order and at its own pace.

Nobody waits for a hook. What it has not got to is in a queue that is bounded; a record that finds it full is not
delivered, and counted. What is told of hooks themselves goes to no hook.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import anyio
from anyio.abc import TaskGroup

from supervisor import clock
from supervisor.core import events
from supervisor.core.events import Event
from supervisor.plan import HookPlan

LONGEST_PAUSE = 60.0
"""Seconds: pauses between tries double up to this."""

Deliver = Callable[[HookPlan, bytes, Event], Awaitable[tuple[str, bool]]]
"""Try once: what went wrong ("" for nothing), and whether trying again is of use. Does not raise."""


@dataclass(frozen=True, slots=True)
class _Told:
    seq: int
    record: Event | bytes
    event: Event


class Hooks:
    """All hooks of a plan. ``hear`` whatever is told; ``run`` delivers it until it is cancelled."""

    def __init__(
        self,
        plans: Mapping[str, HookPlan],
        write: Callable[[Event, int], bytes],
        deliver: Deliver,
        tell: Callable[[Event], None],
        counts: dict[tuple[str, str], int],
    ) -> None:
        """``write`` gives a record's JSON; ``counts`` is by hook and outcome: delivered, failed, dropped."""
        self._deliver = deliver
        self._write = write
        self._tell = tell
        self._counts = counts
        self._hooks = [_Hook(name, plan) for name, plan in plans.items()]
        self._done = anyio.Event()
        self._done.set()
        self._tasks: TaskGroup | None = None

    def go_by(self, plans: Mapping[str, HookPlan]) -> None:
        """From here on the hooks are these. One that was there before keeps what waits for it; one that is no more
        delivers what it has heard, and hears nothing new."""
        heard = {hook.name: hook for hook in self._hooks if hook.hears}
        for name in heard.keys() - plans.keys():
            heard[name].hears = False
            heard[name].news.set()
        for name, plan in plans.items():
            if name in heard:
                heard[name].plan = plan
            else:
                self._hooks.append(_Hook(name, plan))
                if self._tasks is not None:
                    self._tasks.start_soon(self._work, self._hooks[-1])

    def hear(self, seq: int, record: Event | bytes, event: Event) -> None:
        """Put a record into the queue of every hook that wants it."""
        if event.name == events.HOOK_FAILED:
            return
        for hook in self._hooks:
            if not hook.wants(event):
                continue
            if len(hook.queue) < hook.plan.queue:
                hook.queue.append(_Told(seq, record, event))
                hook.news.set()
                if self._done.is_set():
                    self._done = anyio.Event()
            else:
                self._failed(hook, "dropped", f"its queue of {hook.plan.queue} is full: {event.name} is not delivered")

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for hook in self._hooks:
                tasks.start_soon(self._work, hook)
            await anyio.sleep_forever()

    async def finish(self, within: float) -> None:
        """Wait until everything is delivered; what is not by then is told as undelivered. ``run`` must go on."""
        with anyio.move_on_after(within):
            await self._done.wait()
        for hook in self._hooks:
            if left := len(hook.queue):
                self._failed(hook, "dropped", f"{left} records are not delivered: rankd ends", left)

    async def _work(self, hook: _Hook) -> None:
        while True:
            while hook.queue:
                await self._hand_over(hook, hook.queue[0])
                hook.queue.popleft()
            hook.is_silent = False
            if not any(other.queue for other in self._hooks):
                self._done.set()
            if not hook.hears:
                self._hooks.remove(hook)
                return
            hook.news = anyio.Event()
            await hook.news.wait()

    async def _hand_over(self, hook: _Hook, told: _Told) -> None:
        record = told.record if isinstance(told.record, bytes) else self._write(told.record, told.seq)
        pause = hook.plan.backoff
        for tries_left in reversed(range(hook.plan.retries + 1)):
            wrong, again = await self._deliver(hook.plan, record, told.event)
            if not wrong:
                self._counts[hook.name, "delivered"] += 1
                return
            if not (again and tries_left):
                break
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self._failed(hook, "failed", f"{told.event.name} is not delivered: {wrong}")

    def _failed(self, hook: _Hook, outcome: str, why: str, number: int = 1) -> None:
        """Count it; of a queue that stays full, only the first record is told."""
        self._counts[hook.name, outcome] += number
        if outcome == "dropped" and hook.is_silent:
            return
        hook.is_silent = outcome == "dropped"
        self._tell(events.daemon_hook_failed(clock.now(), hook.name, why))


class _Hook:
    """One hook and what waits for it. ``is_silent``: it has been told that its queue is full. ``hears`` no more: it is
    not in the configuration."""

    __slots__ = ("hears", "is_silent", "name", "news", "plan", "queue")

    def __init__(self, name: str, plan: HookPlan) -> None:
        self.name = name
        self.plan = plan
        self.queue: deque[_Told] = deque()
        self.news = anyio.Event()
        self.is_silent = False
        self.hears = True

    def wants(self, event: Event) -> bool:
        plan = self.plan
        if not self.hears or (plan.groups and event.group not in plan.groups):
            return False
        return any(fnmatchcase(event.name, pattern) for pattern in plan.events)
