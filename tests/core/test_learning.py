"""Limits that are learnt: in bounds, never tighter than what went well, and the same for the next daemon."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core import learning
from supervisor.core.learning import GROWTH, LONGEST, SHORTEST, Durations, Learning, Learnt
from supervisor.plan import AutoRules

SECONDS = st.floats(0, 1e9) | st.floats(0.01, 100.0)
RULES = st.builds(
    Learning,
    floor=st.floats(0.1, 10.0),
    ceiling=st.floats(10.0, 1e5),
    factor=st.floats(1.0, 10.0),
    quantile=st.floats(0.5, 0.9999),
    least=st.integers(1, 50),
)
RULE = Learning(floor=5.0, ceiling=600.0, factor=3.0, least=100)


def seen(*durations: float) -> Durations:
    found = Durations()
    for one in durations:
        found.add(one)
    return found


@given(RULES, st.lists(SECONDS, max_size=200))
def test_a_limit_is_never_tighter_than_what_went_well_and_else_in_its_bounds(
    rules: Learning, durations: list[float]
) -> None:
    found = seen(*durations)
    limit = found.limit(rules)
    longest = max(durations, default=0.0)
    assert found.longest == longest
    assert limit >= longest
    assert rules.floor <= limit <= max(rules.ceiling, longest)
    if len(durations) < rules.least:
        assert limit == max(rules.ceiling, longest)


@given(st.lists(st.floats(SHORTEST, LONGEST), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_exact_but_for_the_width_of_a_bucket_and_never_too_low(
    durations: list[float], share: float
) -> None:
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    found = seen(*durations).quantile(share)
    assert exact * (1 - 1e-9) <= found <= exact * GROWTH * (1 + 1e-9)


@given(st.lists(SECONDS, max_size=50), st.randoms(use_true_random=False))
def test_the_order_of_things_does_not_matter(durations: list[float], chance: random.Random) -> None:
    shuffled = chance.sample(durations, len(durations))
    assert seen(*shuffled) == seen(*durations)


@given(RULES, st.lists(SECONDS, max_size=200))
def test_the_next_daemon_knows_what_this_one_did(rules: Learning, durations: list[float]) -> None:
    found = seen(*durations)
    again = Durations.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    assert again == found
    assert again.explained(rules) == found.explained(rules)
    again.add(1.0)
    found.add(1.0)
    assert again == found
    assert again != found.to_json()


@pytest.mark.parametrize(
    ("durations", "limit", "because"),
    [
        ([], 600.0, "the ceiling, until 100 were seen"),
        ([2.0] * 99, 600.0, "the ceiling, until 100 were seen"),
        ([2.0] * 100, 6.0, "3 times what 0.999 of them did not exceed"),
        ([0.5] * 1000, 5.0, "the floor"),
        ([300.0] * 100, 600.0, "the ceiling"),
        ([2.0] * 9990 + [90.0], 90.0, "the longest that went well"),
        ([700.0], 700.0, "the longest that went well"),
    ],
)
def test_a_limit_says_where_it_comes_from(durations: list[float], limit: float, because: str) -> None:
    told = seen(*durations).explained(RULE)
    assert told["limit_s"] == pytest.approx(limit, rel=GROWTH - 1)
    assert told["limit_s"] >= limit
    assert (told["because"], told["seen"]) == (because, len(durations))
    json.dumps(told, allow_nan=False)


def test_what_a_job_did_long_ago_weighs_less_and_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "REMEMBERED", 2000)
    chance = random.Random(7)
    slow = [chance.uniform(50.0, 60.0) for _ in range(5000)]
    fast = [chance.uniform(1.0, 2.0) for _ in range(50_000)]
    found = seen(*slow)
    assert found.limit(RULE) > 150.0
    for one in fast:
        found.add(one)
    assert found.seen < 2000
    assert found.quantile(0.9) <= 2.0 * GROWTH
    assert found.limit(RULE) >= max(slow), "but a healthy worker is not killed for it"
    assert len(found.to_json()["counts"]) < 30
    assert Durations.from_json(found.to_json()) == found


def test_however_different_they_are_there_are_not_many_buckets() -> None:
    found = seen(*(1e-9 * 1.01**power for power in range(6000)))
    assert len(found.to_json()["counts"]) < 500
    assert found.limit(RULE) == found.longest


WRITTEN: dict[str, Any] = {"longest": 2.0, "counts": {"100": 5, "156": 2}}


def test_what_is_written_is_as_it_was_before() -> None:
    assert seen(*[0.13] * 5, 2.0, 2.0).to_json() == WRITTEN


@pytest.mark.parametrize(
    "written",
    [
        None,
        [],
        {},
        {"longest": 2.0},
        WRITTEN | {"more": 1},
        WRITTEN | {"longest": True},
        WRITTEN | {"longest": -1.0},
        WRITTEN | {"longest": math.nan},
        WRITTEN | {"longest": math.inf},
        WRITTEN | {"longest": "2"},
        WRITTEN | {"longest": 1.0},
        WRITTEN | {"longest": 10**400},
        WRITTEN | {"counts": [1]},
        WRITTEN | {"counts": {}},
        WRITTEN | {"counts": {"156": 0}},
        WRITTEN | {"counts": {"156": True}},
        WRITTEN | {"counts": {"156": 1.5}},
        WRITTEN | {"counts": {"156": 1 << 20}},
        WRITTEN | {"counts": {"155": 1 << 19, "156": 1 << 19}},
        WRITTEN | {"counts": {"-1": 1, "156": 1}},
        WRITTEN | {"counts": {"9999": 1}},
        WRITTEN | {"counts": {"\u00b2": 1, "156": 1}},
        WRITTEN | {"counts": {"9" * 5000: 1, "156": 1}},
        WRITTEN | {"counts": {str(number): 1 for number in range(1000)}},
    ],
)
def test_what_was_not_written_by_us_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="[a-z]"):
        Durations.from_json(written)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries({"longest": JSON, "counts": JSON}))
def test_whatever_is_in_the_file_it_is_understood_or_refused(written: object) -> None:
    try:
        found = Durations.from_json(written)
    except ValueError:
        return
    assert found.limit(RULE) >= found.longest


STEPS = AutoRules(frozenset({"step", "save"}), floor=1.0, ceiling=500.0, factor=2.0)


def learnt(*durations: float) -> Learnt:
    found = Learnt(STEPS)
    for one in durations:
        assert found.add("step", one)
    return found


def test_only_what_is_to_be_learnt_has_a_limit_that_is() -> None:
    found = learnt()
    assert found.limit("step") == found.limit("save") == 500.0
    assert found.limit("other") is None
    assert not found.add("other", 3.0)
    assert found
    assert not Learnt(AutoRules())


@given(st.lists(SECONDS, min_size=1, max_size=400))
def test_a_limit_in_use_is_never_tighter_than_the_longest_that_went_well(durations: list[float]) -> None:
    found = Learnt(STEPS)
    for number, one in enumerate(durations, 1):
        found.add("step", one)
        limit = found.limit("step")
        assert limit is not None
        assert limit >= max(durations[:number])


def test_a_limit_in_use_follows_what_was_learnt_since() -> None:
    found = learnt(*[10.0] * 99)
    assert found.limit("step") == 500.0
    found.add("step", 10.0)
    assert found.limit("step") == pytest.approx(20.0, rel=0.06)


def test_what_was_learnt_is_known_to_the_next_daemon_as_far_as_it_asks() -> None:
    found = learnt(*[10.0] * 120)
    again = Learnt(AutoRules(frozenset({"step", "new"}), floor=1.0, ceiling=500.0, factor=2.0))
    assert again.limit("step") == 500.0
    again.restore(json.loads(json.dumps(found.to_json())))
    assert again.limit("step") == found.limit("step")
    assert again.explained()["step"] == found.explained()["step"]
    assert again.to_json().keys() == {"new", "step"}


@pytest.mark.parametrize("written", [None, [], "step", {"save": 7, "step": {}}])
def test_what_is_no_table_of_sections_is_refused_and_nothing_of_it_known(written: object) -> None:
    found = learnt(10.0)
    before = found.to_json()
    with pytest.raises(ValueError, match="not a"):
        found.restore(written)
    assert found.to_json() == before
