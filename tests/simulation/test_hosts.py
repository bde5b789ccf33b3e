"""Thousands of histories of hosts, network and store: the invariants hold, and each ends in a world or a verdict.

``HISTORIES=n`` is how many there are, a million for a night; ``SEED=n``, printed by a failure, tells that one alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from supervisor.core import rendezvous
from supervisor.core.rendezvous import Failed, Round, Rules, Stop, Wait
from supervisor.peers import membership
from supervisor.peers.records import written
from supervisor.peers.store import Put
from supervisor.plan import assign_seats
from tests.simulation.history import History
from tests.simulation.network import Network

HISTORIES = int(os.environ.get("HISTORIES", "10000"))
PARTS = 40
ENOUGH = 300
"""Histories of which at least one must tell that something is broken."""


def tell(seed: int) -> None:
    history = History(seed)
    try:
        history.play()
    except BaseException:
        print("\n".join(history.told), f"\nSEED={seed} tells it again")
        raise


@pytest.mark.timeout(0 if HISTORIES > 10000 else 120)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_history_is_safe_and_ends_in_a_world_or_a_verdict(part: int) -> None:
    one = os.environ.get("SEED")
    for seed in [int(one)] if one else range(part, HISTORIES, PARTS):
        tell(seed)


def test_a_history_replays() -> None:
    first, second = History(11), History(11)
    first.play()
    second.play()
    assert first.told == second.told
    assert len(first.told) > 10


# ---- what is broken on purpose is found


Patch = Callable[[pytest.MonkeyPatch], None]


def without_conditions(patch: pytest.MonkeyPatch) -> None:
    """The store writes whatever it is asked to."""
    transact = Network.transact
    patch.setattr(Network, "transact", lambda self, link, _, operations: transact(self, link, [], operations))


def seated_before_it_is_free(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rendezvous, "is_ready", lambda *_: True)


def failures_for_nothing(patch: pytest.MonkeyPatch) -> None:
    def failed(round: Round, _: Rules, failure: Failed) -> Round:
        return rendezvous.opened(round, failure.why, "failed", failure.host)

    patch.setattr(membership, "failed", failed)


def budgets_without_an_end(patch: pytest.MonkeyPatch) -> None:
    def failed(round: Round, rules: Rules, failure: Failed) -> Round:
        return rendezvous.failed(round, replace(rules, max_restarts=-1), failure)

    patch.setattr(membership, "failed", failed)


def changes_of_hosts_are_charged(patch: pytest.MonkeyPatch) -> None:
    opened = rendezvous.opened

    def charged(round: Round, why: str, because: Any, host: str, *, restarts: int = 0) -> Round:
        return opened(round, why, because, host, restarts=max(restarts, int(because == "left")))

    patch.setattr(rendezvous, "opened", charged)


def the_same_ranks_for_all(patch: pytest.MonkeyPatch) -> None:
    def assign(hosts: Sequence[tuple[str, int]]) -> list[Any]:
        return [replace(seat, base_rank=0) for seat in assign_seats(hosts)]

    patch.setattr(rendezvous, "assign_seats", assign)


def workers_that_go_on(patch: pytest.MonkeyPatch) -> None:
    attend = rendezvous.attend

    def never_stop(*args: Any) -> Any:
        action = attend(*args)
        return Wait() if isinstance(action, Stop) else action

    patch.setattr(membership, "attend", never_stop)


def nobody_takes_over(patch: pytest.MonkeyPatch) -> None:
    """A leader that is gone is the last."""
    stand = membership.Member._stand

    async def once(self: membership.Member, lease: int, leader: Any) -> None:
        if self._me.host.name == "a":
            await stand(self, lease, leader)

    patch.setattr(membership.Member, "_stand", once)


def records_that_are_taken_back(patch: pytest.MonkeyPatch) -> None:
    """A host's record is written on top of whatever is there."""

    async def publish(self: membership.Member, lease: int) -> None:
        host = self._me.host
        if self._published != host:
            record = Put(self._keys.host(host.name), written(host), lease)
            await self._store.transact([], [record])
            self._published = host

    patch.setattr(membership.Member, "_publish", publish)


@pytest.mark.parametrize(
    ("breaks", "seeds"),
    [
        (without_conditions, range(ENOUGH)),
        (seated_before_it_is_free, range(ENOUGH)),
        (failures_for_nothing, range(ENOUGH)),
        (budgets_without_an_end, range(ENOUGH)),
        (changes_of_hosts_are_charged, range(ENOUGH)),
        (the_same_ranks_for_all, range(ENOUGH)),
        (workers_that_go_on, range(ENOUGH)),
        (nobody_takes_over, range(ENOUGH)),
        (records_that_are_taken_back, range(1996, 4000)),
    ],
)
def test_what_is_broken_is_found(breaks: Patch, seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    breaks(monkeypatch)
    for seed in seeds:
        history = History(seed)
        try:
            history.play()
        except Exception as why:  # noqa: BLE001 - whatever it is that tells of it
            print(f"seed {seed}: {why}")
            return
    pytest.fail(f"none of {len(seeds)} histories has told of it")
