"""Which records go to which hook, and what becomes of those that cannot be delivered."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio

from supervisor.core.events import HOOK_FAILED, Event
from supervisor.plan import HookPlan
from supervisor.report.hooks import Hooks

Answer = tuple[str, bool]
OK: Answer = ("", False)


class Delivered:
    """Hooks whose deliveries are written down. ``answers``: what each try meets with, else all goes well."""

    def __init__(self, **plans: HookPlan) -> None:
        self.tried: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        self.told: list[Event] = []
        self.counts: dict[tuple[str, str], int] = defaultdict(int)
        self.gate = anyio.Event()
        self.gate.set()
        self.hooks = Hooks(plans, self.write, self.deliver, self.tell, self.counts)
        self._seq = 0

    def write(self, event: Event, seq: int) -> bytes:
        return json.dumps({"event": event.name, "seq": seq}).encode()

    async def deliver(self, _plan: HookPlan, record: bytes, event: Event) -> Answer:
        await self.gate.wait()
        self.tried.append(json.loads(record))
        assert self.tried[-1]["event"] == event.name
        return self.answers.pop(0) if self.answers else OK

    def tell(self, event: Event) -> None:
        self.told.append(event)
        self.happen(event.name)

    def happen(self, name: str, group: str | None = None) -> None:
        self._seq += 1
        event = Event(name, "info", 0.0, "", group)
        self.hooks.hear(self._seq, event, event)

    @property
    def names(self) -> list[str]:
        return [record["event"] for record in self.tried]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver meanwhile, and at the end all that there is."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.hooks.run)
            yield
            await self.hooks.finish(10)
            tasks.cancel_scope.cancel()


def hook(*events: str, **options: Any) -> HookPlan:
    return replace(HookPlan(events or ("*",), command=("page",), backoff=0.0), **options)


async def test_a_hook_gets_the_records_it_asks_for_by_name_pattern_and_group() -> None:
    hooks = Delivered(page=hook("group.failed", "worker.*", groups=("web",)))
    async with hooks.running():
        for name, group in (
            ("group.failed", "web"), ("group.failed", "job"), ("group.ready", "web"), ("worker.exited", "web"),
            ("daemon.stopping", None),
        ):  # fmt: skip
            hooks.happen(name, group)
    assert hooks.tried == [{"event": "group.failed", "seq": 1}, {"event": "worker.exited", "seq": 4}]
    assert hooks.counts == {("page", "delivered"): 2}


async def test_a_record_that_is_written_already_is_handed_over_as_it_is() -> None:
    hooks = Delivered(page=hook())
    async with hooks.running():
        hooks.hooks.hear(7, b'{"event":"group.failed","seq":7}', Event("group.failed", "error", 0.0, ""))
    assert hooks.tried == [{"event": "group.failed", "seq": 7}]


async def test_what_fails_is_tried_again_in_order_and_then_given_up_with_a_record() -> None:
    hooks = Delivered(page=hook(retries=2))
    hooks.answers = [("exited with code 1", True)] * 2 + [OK] + [("exited with code 2", True)] * 3
    async with hooks.running():
        for name in ("group.ready", "group.failed", "group.stopped"):
            hooks.happen(name)
    assert hooks.names == ["group.ready"] * 3 + ["group.failed"] * 3 + ["group.stopped"]
    assert hooks.counts == {("page", "delivered"): 2, ("page", "failed"): 1}
    (told,) = hooks.told
    assert (told.name, told.message) == (HOOK_FAILED, "hook page: group.failed is not delivered: exited with code 2")


async def test_what_is_refused_for_good_is_not_tried_again() -> None:
    hooks = Delivered(page=hook(retries=5))
    hooks.answers = [("answered 404", False)]
    async with hooks.running():
        hooks.happen("group.failed")
    assert (len(hooks.tried), hooks.counts) == (1, {("page", "failed"): 1})


async def test_what_finds_the_queue_full_is_counted_and_told_once() -> None:
    hooks = Delivered(page=hook(queue=3), other=hook("group.stopped"))
    hooks.gate = anyio.Event()
    async with hooks.running():
        for _ in range(10):
            hooks.happen("group.ready")
        assert hooks.counts == {("page", "dropped"): 7}
        assert [event.fields["reason"] for event in hooks.told] == [
            "its queue of 3 is full: group.ready is not delivered"
        ]
        hooks.gate.set()
    assert hooks.counts["page", "delivered"] == 3


async def test_a_hook_that_hangs_keeps_no_other_waiting() -> None:
    hooks = Delivered(stuck=hook(), quick=hook())
    deliver: Callable[..., Any] = hooks.deliver

    async def one_hangs(plan: HookPlan, record: bytes, event: Event) -> Answer:
        if plan is hooks.hooks._hooks[0].plan:
            await anyio.sleep_forever()
        answer: Answer = await deliver(plan, record, event)
        return answer

    hooks.hooks._deliver = one_hangs
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hooks.hooks.run)
        hooks.happen("group.ready")
        await hooks.hooks.finish(0.1)
        tasks.cancel_scope.cancel()
    assert hooks.counts == {("quick", "delivered"): 1, ("stuck", "dropped"): 1}
    assert hooks.told[-1].message == "hook stuck: 1 records are not delivered: rankd ends"


async def test_under_another_configuration_a_hook_keeps_what_waits_and_goes_by_its_new_plan() -> None:
    hooks = Delivered(page=hook("group.failed"))
    hooks.happen("group.failed")
    hooks.happen("group.ready")
    hooks.hooks.go_by({"page": hook("group.ready")})
    hooks.happen("group.failed")
    async with hooks.running():
        hooks.happen("group.ready")
    assert [record["seq"] for record in hooks.tried] == [1, 4]


async def test_a_hook_that_is_no_more_delivers_what_it_has_heard_and_hears_nothing_new() -> None:
    hooks = Delivered(page=hook())
    hooks.gate = anyio.Event()
    async with hooks.running():
        hooks.happen("group.failed")
        await anyio.wait_all_tasks_blocked()
        hooks.hooks.go_by({})
        hooks.happen("group.stopped")
        hooks.gate.set()
        await anyio.wait_all_tasks_blocked()
        hooks.hooks.go_by({"page": hook("group.ready")})
        hooks.happen("group.ready")
    assert hooks.names == ["group.failed", "group.ready"]


async def test_a_hook_that_had_nothing_to_do_goes_and_another_one_comes_meanwhile() -> None:
    hooks = Delivered(page=hook())
    async with hooks.running():
        await anyio.wait_all_tasks_blocked()
        hooks.hooks.go_by({"chat": hook()})
        hooks.happen("group.failed")
    assert hooks.counts == {("chat", "delivered"): 1}
