"""Which hosts a group meets: what the tables say together, and what they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import load
from supervisor.errors import ConfigError
from supervisor.plan import GroupPlan, RendezvousRules, StorePlan

ENVIRON = {"HOME": "/home/somebody"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rankd.toml"


def written(common: str, group: str) -> str:
    return f'[rendezvous]\n{common}\n[groups.a]\ncommand = ["true"]\n[groups.a.rendezvous]\n{group}\n'


def plan(file: Path, common: str, group: str) -> GroupPlan:
    file.write_text(written(common, group))
    return load(str(file), ENVIRON).groups["a"]


def told(file: Path, common: str, group: str) -> list[str]:
    """What is said, each mistake less the file's name and line."""
    file.write_text(written(common, group))
    with pytest.raises(ConfigError) as refused:
        load(str(file), ENVIRON)
    return [str(mistake).partition(": ")[2] for mistake in refused.value.mistakes]


def test_a_group_is_alone_on_its_host_unless_it_is_said_otherwise(file: Path) -> None:
    found = plan(file, "", "")
    assert (found.rendezvous, found.master_addr, found.master_port) == (RendezvousRules(), "127.0.0.1", 0)


def test_static_hosts_have_a_number_each_and_one_address(file: Path) -> None:
    text = 'nodes = 3\nnode_rank = 2\nmaster_addr = "10.0.0.1"\nmaster_port = 29500'
    found = plan(file, 'backend = "static"', text)
    assert found.rendezvous == RendezvousRules("static", hosts=3, node_rank=2)
    assert (found.master_addr, found.master_port) == ("10.0.0.1", 29500)
    assert plan(file, 'backend = "static"', "").rendezvous == RendezvousRules("static")


ELSEWHERE = 'master_addr = "a"\nmaster_port = 1'


@pytest.mark.parametrize(
    ("backend", "group", "said"),
    [
        ("local", "nodes = 2", "groups.a.rendezvous.nodes: is more than this host"),
        (
            "local",
            "node_rank = 1",
            'groups.a.rendezvous.node_rank: is for [rendezvous] backend = "static", not "local"',
        ),
        ("local", "master_port = 1", "groups.a.rendezvous.master_port: is for [rendezvous] backend"),
        ("static", f'nodes = "1:2"\n{ELSEWHERE}', 'groups.a.rendezvous.nodes: "1:2" leaves it open'),
        ("static", f"nodes = 2\nnode_rank = 2\n{ELSEWHERE}", "groups.a.rendezvous.node_rank: there is no host 2 of 2"),
        ("static", "nodes = 2\nmaster_port = 1", "groups.a.rendezvous.master_addr: is missing"),
        ("static", 'nodes = 2\nmaster_addr = "a"', "groups.a.rendezvous.master_port: is missing"),
        ("static", 'nodes = "2:1"', 'groups.a.rendezvous.nodes: "2:1" is not a number of hosts (allowed: N'),
        ("static", "nodes = true", "groups.a.rendezvous.nodes: true is not a number of hosts"),
        ("c10d", "", 'rendezvous.backend: "c10d" is not a backend'),
    ],
)
def test_what_cannot_be_is_told(file: Path, backend: str, group: str, said: str) -> None:
    (found,) = told(file, f'backend = "{backend}"', group)
    assert found.startswith(said), found


def elastic(file: Path, common: str = "", group: str = "", rest: str = "") -> tuple[RendezvousRules, StorePlan | None]:
    text = written(f'backend = "etcd"\n{common}', f'nodes = "2:4"\n{group}')
    file.write_text(f'[daemon]\nrun_id = "job"\n{text}{rest}')
    plan = load(str(file), ENVIRON)
    return plan.groups["a"].rendezvous, plan.store


def test_elastic_hosts_meet_in_etcd(file: Path) -> None:
    assert elastic(file) == (RendezvousRules("etcd", 4, min_hosts=2), StorePlan(("http://127.0.0.1:2379",)))
    rules, store = elastic(
        file,
        'endpoints = ["https://a:2379", "https://b:2379"]\nprefix = "/jobs"\naddr = "10.0.0.1"\nca = "ca.pem"\n'
        'cert = "c.pem"\nkey = "k.pem"\nusername = "u"\npassword_file = "/p"\non_store_loss = "stop"',
        'join_timeout = 1\nlast_call_timeout = 2\nlease_ttl = 3\nexit_barrier_timeout = 4\nclose_timeout = "5s"',
    )
    assert rules == RendezvousRules("etcd", 4, 0, 2, 1.0, 2.0, 3.0, 4.0, 5.0)
    folder = file.parent
    assert store == StorePlan(
        ("https://a:2379", "https://b:2379"), "/jobs", "10.0.0.1", f"{folder}/ca.pem", f"{folder}/c.pem",
        f"{folder}/k.pem", "u", "/p", "stop",
    )  # fmt: skip


def test_a_group_of_one_host_does_not_meet_anybody(file: Path) -> None:
    file.write_text(written('backend = "etcd"', "nodes = 1"))
    assert load(str(file), ENVIRON).groups["a"].rendezvous == RendezvousRules()


@pytest.mark.parametrize(
    ("common", "group", "rest", "said"),
    [
        ('endpoints = ["http://a:1", "https://b:1"]', "", "", "rendezvous.endpoints: has http and https"),
        ('endpoints = ["http://[::1"]', "", "", 'rendezvous.endpoints[0]: "http://[::1" is not an endpoint'),
        ('endpoints = ["http://a:70000"]', "", "", 'rendezvous.endpoints[0]: "http://a:70000" is not an endpoint'),
        ("endpoints = []", "", "", "rendezvous.endpoints: must not be empty"),
        ('ca = "f"', "", "", "rendezvous.ca: is for endpoints with https"),
        ('endpoints = ["https://b:1"]\ncert = "f"', "", "", "rendezvous: needs both cert and key"),
        ('username = "u"', "", "", "rendezvous: needs both username and password_file"),
        ('prefix = "rankd"', "", "", "rendezvous.prefix: "),
        ("", 'lease_ttl = "1s"', "", 'groups.a.rendezvous.lease_ttl: "1s" is not a lease (allowed: whole seconds'),
        ("", 'lease_ttl = "2500ms"', "", 'groups.a.rendezvous.lease_ttl: "2500ms" is not a lease'),
        ("", "", '[groups.a.restart]\nscope = "worker"', "groups.a.restart.scope: "),
        ("", "", '[groups.a.restart]\npolicy = "always"', "groups.a.restart.policy: "),
        ("", "", '[groups.a.restart]\nwindow = "1m"', "groups.a.restart.window: is for one host"),
    ],
)
def test_what_elastic_hosts_cannot_have_is_told(file: Path, common: str, group: str, rest: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        elastic(file, common, group, rest)
    (mistake,) = refused.value.mistakes
    assert str(mistake).partition(": ")[2].startswith(said), mistake


def test_hosts_that_meet_know_which_job_it_is(file: Path) -> None:
    assert [words.partition(": is missing")[0] for words in told(file, 'backend = "etcd"', "nodes = 2")] == [
        "daemon.run_id"
    ]
