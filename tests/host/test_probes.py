"""Workers asked by their probes, each from its start to its end: what is posted, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from supervisor.core.messages import (
    ExitStatus,
    Input,
    Worker,
    WorkerExited,
    WorkerNotStarted,
    WorkerReady,
    WorkerStarted,
    WorkerUnready,
)
from supervisor.host import ask
from supervisor.host.ask import Answer
from supervisor.host.commands import Commands
from supervisor.host.probes import Probes
from supervisor.plan import LogRules, Probe, WorkerPlan

FIRST, SECOND = Worker(0, 0), Worker(0, 1)


class Asked:
    """Probes under test. ``answers`` are given in turn, the last one for ever; ``posted`` is what follows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> None:
        self.answers = list(answers)
        self.posted: list[Input] = []
        self.questions = 0
        self.addresses: set[str] = set()
        self._news = asyncio.Event()
        monkeypatch.setattr(ask, "tcp", self._tcp)

    async def _tcp(self, address: str, _within: float) -> Answer:
        self.questions += 1
        self.addresses.add(address)
        self._news.set()
        await anyio.lowlevel.checkpoint()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _post(self, group: str, input: Input) -> None:
        assert group == "g"
        self.posted.append(input)
        self._news.set()

    async def until(self, posted: int = 0, questions: int = 0) -> None:
        async with asyncio.timeout(10):
            while len(self.posted) < posted or self.questions < questions:
                self._news.clear()
                await self._news.wait()

    @asynccontextmanager
    async def asking(self, **probe: Any) -> AsyncIterator[Probes]:
        given: dict[str, Any] = {"tcp": "127.0.0.1:1", "interval": 0.1, **probe}
        self.plan = WorkerPlan(("true",), {}, "", "", LogRules("/"), 0, {}, probe=Probe(**given))
        async with anyio.create_task_group() as tasks:
            yield Probes(tasks, self._post, lambda _: self.plan.probe, no_commands)
            tasks.cancel_scope.cancel()


def no_commands() -> Commands:
    raise AssertionError("nobody is asked by a command here")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_worker_is_asked_from_its_start_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asked = Asked(monkeypatch, Answer(False, "refused"), Answer(True), Answer(False, "busy", "last\nlines"))
        async with asked.asking(fall=2) as probes:
            probes.expect("g", FIRST, asked.plan)
            assert asked.questions == 0
            probes.hear("g", WorkerStarted(FIRST, 1))
            await asked.until(posted=2)
            assert asked.posted == [WorkerReady(FIRST, "probe"), WorkerUnready(FIRST, "probe", "busy", "last\nlines")]
            assert asked.questions == 4
            probes.hear("g", WorkerExited(FIRST, ExitStatus(0)))
            probes.hear("g", WorkerExited(FIRST, ExitStatus(0)))
            await anyio.wait_all_tasks_blocked()
            assert len(asyncio.all_tasks()) == 1, "nobody is left to ask it"

    run(main())


def test_other_rules_hold_from_the_next_question_on_and_the_address_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tally goes on: what was answered before counts."""

    async def main() -> None:
        asked = Asked(monkeypatch, Answer(True), Answer(False, "busy"))
        async with asked.asking(fall=1_000_000, interval=0.01) as probes:
            assert asked.plan.probe is not None
            probes.expect("g", FIRST, asked.plan)
            probes.hear("g", WorkerStarted(FIRST, 1))
            await asked.until(questions=4)
            assert asked.posted == [WorkerReady(FIRST, "probe")]
            asked.plan = replace(asked.plan, probe=replace(asked.plan.probe, fall=5, tcp="127.0.0.1:2"))
            await asked.until(posted=2)
            assert asked.posted[1] == WorkerUnready(FIRST, "probe", "busy", "")
            assert asked.addresses == {"127.0.0.1:1"}

    run(main())


def test_an_answer_on_its_way_when_the_worker_ends_is_never_posted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asked = Asked(monkeypatch, Answer(True))
        async with asked.asking() as probes:
            probes.expect("g", FIRST, asked.plan)
            probes.hear("g", WorkerStarted(FIRST, 1))
            await asked.until(questions=1)
            probes.hear("g", WorkerExited(FIRST, ExitStatus(0)))
            probes.expect("g", SECOND, asked.plan)
            probes.hear("g", WorkerStarted(SECOND, 2))
            await asked.until(posted=1)
            assert asked.posted == [WorkerReady(SECOND, "probe")]

    run(main())


def test_what_we_could_not_ask_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asked = Asked(monkeypatch, Answer(True), Answer(None), Answer(None), Answer(None), Answer(False, "busy"))
        async with asked.asking(fall=1) as probes:
            probes.expect("g", FIRST, asked.plan)
            probes.hear("g", WorkerStarted(FIRST, 1))
            await asked.until(posted=2)
            assert asked.posted[1] == WorkerUnready(FIRST, "probe", "busy")
            assert asked.questions == 5

    run(main())


def test_who_never_started_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        asked = Asked(monkeypatch, Answer(True))
        async with asked.asking() as probes:
            probes.expect("g", FIRST, asked.plan)
            probes.hear("g", WorkerNotStarted(FIRST, "transient", "EAGAIN"))
            probes.hear("g", WorkerStarted(FIRST, 1))
            await anyio.wait_all_tasks_blocked()
            assert asked.questions == 0

    run(main())


@pytest.mark.parametrize("probe", [{"tcp": "127.0.0.1:${PORT}"}, {"tcp": "", "http": "http://127.0.0.1:x/"}])
def test_who_cannot_be_asked_there_is_not_started(monkeypatch: pytest.MonkeyPatch, probe: dict[str, str]) -> None:
    async def main() -> None:
        asked = Asked(monkeypatch, Answer(True))
        async with asked.asking(**probe) as probes:
            with pytest.raises(ValueError, match="not an address to ask"):
                probes.expect("g", FIRST, asked.plan)

    run(main())
