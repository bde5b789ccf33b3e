"""``/events``: records as server-sent events (WHATWG HTML, 9.2), from where a client left off.

Each client has a place in the ring and is written to by a coroutine of its own, so that nobody waits for it. One that
takes nothing for a while is cut off; it finds the rest in the ring when it comes back, or is told what it has missed.
"""

from __future__ import annotations

import asyncio
import json
import re

from aiohttp import web

from supervisor.report.connection import Connection
from supervisor.report.ring import Ring

EVENT_STREAM = "text/event-stream"
MOST = 64
"""Streams at a time."""

PATIENCE = 5.0
"""Seconds in which a client has to take what is written to it."""

SIGN_OF_LIFE = 15.0
"""Seconds of silence after which a comment is sent: proxies drop what is silent for longer, and we notice the dead."""

BATCH = 64 * 1024
"""Bytes that are written at a time."""

HELLO = b"retry: 2000\n\n"
PLACE = re.compile(r"(?:([0-9a-f]{8})-)?([0-9]{1,15})")
"""What we say in ``id``; the plain number, as records have it in ``seq``, will do as well."""


class Streams:
    """All streams that are open."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._wakes: set[asyncio.Event] = set()
        self._over = False

    @property
    def full(self) -> bool:
        return len(self._wakes) >= MOST

    def end(self) -> None:
        """Every stream ends after what has been written to it so far, and none begins."""
        self._over = True
        for news in self._wakes:
            news.set()

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Write to one client until it goes, is too slow, or everything ends."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        news = asyncio.Event()
        connection.endure(news.set)
        response = web.StreamResponse(
            headers={
                "Content-Type": EVENT_STREAM,
                "Cache-Control": "no-store",
                "Server": "rankd",
                "X-Accel-Buffering": "no",  # or nginx would hand it on in lumps
            }
        )
        response.force_close()
        self._wakes.add(news)
        try:
            with self._ring.read(news.set):
                await response.prepare(request)
                await self._write(request, response, news)
        except (ConnectionError, TimeoutError):
            connection.abort()  # it has gone, or takes nothing
        finally:
            self._wakes.discard(news)
        return response

    async def _write(self, request: web.BaseRequest, response: web.StreamResponse, news: asyncio.Event) -> None:
        place, marker = self._begin(request)
        data = HELLO + marker
        while request.transport is not None:
            if data:
                async with asyncio.timeout(PATIENCE):
                    await response.write(data)
            elif self._over:
                return
            else:
                try:
                    async with asyncio.timeout(SIGN_OF_LIFE):
                        await news.wait()
                except TimeoutError:
                    data = b":\n\n"
                    continue
            news.clear()
            place, data = self._next(place)

    def _begin(self, request: web.BaseRequest) -> tuple[int, bytes]:
        """The number after which the client wants to hear, and what it must be told first."""
        ring = self._ring
        wanted = request.headers.get("Last-Event-ID") or request.query.get("since")
        if wanted is None:
            return ring.last, b""
        found = PLACE.fullmatch(wanted)
        if found and found[1] in {None, ring.epoch} and int(found[2]) <= ring.last:
            return int(found[2]), b""
        return 0, _lost(None, ring.oldest)  # it was with a daemon before this one

    def _next(self, place: int) -> tuple[int, bytes]:
        """What there is to say to a client that has heard everything up to ``place``, and the place after that."""
        ring = self._ring
        data = bytearray()
        if place + 1 < ring.oldest:
            data += _lost(ring.oldest - place - 1, ring.oldest)
        for number, line in ring.after(place):
            data += b"id: %s-%d\ndata: %s\n\n" % (ring.epoch.encode(), number, line)
            place = number
            if len(data) >= BATCH:
                return place, bytes(data)
        return ring.last, bytes(data)


def _lost(number: int | None, following: int) -> bytes:
    """The marker that stands where records are missing; None: nobody knows how many."""
    return b"event: lost\ndata: %s\n\n" % json.dumps({"lost": number, "next": following}).encode()
