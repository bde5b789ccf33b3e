"""MASTER_PORT of a group: free, and kept for that group without anybody holding the TCP port itself.

Three things could take a port between choice and use. An outgoing connection of any process: so ports are chosen
outside the kernel's ephemeral range. Another group, or another rankd on this host: so a port is claimed first, by
binding an abstract unix socket named after it, which lives in the network namespace as the port does and dies with us
(unix(7)). A stranger's server: so a test bind shows that the port is free now, and well-known ports are left alone.
The port itself stays unbound: a worker may bind it with or without SO_REUSEADDR.
"""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SPOKEN_FOR = frozenset(
    {2379, 2380, 3000, 3306, 4000, 5000, 5432, 6006, 6379, 7077, 8000, 8080, 8081, 8265, 8786, 8787, 8888, 9090, 9091,
     9093, 9100, 9200, 9300, 9400, 10248, 10249, 10250, 10255, 10256, 10257, 10259, 10001, 11211, 11434, 15672, 16379,
     18080, 25672, 26379, 27017, 28017, 29400, 29500}
)  # fmt: skip
"""Defaults of what runs beside training jobs (torch's own 29400 and 29500, etcd, kubelet, redis, exporters ...)."""

_NODE_PORTS = 30_000
"""Where Kubernetes' NodePorts begin; a host's packet filter may carry them elsewhere."""

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


@dataclass(frozen=True, slots=True)
class PortRefused:
    """No port, and why, in words."""

    reason: str


class PortClaim:
    """``port`` is this group's until ``release`` or our death. ``fixed``: it was asked for by number."""

    __slots__ = ("_name", "fixed", "port")

    def __init__(self, port: int, name: socket.socket, fixed: bool) -> None:
        self.port = port
        self.fixed = fixed
        self._name = name

    def still_free(self) -> bool:
        """A worker could bind the port now. Ask while no worker of the group runs: asking binds it for a moment."""
        return _taken(self.port, shared=self.fixed) is None

    def release(self) -> None:
        """Others may have the port. May be called again."""
        self._name.close()


def claim_port(
    fixed: int = 0, *, chance: random.Random, rooms: Sequence[range] | None = None
) -> PortClaim | PortRefused:
    """Claim the port ``fixed``, or with 0 one by ``chance``.

    A chosen port is one that a plain bind gets: no listener, no connection, nothing in TIME_WAIT. A fixed one may have
    connections in TIME_WAIT as long as SO_REUSEADDR, which torch's TCPStore sets, gets past them. ``rooms`` are ranges
    to choose from, the best first; by default ``port_rooms()``.
    """
    if fixed:
        claim = _claim(fixed, fixed=True)
        if isinstance(claim, OSError):
            return PortRefused(f"port {fixed} {_words(claim)}")
        return claim or PortRefused(f"port {fixed} is claimed by another group or another rankd on this host")
    tried = 0
    for port in _candidates(port_rooms() if rooms is None else rooms, chance):
        claim = _claim(port, fixed=False)
        if isinstance(claim, PortClaim):
            return claim
        if claim is not None and claim.errno not in {errno.EADDRINUSE, errno.EACCES}:
            return PortRefused(f"no port can be claimed: {claim.strerror}")
        tried += 1
    return PortRefused(f"no port is free: all {tried} that may be chosen are claimed or in use")


def renew(claim: PortClaim, *, chance: random.Random, rooms: Sequence[range] | None = None) -> PortClaim | PortRefused:
    """The claim to use for the next attempt: the same one while its port is free, else another in its place.

    A fixed port is never exchanged; when it is refused the claim is kept, to be renewed later. When to ask: as for
    ``still_free``.
    """
    taken = _taken(claim.port, shared=claim.fixed)
    if taken is None:
        return claim
    if claim.fixed:
        return PortRefused(f"port {claim.port} {_words(taken)}")
    another = claim_port(chance=chance, rooms=rooms)
    if isinstance(another, PortClaim):
        claim.release()
    return another


def port_rooms(proc: str = "/proc/sys/net/ipv4") -> tuple[range, ...]:
    """Where to choose a port, the best room first: below the kernel's ephemeral ports, above them, last among them.

    In the last, for a host whose administrator gave all ports to the kernel, a connection may still take the port
    before the worker does.
    """
    first, last = _ephemeral(proc)
    edge = min(first, _NODE_PORTS)
    rooms = (
        range(10_000, edge),
        range(last + 1, 65_536),
        range(1024, min(first, 10_000)),
        range(max(edge, 1024), first),
        range(max(first, 1024), last + 1),
    )
    return tuple(room for room in rooms if room)


def reserved_ports(proc: str = "/proc/sys/net/ipv4") -> tuple[range, ...]:
    """Ports that the administrator set aside for somebody (ip_local_reserved_ports: ``8080,9148-9200``)."""
    ranges = []
    for part in _read(f"{proc}/ip_local_reserved_ports").split(","):
        first, _, last = part.strip().partition("-")
        if first:
            ranges.append(range(int(first), int(last or first) + 1))
    return tuple(ranges)


def _ephemeral(proc: str) -> tuple[int, int]:
    words = _read(f"{proc}/ip_local_port_range").split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else (32_768, 60_999)


def _read(path: str) -> str:
    """The file's text; empty when the kernel, or the container, does not show it."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _candidates(rooms: Sequence[range], chance: random.Random) -> Iterator[int]:
    """Every port that may be chosen, each room from a place of its own by chance and once around."""
    reserved = reserved_ports()
    for room in rooms:
        start = chance.randrange(len(room))
        for step in range(len(room)):
            port = room[(start + step) % len(room)]
            if port not in SPOKEN_FOR and not any(port in aside for aside in reserved):
                yield port


def _claim(port: int, *, fixed: bool) -> PortClaim | OSError | None:
    """The claim; None when somebody has claimed the port; the error when it cannot be bound."""
    try:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        return error
    try:
        name.bind(f"\0rankd/master-port/{port}")
    except OSError as error:
        name.close()
        return None if error.errno == errno.EADDRINUSE else error
    taken = _taken(port, shared=fixed)
    if taken is None:
        return PortClaim(port, name, fixed)
    name.close()
    return taken


def _taken(port: int, *, shared: bool) -> OSError | None:
    """Why a bind of this TCP port on all addresses fails now, ``shared`` with SO_REUSEADDR; None when it does not."""
    for family, everywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104  # closed at once
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if shared:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((everywhere, port))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in _NO_IPV6:
                continue
            return error
    return None


def _words(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use on this host by another program"
    return f"cannot be used: {os.strerror(error.errno or 0)}"
