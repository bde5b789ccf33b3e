"""The loop's own selector: how long turns take, and since when what it finds may have been there."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Iterator
from typing import Any

import pytest

from supervisor import clock
from supervisor.host import turns as under_test
from supervisor.host.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    turns = Turns()
    yield turns
    turns.close()


def busy(seconds: float) -> None:
    until = clock.now() + seconds
    while clock.now() < until:
        pass


def test_a_turn_is_the_time_between_two_waits_and_waiting_is_none_of_it(turns: Turns) -> None:
    heard: list[float] = []
    turns.select(0)
    turns.heard = heard.append
    busy(0.02)
    turns.select(0.2)
    turns.select(0)
    assert len(heard) == 2
    assert heard[0] >= 0.02
    assert heard[1] < 0.2, "it had waited meanwhile"


def test_what_was_there_at_once_may_have_been_there_since_the_last_look(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "BLOCKED", 10.0)  # however long somebody else runs meanwhile
    reader, writer = os.pipe()
    try:
        turns.register(reader, 1)
        turns.select(0)
        looked_at = clock.now()
        busy(0.01)
        os.write(writer, b"x")
        assert turns.select(1)
        assert turns.pending_since <= looked_at
    finally:
        os.close(reader)
        os.close(writer)


def test_what_had_to_be_waited_for_has_only_just_happened(turns: Turns) -> None:
    turns.select(0)
    busy(0.01)
    waits_at = clock.now()
    assert not turns.select(0.05)
    assert turns.pending_since >= waits_at + 0.04


def test_a_loop_runs_on_it_and_is_not_woken_by_it() -> None:
    turns = Turns()
    heard: list[float] = []
    turns.heard = heard.append
    loop = asyncio.SelectorEventLoop(turns)
    try:
        loop.run_until_complete(asyncio.sleep(0.3))
    finally:
        loop.close()
    assert len(heard) < 10


def test_until_when_the_loop_ran_is_known_for_the_last_turn_and_the_last_wait(turns: Turns) -> None:
    turns.select(0)
    began_at = clock.now()
    busy(0.02)
    waits_at = clock.now()
    turns.select(0.05)
    assert turns.ran(began_at + 0.01) <= began_at, "a turn tells nothing before its end"
    assert waits_at <= turns.ran(waits_at + 0.02) < waits_at + 0.01, "nor does a wait"
    assert turns.ran(clock.now()) >= waits_at + 0.05
    assert turns.ran(began_at - 60) == float("-inf")


@pytest.mark.parametrize("timeout", [0.0003, 0.0017, 0.0105])
def test_no_wait_is_over_before_its_time(turns: Turns, timeout: float) -> None:
    for _ in range(10):
        began_at = clock.now()
        assert turns.select(timeout) == []
        assert clock.now() - began_at >= timeout


def test_what_comes_in_the_last_millisecond_of_a_wait_is_found(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    wait = select.select

    def write_and_wait(*words: Any) -> object:
        os.write(writer, b"x")
        return wait(*words)

    try:
        turns.register(reader, 1)
        monkeypatch.setattr(select, "select", write_and_wait)
        assert [key.fd for key, _ in turns.select(0.0005)] == [reader]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(("limit", "timeout"), [(0, 0.0005), (1024, 0), (1024, -1)])
def test_select_is_not_asked_where_it_cannot_answer_or_is_not_needed(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, limit: int, timeout: float
) -> None:
    def asked(*words: Any) -> None:
        raise AssertionError(words)

    monkeypatch.setattr(under_test, "FD_SETSIZE", limit)
    monkeypatch.setattr(select, "select", asked)
    assert turns.select(timeout) == []
