"""How a connection is ended."""

from __future__ import annotations

import asyncio
import errno
import socket

from supervisor.report.wire import say_no_more


async def test_the_other_side_hears_that_nothing_follows() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        wire, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
        say_no_more(wire)
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
        wire.close()
        await asyncio.sleep(0)


def test_a_connection_that_was_reset_between_our_last_words_and_this_is_no_error() -> None:
    """HAProxy does so: it has read the line it wanted, and resets."""

    class Reset(asyncio.WriteTransport):
        asked = False

        def can_write_eof(self) -> bool:
            return True

        def write_eof(self) -> None:
            self.asked = True
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    wire = Reset()
    say_no_more(wire)
    assert wire.asked
