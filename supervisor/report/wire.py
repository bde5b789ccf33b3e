"""The last thing one does with a connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress


def say_no_more(wire: asyncio.WriteTransport) -> None:
    """Tell the other side that nothing follows (shutdown(2)); it may have reset the connection a moment ago."""
    if wire.can_write_eof():
        with suppress(OSError):
            wire.write_eof()
