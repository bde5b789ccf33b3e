"""Which hosts make a world and with which ranks: records and instants in, the next action out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, seed
from hypothesis import strategies as st

from supervisor.core.rendezvous import (
    Call,
    Failed,
    Finish,
    Form,
    GiveUp,
    Host,
    Myself,
    Round,
    Rules,
    SayFree,
    Seat,
    Start,
    Stop,
    Table,
    Turn,
    Verdict,
    Wait,
    attend,
    closed,
    failed,
    opened,
    preside,
    waiting,
)
from supervisor.plan import World

OPEN = Round(1, "open", "the first host is here")
RULES = Rules(min_hosts=2, max_hosts=3, join_for=600, last_call_for=30)
SUCCEEDED = Verdict("succeeded", "all workers have succeeded")


def host(
    name: str, *, workers: int = 2, free_from: int = 0, arrived: int = 0, life: str = "1", role: str = "r"
) -> Host:
    return Host(name, life, f"{name}.example", 4000 + ord(name[0]), workers, role, free_from, arrived)


def table(round: Round | None, *hosts: Host, seats: tuple[Seat, ...] = ()) -> Table:
    return Table(round, {one.name: one for one in hosts}, {one.host: one for one in seats})


def form(table: Table, rules: Rules = RULES, call: Call | None = None, now: float = 0.0) -> Form:
    _, action = preside(table, rules, call or Call(), now)
    assert isinstance(action, Form), action
    return action


def formed(*hosts: Host, rules: Rules = RULES, round: Round = OPEN) -> Table:
    """These hosts in a world of theirs."""
    action = form(table(round, *hosts), rules, Call(round.number, -1e9))
    return table(action.round, *hosts, seats=action.seats)


def turned(table: Table, rules: Rules = RULES) -> Round:
    _, action = preside(table, rules, Call(), 0.0)
    assert isinstance(action, Turn), action
    return action.round


def action_of(table: Table, rules: Rules = RULES, call: Call | None = None, now: float = 0.0) -> object:
    return preside(table, rules, call or Call(), now)[1]


A, B, C, D = (host(name, arrived=age) for age, name in enumerate("abcd"))


def test_the_first_leader_opens_the_first_round() -> None:
    assert turned(table(None)) == OPEN


def test_with_too_few_hosts_a_round_stays_open() -> None:
    assert preside(table(OPEN, A), RULES, Call(1, 5.0), 99.0) == (Call(1), Wait())


def test_enough_hosts_wait_for_more_until_the_last_call_is_over() -> None:
    call, action = preside(table(OPEN, A, B), RULES, Call(), 100.0)
    assert action == Wait(130.0)
    assert preside(table(OPEN, A, B), RULES, call, 129.9) == (call, Wait(130.0))
    assert form(table(OPEN, A, B), call=call, now=130.0).round.hosts == 2


def test_the_last_call_of_one_round_is_not_that_of_the_next() -> None:
    assert action_of(table(replace(OPEN, number=2), A, B), call=Call(1, 0.0), now=100.0) == Wait(130.0)


def test_as_many_hosts_as_there_may_be_form_a_round_at_once() -> None:
    assert form(table(OPEN, A, B, C)).round.hosts == 3


def test_ranks_count_through_the_sorted_hosts_whatever_the_number_of_their_workers() -> None:
    """torch's rule: _assign_worker_ranks in torch.distributed.elastic.agent.server.api."""
    hosts = (host("c", workers=1, role="x"), host("a", workers=4, role="x"), host("b", workers=2, role="y"))
    action = form(table(OPEN, *hosts))
    assert action.seats == (
        Seat("a", "1", 1, 0, 0, 0, 5),
        Seat("b", "1", 1, 1, 4, 0, 2),
        Seat("c", "1", 1, 2, 6, 4, 5),
    )
    assert action.round == replace(
        OPEN, phase="formed", hosts=3, world_size=7, master_addr="a.example", master_port=hosts[1].port
    )


def test_beyond_the_largest_number_who_came_first_has_a_place() -> None:
    action = form(table(OPEN, host("a", arrived=9), B, C, D))
    assert [seat.host for seat in action.seats] == ["b", "c", "d"]


def test_a_world_without_a_change_is_left_alone() -> None:
    assert action_of(formed(A, B, C)) == Wait()


def test_a_host_that_is_gone_ends_the_round() -> None:
    world = formed(A, B, C)
    assert turned(replace(world, hosts={"a": A, "c": C})) == Round(
        2, "open", "host b has left", because="left", host="b"
    )


def test_a_host_in_another_life_ends_the_round() -> None:
    world = formed(A, B)
    assert turned(table(world.round, A, host("b", life="2"), seats=tuple(world.seats.values()))) == Round(
        2, "open", "rankd has started anew on host b", because="left", host="b"
    )


def test_a_host_that_has_stopped_its_workers_ends_the_round() -> None:
    world = formed(A, B)
    seats = tuple(world.seats.values())
    assert turned(table(world.round, A, replace(B, free_from=2), seats=seats)).why == "host b asks for another round"


def test_a_host_that_arrives_where_there_is_room_ends_the_round() -> None:
    world = formed(A, B)
    assert turned(table(world.round, A, B, C, seats=tuple(world.seats.values()))).why == "host c has arrived"


def test_a_host_that_arrives_where_there_is_none_waits_as_a_spare() -> None:
    world = formed(A, B, C)
    assert action_of(table(world.round, A, B, C, D, seats=tuple(world.seats.values()))) == Wait()


def test_a_host_that_is_still_stopping_an_old_round_does_not_end_a_new_one() -> None:
    world = formed(A, B, round=replace(OPEN, number=5))
    old = Seat("c", "1", 4, 2, 4, 4, 6)
    seats = (*world.seats.values(), old)
    assert action_of(table(world.round, A, B, C, seats=seats)) == Wait()
    assert turned(table(world.round, A, B, replace(C, free_from=5), seats=seats)).why == "host c has arrived"


def test_who_was_in_the_last_round_is_waited_for_and_then_it_forms_at_once() -> None:
    world = formed(A, B, C)
    seats = tuple(world.seats.values())
    again = Round(2, "open", "host c has left")
    a, b = replace(A, free_from=2), replace(B, free_from=2)
    assert action_of(table(again, a, B, seats=seats)) == Wait()
    action = form(table(again, a, b, seats=seats))
    assert [seat.host for seat in action.seats] == ["a", "b"]
    assert action.unseat == ("c",)


def test_an_early_spare_does_not_take_the_place_of_a_slow_survivor() -> None:
    world = formed(B, C, D)
    seats = tuple(world.seats.values())
    again = Round(2, "open", "a worker has failed")
    b, c, d = (replace(one, free_from=2) for one in (B, C, D))
    call, action = preside(table(again, A, b, c, D, seats=seats), RULES, Call(), 0.0)
    assert action == Wait(30.0)
    action = form(table(again, A, b, c, d, seats=seats), call=call, now=10.0)
    assert [seat.host for seat in action.seats] == ["b", "c", "d"]
    action = form(table(again, A, b, c, D, seats=seats), call=call, now=30.0)
    assert [seat.host for seat in action.seats] == ["a", "b", "c"]
    assert action.unseat == (), "d still stops the workers of its old seat"


def test_survivors_below_the_smallest_number_wait_and_a_replacement_makes_them_enough() -> None:
    world = formed(A, B)
    seats = tuple(world.seats.values())
    again = Round(2, "open", "host b has left", because="left", host="b")
    a = replace(A, free_from=2)
    assert action_of(table(again, a, seats=seats), now=500.0) == Wait()
    assert action_of(table(again, a, C, seats=seats), now=500.0) == Wait(530.0)


def test_a_seat_planned_by_a_leader_who_is_gone_is_taken_back() -> None:
    planned = Seat("d", "1", 1, 3, 6, 6, 8)
    action = form(table(OPEN, A, B, C, host("d", arrived=-1), seats=(planned,)), now=0.0)
    assert "d" in [seat.host for seat in action.seats], "it was planned once, so it is preferred"
    action = form(table(OPEN, A, B, C, host("d", life="2", arrived=9), seats=(planned,)))
    assert action.unseat == ("d",)
    assert [seat.host for seat in action.seats] == ["a", "b", "c"]


def test_a_planned_seat_is_taken_back_from_who_has_to_make_room() -> None:
    """Else it would count once the round is formed."""
    seats = (*formed(A, B, C).seats.values(), Seat("d", "1", 2, 0, 0, 0, 2))
    back = [replace(one, free_from=2) for one in (A, B, C)]
    action = form(table(Round(2, "open", "host c was late"), *back, D, seats=seats))
    assert [seat.host for seat in action.seats] == ["a", "b", "c"]
    assert action.unseat == ("d",)


def test_a_finished_host_may_leave_and_the_last_one_closes_the_job() -> None:
    world = formed(A, B)
    done = {name: replace(seat, succeeded=True) for name, seat in world.seats.items()}
    assert action_of(replace(world, hosts={"b": B}, seats={**world.seats, "a": done["a"]})) == Wait()
    assert world.round is not None
    assert turned(replace(world, hosts={"b": B}, seats=done)) == closed(world.round, SUCCEEDED)


def test_nobody_is_let_in_once_a_host_has_finished() -> None:
    world = formed(A, B)
    seats = {**world.seats, "a": replace(world.seats["a"], succeeded=True)}
    assert action_of(Table(world.round, {"a": A, "b": B, "c": C}, seats)) == Wait()


def test_a_closed_round_stays_closed() -> None:
    assert action_of(table(closed(OPEN, SUCCEEDED), A, B, C)) == Wait()


def test_a_failure_uses_a_restart_of_the_whole_job_and_a_change_of_hosts_none() -> None:
    round = formed(A, B).round
    assert round is not None
    again = failed(round, replace(RULES, max_restarts=1), Failed("a", "rank 1 has failed", 9))
    assert again == Round(2, "open", "rank 1 has failed", restarts=1, because="failed", host="a")
    later = opened(replace(again, phase="formed"), "host c has arrived", "arrived", "c")
    assert later.restarts == 1
    last = replace(later, phase="formed")
    verdict = Verdict("failed", "rank 0 has failed", 3)
    spent = failed(last, replace(RULES, max_restarts=1), Failed("a", "rank 0 has failed", 3))
    assert spent == Round(4, "open", "rank 0 has failed", 1, verdict=verdict, because="failed", host="a")
    final = failed(round, RULES, Failed("a", "rank 0 has failed", 3, final=True))
    assert final == closed(round, verdict)
    assert failed(last, replace(RULES, max_restarts=-1), Failed("a", "rank 0 has failed", 3)).restarts == 2


def after_a_failure(*hosts: Host, max_restarts: int = 3) -> Table:
    """A worker of a has failed in round 1; the other two had seats as well."""
    world = formed(A, B, C)
    assert world.round is not None
    round = failed(world.round, replace(RULES, max_restarts=max_restarts), Failed("a", "rank 0 has failed", 3))
    return Table(round, {host.name: host for host in hosts}, world.seats)


FREE_A, FREE_B, FREE_C = (replace(one, free_from=2) for one in (A, B, C))


def test_a_failure_is_given_back_when_a_host_of_its_round_is_gone() -> None:
    """Its peers had lost their connections to it before its lease ended."""
    gone = Round(2, "open", "host c has left", because="left", host="c")
    assert turned(after_a_failure(FREE_A, B)) == gone
    assert turned(after_a_failure(A, B, host("c", life="2"))) == gone
    assert turned(after_a_failure(FREE_A, B, max_restarts=0)) == gone


def test_a_failure_is_not_given_back_because_the_host_that_failed_goes() -> None:
    action = action_of(after_a_failure(B, C))
    assert isinstance(action, Wait)


def test_after_a_failure_it_is_waited_until_a_dead_host_is_known_to_be() -> None:
    """Even if enough hosts are ready, and the last call is over before."""
    hasty = replace(RULES, last_call_for=1.0, lease_for=5.0)
    call, action = preside(after_a_failure(FREE_A, FREE_B, C), hasty, Call(), 100.0)
    assert action == Wait(106.0)
    assert isinstance(preside(after_a_failure(FREE_A, FREE_B, C), hasty, call, 106.0)[1], Form)


def test_a_host_that_is_slow_to_stop_is_waited_for_and_not_left_out_of_round_after_round() -> None:
    """Or else it would be free, and so arrive, as soon as the others run: and another would be slow to stop."""
    slow = replace(RULES, last_call_for=1.0, stop_for=40.0)
    stopping = after_a_failure(A, FREE_B, FREE_C)
    call, action = preside(stopping, slow, Call(), 100.0)
    assert action == Wait(141.0)
    assert form(stopping, slow, call, 141.0).round.hosts == 2
    assert form(after_a_failure(FREE_A, FREE_B, FREE_C), slow).round.hosts == 3


def test_the_job_is_closed_for_a_failure_when_all_others_are_still_there() -> None:
    verdict = Verdict("failed", "rank 0 has failed", 3)
    waiting = after_a_failure(FREE_A, FREE_B, C, max_restarts=0)
    call, action = preside(waiting, RULES, Call(), 100.0)
    assert action == Wait(106.0)
    assert preside(waiting, RULES, call, 103.0)[1] == Wait(106.0)
    done = after_a_failure(FREE_A, FREE_B, FREE_C, max_restarts=0)
    for table_now, now in ((done, 103.0), (waiting, 106.0)):
        action = preside(table_now, RULES, call, now)[1]
        assert isinstance(action, Turn)
        assert (action.round.phase, action.round.verdict) == ("closed", verdict)


# ---- a host's own part


def test_a_host_with_a_seat_starts_its_workers() -> None:
    world = formed(host("a", workers=3), B)
    assert attend(world.round, world.seats["b"], Myself(B), RULES, 0.0) == Start(
        World(1, "a.example", 4097, 2, 1, 2, 3, 5, 3, 5)
    )


def test_a_host_starts_no_round_twice() -> None:
    world = formed(A, B)
    assert attend(world.round, world.seats["b"], Myself(B, running=1), RULES, 0.0) == Wait()
    assert attend(world.round, world.seats["b"], Myself(replace(B, free_from=2)), RULES, 0.0) == Wait()


def test_a_seat_of_another_life_or_round_is_nobodys() -> None:
    world = formed(A, B)
    for seat in (None, replace(world.seats["b"], life="0"), replace(world.seats["b"], round=7)):
        assert attend(world.round, seat, Myself(B), RULES, 1e9) == Wait(), "a spare waits without an end"
        assert isinstance(attend(world.round, seat, Myself(B, running=1), RULES, 0.0), Stop)


def test_a_host_stops_the_workers_of_a_round_that_is_over() -> None:
    world = formed(A, B, round=replace(OPEN, number=2))
    assert attend(world.round, world.seats["b"], Myself(B, running=1), RULES, 0.0) == Stop("round 2 is formed")
    assert attend(OPEN, None, Myself(B, running=1), RULES, 0.0) == Stop("the first host is here")
    assert attend(None, None, Myself(B, running=1), RULES, 0.0) == Stop("the store knows of no round any more")


def test_a_host_that_missed_a_round_says_that_it_is_free_again() -> None:
    """Else nobody could know that it does not run the workers of its old seat."""
    world = formed(A, B)
    again = Round(2, "open", "host a has left")
    assert attend(again, world.seats["b"], Myself(B), RULES, 0.0) == SayFree(2)
    assert attend(replace(again, phase="formed"), world.seats["b"], Myself(B), RULES, 0.0) == SayFree(2)
    assert attend(again, world.seats["b"], Myself(replace(B, free_from=2)), RULES, 0.0) == Wait(600.0)
    assert attend(again, replace(world.seats["b"], round=2), Myself(B), RULES, 0.0) == Wait(600.0)


def test_a_host_gives_up_when_no_world_comes_in_time() -> None:
    for round in (None, OPEN):
        assert attend(round, None, Myself(B, waiting_since=100.0), RULES, 699.9) == Wait(700.0)
        assert attend(round, None, Myself(B, waiting_since=100.0), RULES, 700.0) == GiveUp(
            "no 2 hosts were ready within 600 s"
        )


def test_a_spare_has_lost_none_of_the_time_in_which_it_had_no_place() -> None:
    """It has waited for longer than ``join_for`` when it is needed, and then has all of that for the next round."""
    world = formed(A, B)
    spare = waiting(Myself(host("c")), world.round, 100.0)
    assert attend(world.round, None, spare, RULES, 9000.0) == Wait()
    again = Round(2, "open", "host a has left")
    for now in (9000.0, 9300.0):
        spare = waiting(spare, again, now)
        assert attend(again, None, spare, RULES, now) == Wait(9600.0)
    assert isinstance(attend(again, None, spare, RULES, 9600.0), GiveUp)


def test_who_has_workers_does_not_wait() -> None:
    assert waiting(Myself(B, running=1), Round(2, "open", "host a has left"), 100.0) == Myself(B, running=1)
    assert waiting(Myself(B), None, 100.0) == Myself(B)


def test_the_verdict_comes_after_the_workers_are_gone_and_for_late_hosts_at_once() -> None:
    over = closed(OPEN, SUCCEEDED)
    assert attend(over, None, Myself(B, running=1), RULES, 0.0) == Stop("all workers have succeeded")
    assert attend(over, None, Myself(B), RULES, 0.0) == Finish(SUCCEEDED)


HOSTS = st.lists(
    st.builds(
        host, st.sampled_from("abcdefgh"), workers=st.integers(1, 4), arrived=st.integers(0, 9),
        role=st.sampled_from("xy"),
    ),
    unique_by=lambda one: one.name, min_size=2, max_size=8,
)  # fmt: skip


@seed(20261122)
@given(HOSTS, st.data(), st.integers(2, 8))
def test_ranks_move_least(hosts: list[Host], data: st.DataObject, most: int) -> None:
    """Nobody loses a place to a stranger, those who stay keep their order, and the same hosts keep the same ranks."""
    rules = Rules(2, most)
    world = formed(*hosts, rules=rules)
    assert world.round is not None
    again = opened(world.round, "host z has left", "left", "z")
    stay = [replace(one, free_from=2) for one in hosts if data.draw(st.booleans(), label=f"{one.name} stays")]
    action = preside(table(again, *stay, seats=tuple(world.seats.values())), rules, Call(2, -1e9), 0.0)[1]
    if not isinstance(action, Form):
        assert len(stay) < 2
        return
    before, after = list(world.seats), [seat.host for seat in action.seats]
    here = {one.name for one in stay}
    assert set(before) & here <= set(after)
    assert [name for name in after if name in before] == [name for name in before if name in here]
    if here == {one.name for one in hosts}:
        assert action.seats == tuple(replace(seat, round=2) for seat in world.seats.values())
    ranks = [seat.base_rank + rank for seat in action.seats for rank in range(_workers(stay, seat.host))]
    assert ranks == list(range(action.round.world_size))


def _workers(hosts: list[Host], name: str) -> int:
    return next(one.workers for one in hosts if one.name == name)
