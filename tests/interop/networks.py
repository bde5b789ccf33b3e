"""Hosts that are joined by a wire which can be cut: a network namespace each, on a bridge in another one.

Their addresses, 10.77.0.x, are known in these namespaces only. No packet gets out of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.end_to_end.rankd import PATIENCE

NOBODYS_CARD = "02:00:00:00:00:ff"

ASK = """
import http.client, sys
address, path, body = sys.argv[1:]
connection = http.client.HTTPConnection(address, timeout=10)
connection.request("POST" if body else "GET", path, body or None)
response = connection.getresponse()
print(response.status, response.read().decode())
"""


def missing() -> str:
    """Why there can be no such network here; empty when there can."""
    if os.geteuid():
        return "network namespaces are made by root"
    if shutil.which("ip") is None:
        return "needs ip: apt-get install iproute2"
    try:
        with network(()):
            return ""
    except OSError as error:
        return f"no network namespace can be made here: {error}"


class Namespace:
    """One host. ``through`` is to be put before the argv of who runs there."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.through = ("ip", "netns", "exec", name)

    def ask(self, address: str, path: str, body: str = "") -> tuple[int, str]:
        """Status and text of what listens there, ``HOST:PORT``. No cut reaches a host's own loopback."""
        argv = [*self.through, sys.executable, "-E", "-S", "-c", ASK, address, path, body]
        answer = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        status, _, text = answer.partition(" ")
        return int(status), text


class Network:
    """``switch`` is the host that all others are wired to; it can have an address and programs like them."""

    def __init__(self, switch: Namespace, hosts: dict[str, Namespace]) -> None:
        self.switch = switch
        self.hosts = hosts

    def unplug(self, name: str) -> None:
        """Cut that host off. It gets no error: what it sends is lost."""
        _ip(f"-n {self.switch.name} link set dev {name} down")

    def plug(self, name: str) -> None:
        _ip(f"-n {self.switch.name} link set dev {name} up")

    def lose_answers(self, name: str) -> None:
        """What the switch sends to that host is lost, by an address that no card has; the other way all is well."""
        _ip(f"{self._neighbour('replace', name)} lladdr {NOBODYS_CARD} nud permanent")

    def find_answers(self, name: str) -> None:
        _ip(self._neighbour("delete", name))

    def _neighbour(self, verb: str, name: str) -> str:
        return f"-n {self.switch.name} neighbour {verb} {self.hosts[name].address} dev bridge"


@contextmanager
def network(names: tuple[str, ...]) -> Iterator[Network]:
    """A network of these hosts, names of at most 15 characters. It is gone afterwards: end what runs there before."""
    with ExitStack() as made:
        switch = made.enter_context(_namespace("switch", "10.77.0.254"))
        _ip(f"-n {switch.name} link add name bridge type bridge")
        _ip(f"-n {switch.name} address add {switch.address}/24 dev bridge")
        _ip(f"-n {switch.name} link set dev bridge up")
        hosts = {}
        for number, name in enumerate(names, 1):
            host = hosts[name] = made.enter_context(_namespace(name, f"10.77.0.{number}"))
            _ip(f"-n {switch.name} link add name {name} type veth peer name wire netns {host.name}")
            _ip(f"-n {switch.name} link set dev {name} master bridge up")
            _ip(f"-n {host.name} address add {host.address}/24 dev wire")
            _ip(f"-n {host.name} link set dev wire up")
        yield Network(switch, hosts)


@contextmanager
def _namespace(name: str, address: str) -> Iterator[Namespace]:
    """One with loopback in it, and a name that no other process of tests gives."""
    namespace = Namespace(f"rankd-{os.getpid()}-{name}", address)
    _ip(f"netns add {namespace.name}")
    try:
        _ip(f"-n {namespace.name} link set dev lo up")
        yield namespace
    finally:
        _ip(f"netns delete {namespace.name}")


def _ip(words: str) -> None:
    argv = ["ip", *words.split()]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {words}: {done.stderr.strip()}")
