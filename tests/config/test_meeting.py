"""Which hosts a group meets: what the tables say together, and what they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import load
from supervisor.errors import ConfigError
from supervisor.plan import GroupPlan, RendezvousRules

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
