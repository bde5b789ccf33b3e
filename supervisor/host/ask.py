"""One question to a worker over TCP or HTTP, and its answer, in bounded time and space. No names are looked up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from errno import EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import NamedTuple

import anyio

from supervisor import __version__, clock, values

LATE = 1.0
"""Seconds beyond the deadline from which on it was us who did not run: the worker may have answered in time."""

LINE = 4096
BODY = 1 << 16
"""Bytes that a status line may have, and that are read of what follows."""

_SHORTAGE = frozenset({EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM})  # the first: no local port is free
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([ -~]*))?\r?\n")


class Answer(NamedTuple):
    """``passed`` None: nothing is known, because it was us who could not ask. ``output``: the last lines printed."""

    passed: bool | None
    reason: str = ""
    output: str = ""


def too_late(scope: anyio.CancelScope, within: float) -> Answer:
    """The answer when ``scope`` is at its end and there is none. To be asked for at once."""
    if clock.now() - scope.deadline > LATE:
        return Answer(None)
    return Answer(False, f"no answer within {within:g} s")


async def tcp(address: str, within: float) -> Answer:
    """Whether somebody takes a connection there. Raises ``ValueError`` for what is no address."""
    host, port = values.tcp_address(address)
    with anyio.move_on_after(within) as scope:
        try:
            async with _connected(host, port):
                return Answer(True)
        except OSError as error:
            return _failed(error)
    return too_late(scope, within)


async def http(url: str, within: float) -> Answer:
    """Whether a GET is answered by a status from 200 to 399. Raises ``ValueError`` for what is no URL."""
    host, port, path = values.http_url(url)
    name = f"[{host}]" if ":" in host else host
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nUser-Agent: rankd/{__version__}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    answer: Answer | None = None
    with anyio.move_on_after(within) as scope:
        try:
            async with _connected(host, port) as (reader, writer):
                writer.write(request.encode())
                answer = await _status(reader)
                # Whoever closes with something unread resets the connection, and a worker would write that in its log.
                with suppress(OSError):
                    await _to_the_end(reader)
        except OSError as error:
            answer = _failed(error)
    return too_late(scope, within) if answer is None else answer


@asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Raises ``OSError``."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1" if host == "localhost" else host, port, limit=LINE)
    except ConnectionRefusedError:
        if host != "localhost":
            raise
        reader, writer = await asyncio.open_connection("::1", port, limit=LINE)
    try:
        # With nobody there, a connection from the very port that it is to is one with itself (RFC 9293, 3.5).
        if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):
            raise ConnectionRefusedError
        yield reader, writer
    finally:
        writer.close()


async def _status(reader: asyncio.StreamReader) -> Answer:
    head = b""
    while b"\n" not in head and len(head) < LINE and (block := await reader.read(LINE)):
        head += block
    if not head:
        return Answer(False, "the connection was closed without an answer")
    match = _STATUS.match(head)
    if match is None:
        return Answer(False, "the answer is not HTTP")
    status, phrase = int(match[1]), (match[2] or b"").decode()[:80]
    return Answer(200 <= status < 400, f"status {status} {phrase}".rstrip())


async def _to_the_end(reader: asyncio.StreamReader) -> None:
    left = BODY
    while left > 0 and (block := await reader.read(LINE)):
        left -= len(block)


def _failed(error: OSError) -> Answer:
    if error.errno in _SHORTAGE:
        return Answer(None)
    words = error.strerror or type(error).__name__
    return Answer(False, "connection refused" if isinstance(error, ConnectionRefusedError) else words.lower())
