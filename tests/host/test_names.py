"""What this host is called, by itself."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from supervisor.host import names


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        ("127.0.0.1 localhost\n127.0.1.1 box.example.org box # box.example.com\n", "box.example.org"),
        ("10.0.0.1 box box.example.net\n", "box.example.net"),
        ("10.0.0.1 boxer.example.net\n10.0.0.2 box\n", "box"),
        ("", "box"),
        (None, "box"),
    ],
)
def test_a_hosts_name_is_found_without_asking_dns(
    hosts: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hosts is not None:
        (tmp_path / "hosts").write_text(hosts)
    monkeypatch.setattr(names, "HOSTS", str(tmp_path / "hosts"))
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    monkeypatch.setattr(socket, "getfqdn", lambda: time.sleep(60))
    assert names.node_id() == name
    monkeypatch.setattr(socket, "gethostname", lambda: "box.local")
    assert names.node_id() == "box.local"


def test_the_address_of_this_host_is_the_one_by_which_it_reaches_another() -> None:
    assert names.address_towards(["http://127.0.0.1:2379"]) == "127.0.0.1"
    assert names.address_towards(["http://nobody.invalid:1", "https://127.0.0.1"]) == "127.0.0.1"
    with pytest.raises(OSError, match=r"no way to http://nobody.invalid:1: "):
        names.address_towards(["http://nobody.invalid:1"])


@pytest.mark.parametrize(
    ("ways", "found"),
    [
        ({"http://etcd": "10.0.0.2"}, "10.0.0.2"),
        ({"http://etcd": "127.0.0.1", "http://192.0.2.1": "10.0.0.2"}, "10.0.0.2"),
        ({"http://etcd": "::1", "http://192.0.2.1": "10.0.0.2"}, "10.0.0.2"),
        ({"http://etcd": "127.0.0.1"}, "127.0.0.1"),
    ],
)
def test_others_are_not_told_the_address_of_a_store_that_each_has_for_itself(
    ways: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def towards(urls: list[str]) -> str:
        if urls[0] not in ways:
            raise OSError("Network is unreachable")
        return ways[urls[0]]

    monkeypatch.setattr(names, "address_towards", towards)
    assert names.address_for_others(["http://etcd"]) == found
