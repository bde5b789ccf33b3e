"""What the output tests look at from outside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable


def open_fds() -> list[str]:
    """This process's descriptors, with what each is open on."""
    return sorted(f"{fd} {link(fd)}" for fd in os.listdir("/proc/self/fd"))


def link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return "the listing itself"


async def until(condition: Callable[[], object]) -> None:
    """The loop turns, and nothing else happens, until it is so."""
    async with asyncio.timeout(45):
        while not condition():  # noqa: ASYNC110 -- what is waited for is told to nobody
            await asyncio.sleep(0)
