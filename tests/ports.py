"""Ports for programs that have to be told one."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Below those that the kernel gives to whoever connects: nobody takes it before it is used."""
    while True:
        port = random.SystemRandom().randrange(21_000, 31_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
