"""What this host is called."""

from __future__ import annotations

import socket

HOSTS = "/etc/hosts"


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
