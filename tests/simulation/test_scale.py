"""A round of many hosts costs the store as much more as there are more of them, and no more than that."""

from __future__ import annotations

from tests.simulation.scale import form


async def test_what_a_round_costs_grows_with_the_number_of_hosts() -> None:
    small, large = [(await form(hosts))[0] for hosts in (50, 200)]
    print(small, large)
    assert large.operations.total() / 200 <= 1.05 * small.operations.total() / 50
    assert large.bytes_watched / 200 <= 1.05 * small.bytes_watched / 50
    assert large.bytes_read / 200 <= 1.05 * small.bytes_read / 50
    assert large.bytes_stored / 200 <= 1.05 * small.bytes_stored / 50


async def test_no_request_of_many_hosts_is_near_what_etcd_allows() -> None:
    """But the operations of a transaction, of which the seats take as many as there may be."""
    cost, _ = await form(300)
    shares = {name: need / most for name, (need, most) in cost.needs.items()}
    print(cost)
    assert shares["txn ops"] == 1
    assert max(shares["request"], shares["value"], shares["stored"]) < 0.1


async def test_a_steady_state_costs_keep_alives_only() -> None:
    _, after = await form(20, lease_ttl=0.3, idle_for=0.5)
    assert after.keys() == {"keep_alive"}
