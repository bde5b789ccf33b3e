"""Whether to restart, and after what pause: a pure function of rules, history, the end and the instant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import restarts
from supervisor.core.messages import ExitStatus
from supervisor.core.restarts import End, Failed, History, Restart, Succeeded, decide, restarts_left
from supervisor.plan import Backoff, Policy, RestartRules


def verdict(
    rules: RestartRules, end: End = "failure", history: History | None = None, *, exit_code: int | None = 1,
    healthy_for: float = 0.0, now: float = 100.0, seed: int = 1,
) -> restarts.Verdict:  # fmt: skip
    return decide(rules, history or History(), end, exit_code=exit_code, healthy_for=healthy_for, now=now, seed=seed)


@pytest.mark.parametrize(
    ("policy", "success", "failure", "transient"),
    [
        ("on-failure", Succeeded, Restart, Restart),
        ("always", Restart, Restart, Restart),
        ("never", Succeeded, Failed, Failed),
    ],
)
def test_the_policy_decides_first(policy: Policy, success: type, failure: type, transient: type) -> None:
    rules = RestartRules(policy=policy)
    assert isinstance(verdict(rules, "success", exit_code=0), success)
    assert isinstance(verdict(rules, "failure"), failure)
    assert isinstance(verdict(rules, "transient", exit_code=None), transient)
    assert verdict(rules, "permanent", exit_code=None) == Failed("it can never start")


def test_success_is_an_exit_code_that_the_rules_call_one() -> None:
    rules = RestartRules(success_exit_codes=frozenset({0, 42}))
    ends = [restarts.end_of(rules, ExitStatus(code)) for code in (0, 42, 1)]
    assert ends == ["success", "success", "failure"]
    assert restarts.end_of(rules, ExitStatus(None, 15)) == "failure"


def test_a_fatal_exit_code_is_fatal_only_for_what_ran_and_failed() -> None:
    rules = RestartRules(policy="always", fatal_exit_codes=frozenset({0, 3}))
    assert verdict(rules, exit_code=3) == Failed("exit code 3 is fatal")
    assert isinstance(verdict(rules, "success", exit_code=0), Restart)
    assert isinstance(verdict(rules, exit_code=None), Restart)


def test_a_restart_is_counted_in_the_history_that_comes_with_it() -> None:
    rules = RestartRules(max_restarts=5, window=60.0)
    first = verdict(rules, now=100.0)
    assert first == Restart(0.0, History(used=1, spent_at=(100.0,), in_a_row=1))
    assert isinstance(first, Restart)
    assert verdict(rules, history=first.history, now=159.0) == Restart(0.0, History(2, (100.0, 159.0), 2))
    assert verdict(rules, history=first.history, now=160.0) == Restart(0.0, History(2, (160.0,), 2))


def test_what_is_left_is_said_for_every_kind_of_budget() -> None:
    history = History(used=5, spent_at=(10.0, 50.0), in_a_row=2)
    assert restarts_left(RestartRules(max_restarts=-1), history, 60.0) is None
    assert restarts_left(RestartRules(max_restarts=7), history, 60.0) == 2
    assert restarts_left(RestartRules(max_restarts=3), history, 60.0) == 0
    assert restarts_left(RestartRules(max_restarts=3, window=30.0), history, 60.0) == 2
    assert restarts_left(RestartRules(max_restarts=3, window=90.0), history, 60.0) == 1


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (RestartRules(max_restarts=0), "max_restarts is 0"),
        (RestartRules(max_restarts=1), "the one restart is used"),
        (RestartRules(max_restarts=3), "all 3 restarts are used"),
        (RestartRules(max_restarts=2, window=90.0), "all 2 restarts are used within 90 s"),
    ],
)
def test_a_budget_that_is_used_up_is_said_in_words(rules: RestartRules, words: str) -> None:
    history = History(used=3, spent_at=(99.0, 99.5))
    assert verdict(rules, history=history) == Failed(words, gave_up=True)


def test_a_pause_too_great_for_a_float_is_the_greatest_allowed() -> None:
    assert restarts.pause_before(Backoff(initial=1.0, factor=2.0, max=300.0), 5000) == 300.0


def test_without_a_limit_nothing_is_remembered_that_would_grow_for_ever() -> None:
    history = History()
    for number in range(100):
        outcome = verdict(RestartRules(max_restarts=-1, window=1e9), history=history, now=float(number))
        assert isinstance(outcome, Restart)
        history = outcome.history
    assert (history.used, history.spent_at) == (100, ())


def test_reset_after_zero_means_never() -> None:
    rules = RestartRules(reset_after=0.0, backoff=Backoff(initial=1.0, jitter=0.0))
    assert verdict(rules, history=History(used=1, in_a_row=1), healthy_for=1e9) == Restart(2.0, History(2, (), 2))


rules_of_backoff = st.builds(
    Backoff,
    initial=st.floats(0, 1e4),
    factor=st.floats(1, 100),
    max=st.floats(0, 1e4),
    jitter=st.floats(0, 1),
)
seeds = st.integers(0, 2**64 - 1)


@given(rules_of_backoff, st.integers(0, 10**9), seeds)
def test_a_pause_is_never_longer_than_max_nor_shorter_than_jitter_allows(
    backoff: Backoff, in_a_row: int, seed: int
) -> None:
    longest = restarts.pause_before(backoff, in_a_row)
    assert 0 <= longest <= backoff.max
    outcome = verdict(RestartRules(max_restarts=-1, backoff=backoff), history=History(3, (), in_a_row), seed=seed)
    assert isinstance(outcome, Restart)
    assert longest * (1 - backoff.jitter) * 0.999999 <= outcome.pause <= longest


@given(rules_of_backoff, st.integers(0, 10**9), seeds)
def test_a_shortage_is_waited_out_for_a_second_at_least(backoff: Backoff, in_a_row: int, seed: int) -> None:
    rules = RestartRules(max_restarts=-1, backoff=backoff)
    outcome = verdict(rules, "transient", History(3, (), in_a_row), exit_code=None, seed=seed)
    assert isinstance(outcome, Restart)
    assert restarts.SHORTAGE_PAUSE <= outcome.pause <= max(restarts.SHORTAGE_PAUSE, backoff.max)


@given(rules_of_backoff, st.integers(0, 60))
def test_pauses_never_get_shorter_in_a_row(backoff: Backoff, in_a_row: int) -> None:
    pause = restarts.pause_before(backoff, in_a_row)
    assert pause <= restarts.pause_before(backoff, in_a_row + 1) * 1.000001
    assert restarts.pause_before(replace(backoff, initial=0.0), in_a_row) == 0.0


@given(seeds, st.integers(0, 10**6))
def test_the_spread_of_a_seed_replays(seed: int, number: int) -> None:
    assert restarts.spread(seed, number) == restarts.spread(seed, number)
    assert 0 <= restarts.spread(seed, number) < 1


def test_the_spread_is_even() -> None:
    by_number = [restarts.spread(1, number) for number in range(4000)]
    by_seed = [restarts.spread(seed, 0) for seed in range(4000)]
    for values in (by_number, by_seed):
        tenths = [sum(tenth / 10 <= value < (tenth + 1) / 10 for value in values) for tenth in range(10)]
        assert all(300 < count < 500 for count in tenths), tenths
