"""Starts that wait for the disk of their logs, which may not answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.core.messages import Worker
from supervisor.host import landing as under_test
from supervisor.host.apart import Apart
from supervisor.host.landing import Landing, Start
from supervisor.host.spawn import Identity, NotStarted
from supervisor.plan import WorkerPlan

A, B = Worker(0, 1), Worker(1, 1)


def no_plan() -> WorkerPlan:
    raise AssertionError("it is made when its turn has come")


class Told:
    def __init__(self) -> None:
        self.begun: list[tuple[str, list[Worker]]] = []
        self.refused: list[tuple[str, Worker, str]] = []
        self.changed = asyncio.Event()
        self._apart = Apart()
        self.landing = Landing(self._apart, self._begin, self._refuse)

    def _begin(self, group: str, starts: Iterable[Start]) -> None:
        self.begun.append((group, [worker for worker, _ in starts]))
        self.changed.set()

    def _refuse(self, group: str, worker: Worker, why: str) -> None:
        self.refused.append((group, worker, why))
        self.changed.set()

    def close(self) -> None:
        self.landing.close()
        self._apart.close()

    def wait(self, group: str, directory: Path, *workers: Worker) -> None:
        self.landing.wait(group, str(directory.parent), str(directory), [(worker, no_plan) for worker in workers])


class Hanging:
    """A disk whose every answer is waited for until ``answer`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer = threading.Event()
        self.asked = threading.Event()
        monkeypatch.setattr(under_test, "make_directory", self._make)

    def _make(self, _path: str, _identity: Identity) -> None:
        self.asked.set()
        self.answer.wait(20)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    disk = Hanging(monkeypatch)
    yield disk
    disk.answer.set()


async def test_starts_begin_when_their_first_directory_could_be_made(tmp_path: Path) -> None:
    told = Told()
    with closing(told):
        told.wait("g", tmp_path / "attempt_1" / "0", A, B)
        assert not told.begun
        assert not told.landing.clear.is_set()
        await asyncio.wait_for(told.changed.wait(), 20)
        assert told.begun == [("g", [A, B])]
        assert told.landing.clear.is_set()
    assert (tmp_path / "attempt_1" / "0").is_dir()


async def test_what_is_wrong_with_a_directory_is_left_to_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: str, _identity: Identity) -> None:
        raise NotStarted("permanent", "no")

    monkeypatch.setattr(under_test, "make_directory", refuse)
    told = Told()
    with closing(told):
        told.wait("g", tmp_path / "0", A)
        await asyncio.wait_for(told.changed.wait(), 20)
        assert told.begun == [("g", [A])]


async def test_a_start_is_refused_when_no_answer_comes_and_does_not_begin_when_it_does(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "PATIENCE", 0.01)
    told = Told()
    with closing(told):
        told.wait("g", tmp_path / "0", A)
        await asyncio.wait_for(told.changed.wait(), 20)
        assert told.refused == [("g", A, f"{tmp_path}/0: the disk does not answer")]
        hanging.answer.set()
        await asyncio.wait_for(told.landing.clear.wait(), 20)
        assert not told.begun


async def test_nobody_else_waits_for_long_for_a_start_whose_disk_hangs(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "STUCK_AFTER", 0.01)
    told = Told()
    with closing(told):
        told.wait("g", tmp_path / "0", A)
        await asyncio.wait_for(told.landing.clear.wait(), 20)
        assert not told.begun
        hanging.answer.set()
        await asyncio.wait_for(told.changed.wait(), 20)


async def test_an_abandoned_start_is_named_and_never_begins_and_those_of_others_do(
    tmp_path: Path, hanging: Hanging
) -> None:
    told = Told()
    with closing(told):
        told.wait("g", tmp_path / "0", A, B)
        told.wait("other", tmp_path / "1", A)
        assert told.landing.abandon("g") == [A, B]
        assert told.landing.abandon("g") == []
        hanging.answer.set()
        await asyncio.wait_for(told.changed.wait(), 20)
        assert told.begun == [("other", [A])]


async def test_after_its_end_nothing_begins(tmp_path: Path, hanging: Hanging) -> None:
    told = Told()
    told.wait("g", tmp_path / "0", A)
    hanging.asked.wait(20)
    hanging.answer.set()
    told.close()
    await asyncio.sleep(0)
    assert not told.begun
