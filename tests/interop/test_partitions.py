"""Hosts with a network of their own each, to whom their etcd is lost for longer than their lease: they come back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Start
from tests.end_to_end.hosts import Hosts, formed
from tests.end_to_end.rankd import Rankd, until
from tests.interop.networks import Network, missing, network
from tests.peers.etcd import Etcd, needs_etcd

pytestmark = [
    pytest.mark.interop,
    pytest.mark.end_to_end,
    pytest.mark.timeout(120),
    needs_etcd,
    pytest.mark.skipif(bool(WHY_NOT := missing()), reason=WHY_NOT),
]

NAMES = ("h1", "h2", "h3")


@pytest.fixture
def wired() -> Iterator[Network]:
    with network(NAMES) as made:
        yield made


@pytest.fixture
def etcd(wired: Network, tmp_path: Path) -> Iterator[Etcd]:
    server = Etcd(tmp_path, address=wired.switch.address, through=wired.switch.through)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def daemons(wired: Network, etcd: Etcd, rankd: Start) -> dict[str, Rankd]:
    """A host in each namespace, all in one world from the first: two would wait long enough for the third."""
    hosts = Hosts(rankd, etcd, "parted")
    running = {
        name: hosts.start(
            name[1:], addr=host.address, through=host.through, last_call_timeout="30s", close_timeout="2s"
        )
        for name, host in wired.hosts.items()
    }
    for one in running.values():
        formed(one, 3)
    return running


def test_a_host_that_is_cut_off_is_gone_for_the_others_and_comes_back(
    wired: Network, daemons: dict[str, Rankd]
) -> None:
    parted("h2", wired, daemons, wired.unplug, wired.plug)


def test_a_host_whose_requests_arrive_but_who_gets_no_answer_is_cut_off_as_well(
    wired: Network, daemons: dict[str, Rankd]
) -> None:
    parted("h2", wired, daemons, wired.lose_answers, wired.find_answers)


def test_a_leader_that_is_cut_off_is_replaced(wired: Network, daemons: dict[str, Rankd], etcd: Etcd) -> None:
    parted(leader(wired, etcd), wired, daemons, wired.unplug, wired.plug)


def parted(
    name: str, wired: Network, daemons: dict[str, Rankd], cut: Callable[[str], None], heal: Callable[[str], None]
) -> None:
    """What is to happen to a host that is cut off for longer than its lease, and to the others."""
    lost, others = daemons[name], [daemons[other] for other in NAMES if other != name]
    cut(name)
    without = {formed(one, 2)["round"] for one in others}
    assert len(without) == 1
    assert all(one.wait_for("rendezvous.peer_left")["peer"] == name for one in others)
    why = lost.wait_for("rendezvous.lost")["reason"]
    told = until_asked(wired, name, lost, "/readyz", 503)
    assert "cut off from the other hosts" in told
    assert why in told
    assert wired.hosts[name].ask(f"127.0.0.1:{lost.port}", "/livez")[0] == 200
    assert not lost.all("worker.exited"), "workers run on while nobody knows better"
    heal(name)
    again = [formed(one, 3, count=2) for one in daemons.values()]
    (last,) = {world["round"] for world in again}
    assert last > max(without)
    assert {world["restarts"] for world in again} == {0}, "a change of hosts is not charged"
    old = lost.wait_for("worker.exited", attempt=0, by="daemon")
    new = lost.wait_for("worker.started", attempt=1)
    assert old["seq"] < new["seq"], "never two workers of a rank on one host"
    until_asked(wired, name, lost, "/readyz", 200)


def leader(wired: Network, etcd: Etcd) -> str:
    """The host that forms the rounds, as etcd has it."""
    key = base64.b64encode(b"/rankd/parted/job/now/leader").decode()
    address = etcd.endpoints[0].removeprefix("http://")
    status, text = wired.switch.ask(address, "/v3/kv/range", json.dumps({"key": key}))
    assert status == 200, text
    (entry,) = json.loads(text)["kvs"]
    return base64.b64decode(entry["value"]).decode()


def until_asked(wired: Network, name: str, daemon: Rankd, path: str, status: int) -> str:
    """Ask in its own namespace until the answer has that status; its text."""

    def asked() -> str | None:
        found, text = wired.hosts[name].ask(f"127.0.0.1:{daemon.port}", path)
        return text if found == status else None

    return until(asked, f"{status} from {path}")
