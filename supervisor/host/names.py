"""What this host is called, and its users."""

from __future__ import annotations

import pwd
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

HOSTS = "/etc/hosts"

_ELSEWHERE = "http://192.0.2.1"
"""Nobody's address (RFC 5737), to which nothing is sent."""


def node_id() -> str:
    """The host's name, fully qualified if the host itself knows how.

    Only the kernel and /etc/hosts are asked: ``socket.getfqdn`` asks DNS, and where that is broken a start would wait
    for it for seconds.
    """
    name = socket.gethostname()
    if "." in name:
        return name
    try:
        with open(HOSTS, encoding="utf-8", errors="replace") as file:
            for line in file:
                names = line.partition("#")[0].split()[1:]
                if name in names:
                    return next((one for one in names if one.startswith(name + ".")), name)
    except OSError:
        return name
    return name


def address_for_others(urls: Sequence[str]) -> str:
    """The address by which this host reaches these URLs; if they are on the host itself, that of its way to others.

    Each host may have an etcd of its own, and 127.0.0.1 is another one to each of them. Raises ``OSError``.
    """
    found = address_towards(urls)
    if ip_address(found).is_loopback:
        with suppress(OSError):  # it has no way to others, so that nobody else is there
            return address_towards([_ELSEWHERE])
    return found


def address_towards(urls: Sequence[str]) -> str:
    """The address by which this host reaches the first of these URLs that it has a way to; nothing is sent.

    Raises ``OSError`` when it has a way to none. May take as long as the resolver does.
    """
    reasons = []
    for url in urls:
        found = urlsplit(url)
        try:
            (family, _, _, _, address), *_ = socket.getaddrinfo(
                found.hostname, found.port or 80, type=socket.SOCK_DGRAM
            )
            with socket.socket(family, socket.SOCK_DGRAM) as way:
                way.connect(address)
                addr: str = way.getsockname()[0]
                return addr
        except OSError as error:
            reasons.append(f"{url}: {error.strerror}")
    raise OSError(f"no way to {'; '.join(reasons)}")


def user_names(uids: Iterable[int]) -> Mapping[int, str]:
    """What these users are called on this host. Name services may take their time: not for the loop."""
    names = {}
    for uid in uids:
        try:
            names[uid] = pwd.getpwuid(uid).pw_name
        except KeyError:
            names[uid] = f"uid {uid}"
    return names
