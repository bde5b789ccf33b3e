"""What people are told of the hosts of a job."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.core.attendance import attendance, waits_for
from supervisor.core.health import HostState, HostView
from supervisor.core.rendezvous import Host, Round, Rules, Seat, Table, opened

FORMED = Round(2, "formed", "host d has left", hosts=2, world_size=3)
OPEN = opened(FORMED, "host d has arrived", "arrived", "d")
RULES = Rules(2, 3)


def host(name: str, *, workers: int = 2, free_from: int = 0, life: str = "1", arrived: int = 0) -> Host:
    return Host(name, life, f"{name}.example", 4000, workers, "r", free_from, arrived)


def seat(name: str, rank: int, *, round: int = 2, life: str = "1", succeeded: bool = False) -> Seat:
    return Seat(name, life, round, rank, 2 * rank, 0, 4, succeeded)


def table(round: Round | None, hosts: list[Host], *seats: Seat) -> Table:
    return Table(round, {one.name: one for one in hosts}, {one.host: one for one in seats})


def states(table: Table, rules: Rules = RULES) -> dict[str, HostState]:
    return {one.name: one.state for one in attendance(table, rules)}


def test_hosts_stand_in_the_order_of_their_ranks_and_then_of_their_arrival() -> None:
    hosts = [host("c", arrived=9), host("d", arrived=3), host("b"), host("a", workers=1)]
    assert attendance(table(FORMED, hosts, seat("b", 0), seat("a", 1)), RULES) == [
        HostView("b", "running", "b.example", 2, 0, 0),
        HostView("a", "running", "a.example", 1, 1, 2),
        HostView("d", "waiting", "d.example", 2),
        HostView("c", "waiting", "c.example", 2),
    ]


def test_before_the_first_round_all_wait() -> None:
    assert states(table(None, [host("a")])) == {"a": "waiting"}
    only_planned = table(Round(1, "open", "the first host is here"), [host("a")], seat("a", 0, round=1))
    assert states(only_planned) == {"a": "waiting"}


def test_in_a_round_some_have_succeeded_and_some_are_gone() -> None:
    seats = (seat("a", 0, succeeded=True), seat("b", 1), seat("c", 2), seat("d", 3, succeeded=True))
    anew = [host("a"), host("c", life="2")]
    assert states(table(FORMED, anew, *seats)) == {"a": "succeeded", "b": "gone", "c": "waiting", "d": "succeeded"}


def test_who_waits_while_as_many_run_as_may_is_a_spare() -> None:
    full = table(FORMED, [host("a"), host("b"), host("c")], seat("a", 0), seat("b", 1))
    assert states(full, Rules(1, 2)) == {"a": "running", "b": "running", "c": "spare"}


def test_between_two_rounds_it_is_known_who_of_the_last_is_gone() -> None:
    seats = (seat("a", 0), seat("b", 1), seat("c", 2, round=1), seat("e", 0, round=3))
    assert states(table(OPEN, [host("a", free_from=3)], *seats)) == {"a": "waiting", "b": "gone"}


def test_between_two_rounds_some_still_stop() -> None:
    hosts = [host("a"), host("b", free_from=3), host("d")]
    assert states(table(OPEN, hosts, seat("a", 0), seat("b", 1))) == {"a": "stopping", "b": "waiting", "d": "waiting"}


@pytest.mark.parametrize(
    ("round", "rules", "words"),
    [
        (None, RULES, "waits for the first round, of 2 to 3 hosts"),
        (Round(1, "open", "the first host is here"), Rules(1, 1), "waits for the first round, of 1 host"),
        (OPEN, Rules(2, 2), "waits for round 3, of 2 hosts: host d has arrived"),
        (FORMED, RULES, "waits for a place: round 2 runs with 2 hosts"),
        (replace(FORMED, hosts=1), RULES, "waits for a place: round 2 runs with 1 host"),
        (replace(FORMED, hosts=3), RULES, "waits as a spare: round 2 runs with 3 hosts, as many as there may be"),
    ],
)
def test_a_host_without_workers_says_what_it_waits_for(round: Round | None, rules: Rules, words: str) -> None:
    assert waits_for(round, rules) == words
