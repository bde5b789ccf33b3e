"""What one client may cost: aiohttp's protocol for a connection, with the limits that it does not have itself.

aiohttp bounds each header line and closes idle connections. The head as a whole, the time that a request may take to
arrive and its answer to be read, and the number of connections are bounded here.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from supervisor.report.wire import say_no_more

TEXT = "text/plain; charset=utf-8"

FAREWELL = 1.0
"""Seconds that a client which broke a limit has to read why."""

RESET = struct.pack("ii", 1, 0)
"""struct linger of socket(7): on, for 0 seconds; close(2) then drops what is unsent and resets the connection."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes.

    ``request_within``: from the first byte of a request (or from connecting) until the answer is off our hands.
    ``head``: request line and headers together. ``idle_for``: longer than the 60 s after which load balancers drop
    an idle connection, so that it is they who close it and no request is sent into a closing one.
    """

    connections: int = 512
    head: int = 8192
    request_within: float = 5.0
    idle_for: float = 75.0


USUAL = Limits()


class Connections:
    """All that are open, and which of them are idle, each in the order of time."""

    def __init__(self, limits: Limits, refused: Callable[[int], None]) -> None:
        """``refused`` is called with the status of every request that was answered before it reached a page."""
        self.limits = limits
        self.refused = refused
        self._open: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, connection: Connection) -> None:
        """One more; where that is too many, the one that has been idle longest goes, else the oldest."""
        if len(self._open) >= self.limits.connections:
            eldest = next(iter(self._idle or self._open))
            self.closed(eldest)
            eldest.abort()
        self._open[connection] = None
        self._idle[connection] = None

    def busy(self, connection: Connection) -> None:
        """A request has begun to come in."""
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """Every request has been answered."""
        if connection in self._open:
            self._idle[connection] = None

    def closed(self, connection: Connection) -> None:
        """It is gone, or as good as gone."""
        self._open.pop(connection, None)
        self._idle.pop(connection, None)

    def abort(self) -> None:
        """Close all that are left."""
        for connection in list(self._open):
            connection.abort()


class Connection(web.RequestHandler):
    """One client."""

    __slots__ = ("_among", "_deadline", "_deaf", "_head", "_limits", "_lost", "_unanswered", "_wire")

    def __init__(self, server: web.Server, among: Connections) -> None:
        limits = among.limits
        quiet: dict[str, Any] = {"access_log": None}  # which aiohttp allows and its annotation does not
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle_for,
            tcp_keepalive=False,
            max_line_size=limits.head,
            max_field_size=limits.head,
            max_headers=limits.head,
            lingering_time=0,  # no body is waited for
            **quiet,
        )
        self._among = among
        self._limits = limits
        self._wire: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._head = 0  # bytes of a head that is not complete yet
        self._unanswered = 0  # requests that are complete
        self._deaf = False  # nothing that still comes is of interest
        self._lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport
        super().connection_made(transport)
        self._allow(self._limits.request_within)
        self._among.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disallow()
        self._among.closed(self)
        super().connection_lost(exc)
        if self._lost is not None:
            self._lost()

    def endure(self, lost: Callable[[], None]) -> None:
        """The answer under way has no end, so that no time is set for it; ``lost`` is called when the client goes."""
        self._disallow()
        self._lost = lost

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._unanswered:  # a body, or further requests: aiohttp pauses reading when they become too many
            self._parse(data)
            return
        self._among.busy(self)
        if self._deadline is None:
            self._allow(self._limits.request_within)
        room = self._limits.head - self._head
        if self._parse(data[:room]):
            self._head += min(room, len(data))
            if len(data) > room:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        else:
            self._head = 0
            if len(data) > room:
                self._parse(data[room:])

    def _parse(self, data: bytes) -> bool:
        """Whether the head that ``data`` belongs to is still incomplete."""
        before = self._request_count
        super().data_received(data)
        complete = self._request_count - before
        self._unanswered += complete
        return complete == 0

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._unanswered -= 1
            if not request.content.is_eof():
                self._deaf = True  # aiohttp closes the connection rather than wait for the body
            if not self._unanswered:
                self._disallow()
                self._among.idle(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 -- may quote the request, which is nobody's business
    ) -> web.StreamResponse:
        """What is answered when a request is malformed (400) or a page has raised (500).

        A client's mistake is counted and no more; one of ours goes to the loop's exception handler.
        """
        if status < 500:
            self._among.refused(status)
        else:
            self._loop.call_exception_handler(
                {"message": f"health listener: {request.method} {request.path} failed", "exception": exc}
            )
        response = text(status, HTTPStatus(status).phrase.lower())
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What went wrong in aiohttp itself goes there too, not into a log that nobody has set up."""
        what = f"health listener: {args[0] % args[1:]}"
        self._loop.call_exception_handler({"message": what, "exception": kw.get("exc_info")})

    def abort(self) -> None:
        """Close now, whatever is unread or unsent."""
        if self._wire is None:
            return
        if self._unanswered or self._wire.get_write_buffer_size():
            # Or else the kernel would go on offering the answer to a client that does not take it.
            self._wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._wire.abort()

    def _allow(self, seconds: float) -> None:
        self._deadline = self._loop.call_later(seconds, self._out_of_time)

    def _disallow(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _out_of_time(self) -> None:
        self._deadline = None
        if self._head and not self._deaf:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.abort()

    def _refuse(self, status: HTTPStatus) -> None:
        """Say why, hear no more, and close. Not at once: closing over unread bytes would take the words back (RST)."""
        assert self._wire is not None
        self._deaf = True
        self._among.refused(status)
        self.close()
        body = f"{status.phrase.lower()}\n"
        self._wire.write(
            f"HTTP/1.1 {status:d} {status.phrase}\r\nServer: rankd\r\nConnection: close\r\nCache-Control: no-store\r\n"
            f"Content-Type: {TEXT}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        say_no_more(self._wire)
        self._disallow()
        self._allow(FAREWELL)


def respond(status: int, body: str | bytes, content_type: str) -> web.Response:
    """A response that no cache keeps and that tells no version."""
    return web.Response(
        status=status,
        body=body.encode("utf-8", "replace") if isinstance(body, str) else body,
        headers={"Content-Type": content_type, "Cache-Control": "no-store", "Server": "rankd"},
    )


def text(status: int, words: str) -> web.Response:
    """A response of a few words, a reason a line."""
    return respond(status, words + "\n", TEXT)
